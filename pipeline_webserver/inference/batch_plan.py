"""Which rows share a forward pass, and how much one takes: pure functions of lengths and costs, in tokens.

It must never know models, nor how a pass is run.
"""

from collections.abc import Sequence

# By what `auto` means for the token limit: more never pays, and fewer would trust a measurement too far.
MOST_AUTO_TOKENS, LEAST_AUTO_TOKENS = 16_384, 256
# How much larger than its tokens a pass may be with its padding, where that costs no time: it still costs memory.
MOST_PADDED = 8


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


def plan_in_order(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Which rows share a pass where padding costs no time: neighbours, at most `max_tokens` together without it."""
    passes: list[list[int]] = []
    tokens = longest = 0
    for row, length in enumerate(lengths):
        tokens, longest = tokens + length, max(longest, length)
        if not passes or tokens > max_tokens or longest * (len(passes[-1]) + 1) > MOST_PADDED * max_tokens:
            passes.append([])
            tokens = longest = length
        passes[-1].append(row)
    return passes


def enough_tokens(fixed_cost_tokens: float) -> int:
    """The smallest pass that reaches 95 % of the best throughput, when a pass costs a fixed part and one a token."""
    return min(MOST_AUTO_TOKENS, max(LEAST_AUTO_TOKENS, round(19 * fixed_cost_tokens)))
