"""Feature extraction: what a model makes of each token or, by its sentence-transformers configuration, an embedding.

It must never know requests or HTTP.
"""

import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, ClassVar

import numpy as np
import torch
from transformers.pipelines.base import Pipeline

from pipeline_webserver.errors import Malformed, Rejected
from pipeline_webserver.inference.embeddings.sentence_embedding import SentenceEmbedding, count_prompt_tokens
from pipeline_webserver.inference.model_inputs import Limits, ModelInput
from pipeline_webserver.inference.preprocessing.base import CheckedInput, Postprocess
from pipeline_webserver.inference.preprocessing.text import TextPreprocessor
from pipeline_webserver.model_info import ModelInfo

logger = logging.getLogger(__name__)

# Parameters that only a sentence-transformers configuration gives a meaning.
EMBEDDING_PARAMETERS = ("normalize", "prompt_name", "dimensions")


class FeatureExtractionPreprocessor(TextPreprocessor):
    """Texts.

    With the parameter `pooled`, and a configuration of the model for it, the result is an embedding: of the text behind
    the configured prompt, truncated to the configured length unless `truncation` is false.
    """

    truncation: ClassVar[Mapping[str, object]] = {"truncation": True}

    def __init__(self, pipe: Pipeline, limits: Limits) -> None:
        super().__init__(pipe, limits)
        checkpoint = getattr(pipe, "checkpoint", None)  # None: constructed, not loaded
        self.embedding: SentenceEmbedding | None = getattr(checkpoint, "embedding", None)
        self._no_embedding: str | None = getattr(checkpoint, "no_embedding", None)
        if self._no_embedding:
            logger.warning("%s", self._no_embedding)
        self._prompt_tokens = lru_cache(64)(self._count_prompt_tokens)

    def describe(self, info: ModelInfo) -> ModelInfo:
        embedding = None if self.embedding is None else self.embedding.describe()
        return replace(info, embedding=embedding, no_embedding=self._no_embedding)

    def check(self, value: Any, parameters: Mapping[str, Any]) -> CheckedInput:
        checked = super().check(value, parameters)
        if embedding := self._requested_embedding(parameters):
            checked.postprocess["embed"] = partial(
                embedding.embed,
                prompt_tokens=self._prompt_tokens(parameters.get("prompt_name")),
                normalize=parameters.get("normalize"),
                dimensions=parameters.get("dimensions"),
            )
        return checked

    def _requested_embedding(self, parameters: Mapping[str, Any]) -> SentenceEmbedding | None:
        return self.embedding if parameters.get("pooled") else None

    def adapt_input(self, value: Any, parameters: Mapping[str, Any]) -> Any:
        embedding = self._requested_embedding(parameters)
        return value if embedding is None else embedding.text(value, parameters.get("prompt_name"))

    def pipeline_parameters(self, value: Any, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        embedding = self._requested_embedding(parameters)
        if embedding is None:
            if unusable := [name for name in EMBEDDING_PARAMETERS if name in parameters]:
                raise Rejected(f"Parameter {unusable[0]!r}: this model has no sentence-transformers configuration.")
            return super().pipeline_parameters(value, parameters)
        if (dimensions := parameters.get("dimensions", 1)) > embedding.dim:
            raise Malformed(f"Parameter 'dimensions' is {dimensions}; the model's embeddings have {embedding.dim}.")
        pipeline_parameters = dict(super().pipeline_parameters(value, {"truncation": True, **parameters}))
        limits = [limit for limit in (embedding.max_tokens, self.max_tokens) if limit is not None]
        if pipeline_parameters["truncation"] and limits:
            truncation = pipeline_parameters.pop("truncation")
            pipeline_parameters["tokenize_kwargs"] = {"truncation": truncation, "max_length": min(limits)}
        return pipeline_parameters

    def _count_prompt_tokens(self, name: str | None) -> int:
        assert self.embedding is not None, "only its own prompts are counted"
        if not (prompt := self.embedding.text("", name)):
            return 0
        return count_prompt_tokens(self.pipe.tokenizer(prompt)["input_ids"], self.pipe.tokenizer.all_special_ids)

    # The side at which texts are truncated

    def tokenize_key(self, checked: CheckedInput) -> Hashable:
        return (super().tokenize_key(checked), checked.parameters.get("truncation_direction"))

    def tokenize_group(self, group: Sequence[CheckedInput], options: dict[str, Any]) -> None:
        with self._truncation_side(group[0]):
            super().tokenize_group(group, options)

    def tensors(self, checked: CheckedInput) -> Iterable[Any]:
        with self._truncation_side(checked):
            return super().tensors(checked)

    @contextmanager
    def _truncation_side(self, checked: CheckedInput) -> Iterator[None]:
        tokenizer = self.pipe.tokenizer
        default = tokenizer.truncation_side
        tokenizer.truncation_side = checked.parameters.get("truncation_direction", default)
        try:
            yield
        finally:
            tokenizer.truncation_side = default

    def make_postprocess(self, pipe: Pipeline) -> Postprocess:
        return features

    def numbers_read(self, model_input: ModelInput, outputs: Any) -> torch.Tensor:
        hidden: torch.Tensor = next(iter(outputs.values()))
        return hidden.flatten()


def features(outputs: Any, embed: Callable[[torch.Tensor], np.ndarray] | None = None, **parameters: Any) -> np.ndarray:
    """The pipeline's result, float64 `[1, tokens, hidden]`, as an array of the same numbers; or an embedding.

    Not as lists: those take as long to make as to write.
    """
    hidden: torch.Tensor = next(iter(outputs.values()))
    if embed is not None:
        return embed(hidden)
    numbers: np.ndarray = hidden.double().numpy()
    return numbers
