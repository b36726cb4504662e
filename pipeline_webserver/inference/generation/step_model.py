"""A causal model that computes packed steps: from chunks of sequences to the scores of each one's next token.

The model's own modules run as they are; only attention is replaced, while a step runs. It must never know sampling,
requests or loops.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.models.bloom.modeling_bloom import BloomAttention
from transformers.models.falcon.modeling_falcon import FalconAttention

from pipeline_webserver.inference import internals
from pipeline_webserver.inference.acceleration.onednn import computed_rows
from pipeline_webserver.inference.generation.own_attention import bloom_attention, falcon_attention
from pipeline_webserver.inference.generation.packed_attention import (
    ATTENTION,
    Chunk,
    PackedCache,
    PackedStep,
    packed_attention,
    running,
)

# Families that compute attention by themselves, and what replaces it while a step runs.
OWN_ATTENTION: dict[type[torch.nn.Module], Any] = {BloomAttention: bloom_attention, FalconAttention: falcon_attention}

# Rotary positions that the longest text of a pass scales, for all of its texts.
LENGTH_DEPENDENT = {"dynamic", "longrope"}


class NotSteppable(Exception):
    """Why a model cannot generate step by step, as the end of a sentence."""


class StepModel:
    """The model, with what its steps are given. Raises `NotSteppable`."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        config = model.config.get_text_config(decoder=True)
        if model.config.is_encoder_decoder:
            raise NotSteppable("it has an encoder")
        if internals.keeps_state(model):
            raise NotSteppable("it keeps a state besides keys and values")
        rope = getattr(config, "rope_parameters", None) or {}
        kinds = [rope, *(one for one in rope.values() if isinstance(one, dict))]
        if any(one.get("rope_type") in LENGTH_DEPENDENT for one in kinds):
            raise NotSteppable("its positions depend on the longest text")
        self._own = [module for module in model.modules() if type(module) in OWN_ATTENTION]
        if not self._own and not internals.can_set_attention(model):
            raise NotSteppable("it computes attention in its own way")
        self._configs = internals.attention_configs(model)
        names = inspect.signature(model.forward).parameters
        cache_name = next((name for name in ("cache", "past_key_values") if name in names), None)
        if cache_name is None or "logits_to_keep" not in names:
            raise NotSteppable("its forward pass takes no cache, or gives no choice of positions")
        self._takes_positions = "position_ids" in names
        self._cache = {cache_name: PackedCache(config.num_hidden_layers)}
        AttentionInterface.register(ATTENTION, packed_attention)

    def step(self, chunks: Sequence[Chunk]) -> torch.Tensor:
        """The scores of the token behind each chunk, `[chunks, vocabulary]`, in float32."""
        step = PackedStep.of(chunks, self.model.device)
        last = torch.nn.functional.pad(step.last, (0, computed_rows(len(step.last)) - len(step.last)))
        inputs = {"input_ids": step.input_ids, "logits_to_keep": last, "use_cache": True, **self._cache}
        if self._takes_positions:
            inputs["position_ids"] = step.position_ids
        with self._packed_attention(), running(step):
            logits: torch.Tensor = self.model(**inputs).logits
        return logits[0, : len(chunks)].float()

    @contextmanager
    def _packed_attention(self) -> Iterator[None]:
        """Attention of the packed step inside, the model's own outside."""
        if self._own:
            for module in self._own:
                module.forward = MethodType(OWN_ATTENTION[type(module)], module)
            try:
                yield
            finally:
                for module in self._own:
                    del module.forward
            return
        before = internals.attention_of(self.model)
        internals.use_attention(self._configs, ATTENTION)
        try:
            yield
        finally:
            internals.use_attention(self._configs, before)
