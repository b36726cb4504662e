"""Forward passes: which rows share one, running it, and telling apart the row that fails from those that do not.

Every row comes out as it would have, had it run alone. It must never know inputs, parameters, requests or HTTP.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers.pipelines.base import Pipeline, pad_collate_fn
from transformers.pipelines.pt_utils import PipelineIterator

from pipeline_webserver.errors import first_line
from pipeline_webserver.inference.acceleration.selection import tolerance_of, worst_difference
from pipeline_webserver.inference.batch_plan import MOST_AUTO_TOKENS, enough_tokens, plan_in_order, plan_passes
from pipeline_webserver.inference.collation import joined, parts
from pipeline_webserver.telemetry import metrics

logger = logging.getLogger(__name__)

# What PyTorch says when memory is short, besides its own exception for it.
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")

# After so many passes without running out of memory, larger ones are tried again.
PASSES_TO_GROW = 100
# Rows in the larger of the two passes that tell a pass's costs.
MANY = 8
# Rotary positions that are stretched by the longest text of a pass.
STRETCHED = {"dynamic", "longrope"}


@dataclass(slots=True)
class Row:
    """One model input of one row, tensors of `[1, ...]`, and its length: tokens, or what costs as much as so many."""

    inputs: Mapping[str, Any]
    forward_parameters: dict[str, Any]
    length: int
    apart: str = ""  # what else rows have to have in common to share a pass
    seed: int | None = None  # of what is random in its pass

    @property
    def kind(self) -> str:
        """Rows of one kind can share a pass."""
        return repr((sorted(self.inputs), sorted(self.forward_parameters.items()), self.apart))


def cut_padding(outputs: Any, inputs: Mapping[str, Any], length: int, padded: int, *, left: bool) -> Any:
    """One row's model outputs without what was computed for padding.

    Cut along the second dimension: what came in as `[1, tokens]`, and what has the shape `[1, tokens, ...]`.
    `[1, labels]` stays whole, even where there are as many labels as tokens. What was written goes on from its padding.
    """
    if length == padded:
        return outputs
    if "generated_sequence" in outputs:
        outputs["generated_sequence"] = outputs["generated_sequence"][:, :, padded - length :]
    for name, value in outputs.items():
        is_sequence = isinstance(value, torch.Tensor) and value.ndim >= 2 and value.shape[1] == padded
        if is_sequence and (value.ndim >= 3 or name in inputs):
            outputs[name] = value[:, -length:] if left else value[:, :length]
    return outputs


def stack(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows of equal length as one batch, for tokenizers that have no padding token."""
    values = {name: [row[name] for row in rows] for name in rows[0]}
    return {name: torch.cat(all_) if isinstance(all_[0], torch.Tensor) else all_ for name, all_ in values.items()}


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """What is random in it begins at this seed, if there is one, and nothing else is changed by that."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def is_out_of_memory(error: Exception) -> bool:
    """PyTorch has an exception of its own for accelerators; on a CPU it is one among many."""
    told = isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)
    return told or isinstance(error, MemoryError | torch.OutOfMemoryError)


def stretched_positions(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The parts of a model that stretch a text's positions by the length of the longest in its pass."""
    kinds = [(part, getattr(part, "rope_type", None)) for part in model.modules()]
    return [part for part, kind in kinds if STRETCHED & set(kind.values() if isinstance(kind, dict) else [kind])]


def forget_lengths(parts: Sequence[torch.nn.Module]) -> None:
    """Make them stretch by the next pass only: they keep the length of the longest text that they have seen."""
    for part in parts:
        for name in [name for name in vars(part) if name.endswith("max_seq_len_cached")]:
            setattr(part, name, 0)


# Running


