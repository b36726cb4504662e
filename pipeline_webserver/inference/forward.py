"""Forward passes: planning them, running them, and isolating the model input that fails.

Every model input gets the outputs it would get alone. It must never know inputs, parameters, requests or HTTP.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.pipelines.base import Pipeline, pad_collate_fn

from pipeline_webserver.inference.batch_plan import MAX_AUTO_TOKENS, BatchStrategy, same_length
from pipeline_webserver.inference.collation import (
    concat_inputs,
    split_outputs,
    stack_inputs,
    strip_padding,
    unbatch_outputs,
)
from pipeline_webserver.inference.model_inputs import Heartbeat, ModelInput, no_heartbeat
from pipeline_webserver.inference.module_state import ModuleState
from pipeline_webserver.telemetry import metrics

logger = logging.getLogger(__name__)

# What PyTorch says when memory runs out, besides its own exception for it.
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
# After so many passes without running out of memory, larger ones are tried again.
PASSES_TO_GROW = 100


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Random numbers begin at this seed inside, and continue outside as if nothing had happened."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out. PyTorch has an exception of its own for accelerators; on a CPU it is one of many."""
    is_reported = isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)
    return is_reported or isinstance(error, MemoryError | torch.OutOfMemoryError)


class ModelChanged(RuntimeError):
    """Inputs of different lengths shared a pass of a model that changes itself, perhaps by the longest of them."""


class ProgressCallback(StoppingCriteria):  # type: ignore[misc]
    """Stops no generation: it calls a heartbeat after each token."""

    def __init__(self, heartbeat: Heartbeat) -> None:
        self._heartbeat = heartbeat

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
        self._heartbeat()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


