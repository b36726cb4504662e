"""Which model inputs share a forward pass, and how many tokens one takes: pure functions of lengths and costs, in
tokens.

It must never know models, nor how a pass is run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

# The range of `auto` for the token limit: more never pays, and fewer would trust a measurement too far.
MAX_AUTO_TOKENS, MIN_AUTO_TOKENS = 16_384, 256
# How much larger than its tokens a pass may be with its padding, where padding costs no time: it still costs memory.
MAX_PADDED = 8


@dataclass(frozen=True, slots=True)
class BatchStrategy:
    """How model inputs share passes, from the least sharing to the most, and why not more.

    `alone`: one a pass. `same_shape`: equal shapes are concatenated. `same_length`: equal lengths are stacked.
    `padded`: similar lengths, as far as their padding pays. `unpadded`: in their order, since padding costs no time.
    """

    kind: Literal["alone", "same_shape", "same_length", "padded", "unpadded"]
    reason: str | None = None

    def plan(self, lengths: Sequence[int], max_tokens: int, fixed_cost_tokens: float) -> list[list[int]]:
        """Passes as lists of indices into `lengths` (tokens of each model input)."""
        if self.kind == "alone":
            return [[index] for index in range(len(lengths))]
        if self.kind == "unpadded":
            return plan_in_order(lengths, max_tokens)
        return plan_passes(lengths, max_tokens, fixed_cost_tokens if self.kind == "padded" else 0.0)

    def computed_tokens(self, lengths: Sequence[int]) -> int:
        """What a pass of these model inputs computes, padding included."""
        return sum(lengths) if self.kind == "unpadded" else max(lengths) * len(lengths)


def alone(reason: str) -> BatchStrategy:
    return BatchStrategy("alone", reason)


def same_length(reason: str) -> BatchStrategy:
    return BatchStrategy("same_length", reason)


SAME_SHAPE = BatchStrategy("same_shape")
PADDED = BatchStrategy("padded")
UNPADDED = BatchStrategy("unpadded")


def plan_passes(lengths: Sequence[int], max_tokens: int, fixed_cost_tokens: float) -> list[list[int]]:
    """Passes of similar lengths, as lists of indices into `lengths` (tokens of each model input).

    A pass costs `fixed_cost_tokens` plus its padded tokens. By ascending length, a model input joins a pass only while
    the padding it causes costs no more than a pass of its own, and the padded pass has at most `max_tokens`.
    """
    passes: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if passes:
            last = passes[-1]
            padding = (lengths[index] - lengths[last[-1]]) * len(last)
            if padding <= fixed_cost_tokens and lengths[index] * (len(last) + 1) <= max_tokens:
                last.append(index)
                continue
        passes.append([index])
    return passes


def plan_in_order(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Passes of neighbours, with at most `max_tokens` without padding, where padding costs no time."""
    passes: list[list[int]] = []
    tokens = longest = 0
    for index, length in enumerate(lengths):
        tokens, longest = tokens + length, max(longest, length)
        if not passes or tokens > max_tokens or longest * (len(passes[-1]) + 1) > MAX_PADDED * max_tokens:
            passes.append([])
            tokens = longest = length
        passes[-1].append(index)
    return passes


def saturating_tokens(fixed_cost_tokens: float) -> int:
    """The smallest pass that reaches 95 % of the best throughput, where a pass costs a fixed part and one a token."""
    return min(MAX_AUTO_TOKENS, max(MIN_AUTO_TOKENS, round(19 * fixed_cost_tokens)))