class Passes:
    """The forward passes of one pipeline. `measure` comes first: until then no row shares a pass with a longer one."""

    def __init__(
        self, pipe: Pipeline, max_tokens: int | None, *, by_shape: bool = False, why_alone: str | None = None
    ) -> None:
        self.pipe = pipe
        self.by_shape = by_shape  # rows share a pass by the shapes of their tensors, without padding
        self.max_tokens = max_tokens or MOST_AUTO_TOKENS
        self.fixed_cost_tokens = 0.0
        self.why_not_padded: str | None = "it was not tried"
        self._stretched = stretched_positions(pipe.model)
        self.why_alone = why_alone
        if self._stretched:
            self.why_alone = "the longest text of a pass moves the positions of the others"
        self.padding_is_free = False
        self.on_progress: Callable[[], None] = lambda: None  # a long run tells that it goes on
        self.padding_tokens = 0  # that the last run computed
        self._begun = False
        self._most_tokens = 0  # `max_tokens` before memory was short
        self._passes_in_memory = 0
        self._auto = max_tokens is None
        self.can_collate = not by_shape and pipe.tokenizer.pad_token_id is not None  # rows of different lengths
        self._collate = pad_collate_fn(pipe.tokenizer, None) if self.can_collate else stack
        self._left = self.can_collate and pipe.tokenizer.padding_side == "left"

    def measure(self, row: Row) -> None:
        """Learn what a pass costs, a fixed time and a time for each token, from passes of one such row and of many.

        Some models take only one row: a classifier that reads the last token, and knows no padding token to find it.
        """
        one_s = self._time([row])
        try:
            many_s = self._time([row] * MANY)
        except Exception as error:
            self.why_alone, many_s = first_line(error), MANY * one_s
        per_token_s = max((many_s - one_s) / ((MANY - 1) * row.length), 1e-9)
        self.fixed_cost_tokens = max(0.0, one_s / per_token_s - row.length)
        if self._auto:
            self.max_tokens = enough_tokens(self.fixed_cost_tokens)

    def try_sharing(self, rows: Sequence[Row]) -> None:
        """Learn whether rows of these lengths come out of one pass as they do alone: some models look at padding."""
        if not self.by_shape:
            self.why_not_padded = self._why_not_shared(rows)
        elif self.why_alone is None:
            self.why_alone = self._why_not_shared(rows)

    @property
    def _company(self) -> str:
        return "company" if self.by_shape else "padding"

    @property
    def can_pad(self) -> bool:
        return self.why_not_padded is None

    def run(self, rows: Sequence[Row]) -> list[Any]:
        """The model's outputs, or the exception, of each row; rows of one kind share passes."""
        self._begun, self.padding_tokens = False, 0
        return self._run(rows, self._halving)

    def run_strictly(self, rows: Sequence[Row]) -> list[Any]:
        """The same, but raises what the model raises."""
        return self._run(rows, self.one)

    def _run(self, rows: Sequence[Row], attempt: Callable[[Sequence[Row]], list[Any]]) -> list[Any]:
        outputs: list[Any] = [None] * len(rows)
        for kind in dict.fromkeys(row.kind for row in rows):
            alike = [index for index, row in enumerate(rows) if row.kind == kind]
            for planned in self._plan([rows[index].length for index in alike]):
                members = [alike[index] for index in planned]
                for index, result in zip(members, attempt([rows[i] for i in members]), strict=True):
                    outputs[index] = result
        return outputs

    def _plan(self, lengths: Sequence[int]) -> list[list[int]]:
        if self.why_alone is not None:
            return [[row] for row in range(len(lengths))]
        if self.padding_is_free:
            return plan_in_order(lengths, self.max_tokens)
        return plan_passes(lengths, self.max_tokens, self.fixed_cost_tokens if self.can_pad else 0.0)

    def one(self, rows: Sequence[Row]) -> list[Any]:
        """The outputs of each row in one pass; raises what the model raises."""
        if self._begun:
            self.on_progress()
        self._begun = True
        forget_lengths(self._stretched)
        with seeded(rows[0].seed):
            return self._forward(rows)

    def _forward(self, rows: Sequence[Row]) -> list[Any]:
        forward = rows[0].forward_parameters
        if len(rows) == 1:
            return [self.pipe.forward(dict(rows[0].inputs), **forward)]
        if self.by_shape:
            return parts(self.pipe.forward(joined([row.inputs for row in rows]), **forward), len(rows))
        batch = self._collate([row.inputs for row in rows])
        padded = max(row.length for row in rows)
        self.padding_tokens += self._tokens(rows) - sum(row.length for row in rows)
        separate = PipelineIterator([batch], self.pipe.forward, forward, loader_batch_size=len(rows))
        return [
            cut_padding(outputs, row.inputs, row.length, padded, left=self._left)
            for row, outputs in zip(rows, separate, strict=True)
        ]

    def _tokens(self, rows: Sequence[Row]) -> int:
        """What a pass of these rows computes."""
        lengths = [row.length for row in rows]
        return sum(lengths) if self.padding_is_free else max(lengths) * len(rows)

    def _halving(self, rows: Sequence[Row]) -> list[Any]:
        """A pass; if it fails, its halves by themselves, so that only rows that fail alone fail."""
        try:
            outputs = self.one(rows)
        except Exception as error:
            if is_out_of_memory(error):
                self._out_of_memory(rows, error)
            if len(rows) == 1:
                return [error]
            logger.warning("A pass of %d failed (%s); trying its halves.", len(rows), error)
        else:
            self._within_memory()
            return outputs
        middle = len(rows) // 2
        return self._halving(rows[:middle]) + self._halving(rows[middle:])

    def _out_of_memory(self, rows: Sequence[Row], error: Exception) -> None:
        """Of several rows: for a while, no pass is larger than the halves that are tried next."""
        metrics.OUT_OF_MEMORY.inc()
        error.__traceback__ = None  # it holds all that the pass had computed
        if self.pipe.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(rows) > 1:
            self._most_tokens = max(self._most_tokens, self.max_tokens)
            self.max_tokens = max(1, min(self.max_tokens, self._tokens(rows) // 2))
            self._passes_in_memory = 0
            logger.warning("Out of memory with %d tokens; from now on, %d.", self._tokens(rows), self.max_tokens)

    def _within_memory(self) -> None:
        """A pass went well: after many of them, larger ones may be tried again."""
        if self.max_tokens >= self._most_tokens:
            return
        self._passes_in_memory += 1
        if self._passes_in_memory >= PASSES_TO_GROW:
            self._passes_in_memory = 0
            self.max_tokens = min(2 * self.max_tokens, self._most_tokens)

    def _time(self, rows: Sequence[Row]) -> float:
        """The seconds of the fastest of a few passes; the first ones also warm up."""
        times: list[float] = []
        while len(times) < 2 or (len(times) < 4 and sum(times) < 0.2):
            start = time.perf_counter()
            self.one(rows)
            times.append(time.perf_counter() - start)
        return min(times)

    def _why_not_shared(self, rows: Sequence[Row]) -> str | None:
        if not self.can_collate and not self.by_shape:
            return "the tokenizer has no padding token"
        alone = [numbers(self.one([row])[0]) for row in rows]
        try:
            worst = worst_difference(alone, [numbers(outputs) for outputs in self.one(rows)])
        except Exception as error:
            return f"this model takes no {self._company} ({first_line(error)})"
        if worst > tolerance_of(self.pipe.model.dtype):
            return f"{self._company} changes the answers by {worst:.1e}"
        return None


def numbers(outputs: Any) -> torch.Tensor:
    """All that a model computed for a row, in one dimension; of tokens, which are or are not equal, the digits."""
    tensors = list(tensors_in(outputs))
    floats = [tensor.flatten() for tensor in tensors if tensor.is_floating_point()]
    whole = [tensor.flatten()[:, None] >> torch.arange(0, 64, 4) & 15 for tensor in tensors if is_token(tensor)]
    return torch.cat(floats or [digits.flatten().float() for digits in whole])


def is_token(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() and tensor.dtype != torch.bool


def tensors_in(outputs: Any) -> Iterator[torch.Tensor]:
    if isinstance(outputs, torch.Tensor):
        yield outputs
    elif isinstance(outputs, Mapping | tuple | list):
        for value in outputs.values() if isinstance(outputs, Mapping) else outputs:
            yield from tensors_in(value)