class ForwardRunner:
    """The forward passes of one pipeline. Until a strategy is set, no model input is padded.

    `by_shape`: model inputs of equal shapes are concatenated; otherwise they are token sequences, and collated.
    `generates`: each pass generates tokens. `max_tokens` limits a pass; by default `calibration` does.
    """

    def __init__(
        self, pipe: Pipeline, max_tokens: int | None = None, *, by_shape: bool = False, generates: bool = False
    ) -> None:
        self.pipe = pipe
        self.by_shape = by_shape
        self.generates = generates
        self.strategy: BatchStrategy = same_length("it is not calibrated yet")
        self.has_max_tokens = max_tokens is not None
        self.max_tokens = max_tokens or MAX_AUTO_TOKENS
        self.fixed_cost_tokens = 0.0
        self.padding_tokens = 0  # that the last run computed
        self.can_collate = not by_shape and pipe.tokenizer.pad_token_id is not None  # different lengths
        self.state = ModuleState(pipe.model)
        self._max_tokens_before = 0  # `max_tokens` before memory ran out
        self._passes_in_memory = 0
        self._collate = pad_collate_fn(pipe.tokenizer, None) if self.can_collate else stack_inputs
        self._pads_left = self.can_collate and pipe.tokenizer.padding_side == "left"

    def run(
        self, inputs: Sequence[ModelInput], heartbeat: Heartbeat = no_heartbeat, *, raise_errors: bool = False
    ) -> list[Any]:
        """The model's outputs for each input, or the exception that it fails with alone.

        `heartbeat` is called after each pass and each generated token. With `raise_errors`, raises what the model
        raises.
        """
        self.padding_tokens = 0
        attempt = self.forward if raise_errors else self._bisect
        outputs: list[Any] = [None] * len(inputs)
        for indices in self._passes(inputs):
            results = attempt([inputs[index] for index in indices], heartbeat)
            for index, result in zip(indices, results, strict=True):
                outputs[index] = result
        return outputs

    def _passes(self, inputs: Sequence[ModelInput]) -> Iterator[list[int]]:
        """Indices of the inputs of each pass: of one batch key, as the strategy plans them."""
        groups: dict[object, list[int]] = {}
        for index, model_input in enumerate(inputs):
            groups.setdefault(model_input.batch_key, []).append(index)
        for group in groups.values():
            lengths = [inputs[index].num_tokens for index in group]
            for planned in self.strategy.plan(lengths, self.max_tokens, self.fixed_cost_tokens):
                yield [group[index] for index in planned]

    def forward(self, inputs: Sequence[ModelInput], heartbeat: Heartbeat = no_heartbeat) -> list[Any]:
        """The outputs for each input, from one pass; raises what the model raises."""
        parameters = inputs[0].forward_parameters
        if self.generates:
            criteria = [ProgressCallback(heartbeat), *parameters.get("stopping_criteria", ())]
            parameters = {**parameters, "stopping_criteria": StoppingCriteriaList(criteria)}
        try:
            with self.state.kept(), seeded(inputs[0].seed):
                outputs = self._forward(inputs, parameters)
            self._check_state(inputs)
            return outputs
        finally:  # a pass that failed was progress, too
            heartbeat()

    def settle(self, inputs: Sequence[ModelInput]) -> None:
        """Run the first passes, after which the model is what it stays. Raises `ConfigurationError`."""
        self.state.settle(lambda: self._forward(inputs, inputs[0].forward_parameters))

    def _forward(self, inputs: Sequence[ModelInput], parameters: dict[str, Any]) -> list[Any]:
        tensors = [model_input.tensors for model_input in inputs]
        if len(inputs) == 1:
            return [self.pipe.forward(dict(tensors[0]), **parameters)]
        if self.by_shape:
            return split_outputs(self.pipe.forward(concat_inputs(tensors), **parameters), len(inputs))
        lengths = [model_input.num_tokens for model_input in inputs]
        self.padding_tokens += self.strategy.computed_tokens(lengths) - sum(lengths)
        rows = unbatch_outputs(self.pipe.forward(self._collate(tensors), **parameters), len(inputs))
        return [
            strip_padding(outputs, row, length, max(lengths), left=self._pads_left)
            for row, length, outputs in zip(tensors, lengths, rows, strict=True)
        ]

    def _check_state(self, inputs: Sequence[ModelInput]) -> None:
        """The last pass may have changed the model: from now on only equal lengths share one.

        Raises `ModelChanged` if others did, since one of them may have been computed as another one needs it.
        """
        if not self.state.changed_by_last:
            return
        reason = f"a pass changes the model itself ({', '.join(sorted(self.state.changed))})"
        if self.strategy.kind in {"padded", "unpadded"}:
            self.strategy = same_length(reason)
        if len({model_input.num_tokens for model_input in inputs}) > 1:
            raise ModelChanged(reason)

    # Failures

    def _bisect(self, inputs: Sequence[ModelInput], heartbeat: Heartbeat) -> list[Any]:
        """A pass; if it fails, its halves by themselves, so that only those fail that fail alone."""
        try:
            outputs = self.forward(inputs, heartbeat)
        except Exception as error:
            if is_out_of_memory(error):
                self._shrink(inputs, error)
            if len(inputs) == 1:
                return [error]
            logger.warning("A forward pass of %d inputs failed (%s); retrying its halves.", len(inputs), error)
        else:
            self._grow()
            return outputs
        middle = len(inputs) // 2
        return self._bisect(inputs[:middle], heartbeat) + self._bisect(inputs[middle:], heartbeat)

    def _shrink(self, inputs: Sequence[ModelInput], error: Exception) -> None:
        """Memory ran out: for a while, no pass is larger than the halves that are tried next."""
        metrics.OUT_OF_MEMORY.inc()
        error.__traceback__ = None  # it holds all that the pass had computed
        if self.pipe.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(inputs) > 1:
            tokens = self.strategy.computed_tokens([model_input.num_tokens for model_input in inputs])
            self._max_tokens_before = max(self._max_tokens_before, self.max_tokens)
            self.max_tokens = max(1, min(self.max_tokens, tokens // 2))
            self._passes_in_memory = 0
            logger.warning("Out of memory with %d tokens; the limit of a pass is now %d.", tokens, self.max_tokens)

    def _grow(self) -> None:
        """A pass succeeded: after many of them, larger ones are tried again."""
        if self.max_tokens >= self._max_tokens_before:
            return
        self._passes_in_memory += 1
        if self._passes_in_memory >= PASSES_TO_GROW:
            self._passes_in_memory = 0
            self.max_tokens = min(2 * self.max_tokens, self._max_tokens_before)
