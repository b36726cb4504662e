"""Forward passes: which rows share one, running it, and telling apart the row that fails from those that do not.

Every row comes out as it would have, had it run alone. It must never know inputs, parameters, requests or HTTP.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.pipelines.base import Pipeline, pad_collate_fn
from transformers.pipelines.pt_utils import PipelineIterator

logger = logging.getLogger(__name__)

# By what `auto` means for the token limit: more never pays, and fewer would trust a measurement too far.
MOST_AUTO_TOKENS, LEAST_AUTO_TOKENS = 16_384, 256


@dataclass(slots=True)
class Row:
    """One model input of one row, tensors of `[1, tokens, ...]`, and its length in tokens."""

    inputs: Mapping[str, Any]
    forward_parameters: dict[str, Any]
    length: int

    @property
    def kind(self) -> str:
        """Rows of one kind can share a pass."""
        return repr((sorted(self.inputs), sorted(self.forward_parameters.items())))


# Decisions


def plan_passes(lengths: Sequence[int], max_tokens: int, fixed_cost_tokens: float) -> list[list[int]]:
    """Which rows share a pass, as indices into `lengths` (tokens a row).

    A pass costs `fixed_cost_tokens` plus its padded tokens. Taken by length, a row joins a pass only while the padding
    that it causes costs no more than a pass of its own, and the padded pass has at most `max_tokens`.
    """
    passes: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if passes:
            last = passes[-1]
            padding = (lengths[row] - lengths[last[-1]]) * len(last)
            if padding <= fixed_cost_tokens and lengths[row] * (len(last) + 1) <= max_tokens:
                last.append(row)
                continue
        passes.append([row])
    return passes


def enough_tokens(fixed_cost_tokens: float) -> int:
    """The smallest pass that reaches 95 % of the best throughput, when a pass costs a fixed part and one a token."""
    return min(MOST_AUTO_TOKENS, max(LEAST_AUTO_TOKENS, round(19 * fixed_cost_tokens)))


def cut_padding(outputs: Any, inputs: Mapping[str, Any], length: int, padded: int, *, left: bool) -> Any:
    """One row's model outputs without what was computed for padding.

    Cut along the second dimension: what came in as `[1, tokens]`, and what has the shape `[1, tokens, ...]`.
    `[1, labels]` stays whole, even where there are as many labels as tokens.
    """
    if length == padded:
        return outputs
    for name, value in outputs.items():
        is_sequence = isinstance(value, torch.Tensor) and value.ndim >= 2 and value.shape[1] == padded
        if is_sequence and (value.ndim >= 3 or name in inputs):
            outputs[name] = value[:, -length:] if left else value[:, :length]
    return outputs


def stack(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows of equal length as one batch, for tokenizers that have no padding token."""
    values = {name: [row[name] for row in rows] for name in rows[0]}
    return {name: torch.cat(all_) if isinstance(all_[0], torch.Tensor) else all_ for name, all_ in values.items()}


# Running


class Passes:
    """The forward passes of one pipeline. `measure` comes first: until then no row shares a pass with a longer one."""

    def __init__(self, pipe: Pipeline, max_tokens: int | None) -> None:
        self.pipe = pipe
        self.max_tokens = max_tokens or MOST_AUTO_TOKENS
        self.fixed_cost_tokens = 0.0
        self.can_pad = False
        self._auto = max_tokens is None
        self._left = pipe.tokenizer.padding_side == "left"
        self._collate = pad_collate_fn(pipe.tokenizer, None) if pipe.tokenizer.pad_token_id is not None else stack

    def measure(self, short: Sequence[Row], long: Sequence[Row]) -> None:
        """Learn what a pass costs, a fixed time and a time for each token, and whether padding changes the answers."""
        (few, fast_s), (many, slow_s) = self._time(short), self._time(long)
        per_token_s = max((slow_s - fast_s) / max(many - few, 1), 1e-9)
        self.fixed_cost_tokens = max(0.0, fast_s / per_token_s - few)
        self.can_pad = self._collate is not stack and self._padding_is_exact([*short, *long])
        if self._auto:
            self.max_tokens = enough_tokens(self.fixed_cost_tokens)

    def run(self, rows: Sequence[Row]) -> list[Any]:
        """The model's outputs, or the exception, of each row; rows of one kind share passes."""
        outputs: list[Any] = [None] * len(rows)
        for kind in dict.fromkeys(row.kind for row in rows):
            alike = [index for index, row in enumerate(rows) if row.kind == kind]
            lengths = [rows[index].length for index in alike]
            for planned in plan_passes(lengths, self.max_tokens, self.fixed_cost_tokens if self.can_pad else 0.0):
                members = [alike[index] for index in planned]
                for index, result in zip(members, self._halving([rows[i] for i in members]), strict=True):
                    outputs[index] = result
        return outputs

    def one(self, rows: Sequence[Row]) -> list[Any]:
        """The outputs of each row in one pass; raises what the model raises."""
        forward = rows[0].forward_parameters
        if len(rows) == 1:
            return [self.pipe.forward(rows[0].inputs, **forward)]
        batch = self._collate([row.inputs for row in rows])
        padded = max(row.length for row in rows)
        separate = PipelineIterator([batch], self.pipe.forward, forward, loader_batch_size=len(rows))
        return [
            cut_padding(outputs, row.inputs, row.length, padded, left=self._left)
            for row, outputs in zip(rows, separate, strict=True)
        ]

    def _halving(self, rows: Sequence[Row]) -> list[Any]:
        """A pass; if it fails, its halves by themselves, so that only rows that fail alone fail."""
        try:
            return self.one(rows)
        except Exception as error:
            if len(rows) == 1:
                return [error]
            logger.warning("A pass of %d failed (%s); trying its halves.", len(rows), error)
        middle = len(rows) // 2
        return self._halving(rows[:middle]) + self._halving(rows[middle:])

    def _time(self, rows: Sequence[Row]) -> tuple[int, float]:
        """Tokens, and the seconds of the fastest of a few passes; the first ones also warm up."""
        times = []
        for _ in range(5):
            start = time.perf_counter()
            self.one(rows)
            times.append(time.perf_counter() - start)
        return sum(row.length for row in rows), min(times)

    def _padding_is_exact(self, rows: Sequence[Row]) -> bool:
        """Whether rows that share a pass come out as they do alone: some models look at the padding, or refuse it."""
        alone = [self.one([row])[0] for row in rows]
        try:
            worst = max(difference(one, other) for one, other in zip(alone, self.one(rows), strict=True))
        except Exception as error:
            logger.warning("This model takes no padding (%s): only inputs of equal length share a pass.", error)
            return False
        exact = worst <= (1e-4 if self.pipe.model.dtype == torch.float32 else 5e-2)
        if not exact:
            logger.warning("Padding changes the answers by %.1e: only inputs of equal length share a pass.", worst)
        return exact


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """The largest difference of two outputs' numbers, relative to the largest number."""
    worst = 0.0
    for name, value in one.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            scale = max(1.0, value.abs().max().item())
            worst = max(worst, (value - other[name]).abs().max().item() / scale)
    return worst
