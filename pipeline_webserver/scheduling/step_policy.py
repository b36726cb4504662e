"""What the next step computes: one token of every sequence that decodes, and as much of the prompts as does not delay
them.

Pure decisions on numbers. It must never know clocks, queues, or what computes a step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

# How much longer a step may take for the prompts beside it, at most, as a multiple of what it takes without them.
PREFILL_SHARE = 1.0
# Prompt tokens that a step takes at least: prompts go on, however small a step is.
MIN_PREFILL_TOKENS = 16


@dataclass(frozen=True, slots=True)
class StepPolicy:
    """The limits of a step.

    `max_tokens` are computed at most. `max_sequences` run at the same time. `fixed_cost_tokens`: what a step costs
    besides its tokens, in tokens. `max_cache_tokens`: the room for keys and values, in tokens.
    """

    max_tokens: int
    max_sequences: int
    fixed_cost_tokens: float
    max_cache_tokens: int


def prefill_budget(policy: StepPolicy, decoding: int) -> int:
    """How many prompt tokens may be computed beside so many sequences that decode."""
    if not decoding:
        return policy.max_tokens
    share = int(PREFILL_SHARE * (policy.fixed_cost_tokens + decoding))
    return min(max(MIN_PREFILL_TOKENS, share), policy.max_tokens - decoding)


def schedule(policy: StepPolicy, pending: Sequence[int]) -> list[int]:
    """How many tokens of each sequence the next step computes, in order of their arrival.

    `pending` has the tokens of each that are not computed yet: one where it decodes, more where it is a prompt, none
    where it waits for the prompt of another. Every sequence that decodes has its token, as far as there are tokens for
    them and one for the prompts, which share the budget, first come, first served.
    """
    has_prompts = any(count > 1 for count in pending)
    decoding = min(sum(count == 1 for count in pending), policy.max_tokens - has_prompts)
    budget = prefill_budget(policy, decoding)
    counts = []
    for count in pending:
        if count == 1:
            taken = 1 if decoding else 0
            decoding -= taken
        else:
            taken = min(count, budget)
            budget -= taken
        counts.append(taken)
    return counts


def startable(policy: StepPolicy, running: int, reserved: int, waiting: Sequence[tuple[int, int]]) -> int:
    """How many of those that wait can start, in their order, beside so many running sequences.

    `waiting` has, for each, its sequences and the cache tokens that they need together; `reserved` are in use. What
    starts has room to its end, so nothing that runs is ever put back. One that is larger than all the room starts when
    nothing else runs.
    """
    for index, (sequences, tokens) in enumerate(waiting):
        is_alone = not running and not reserved
        if not is_alone and (running + sequences > policy.max_sequences or reserved + tokens > policy.max_cache_tokens):
            return index
        running += sequences
        reserved += tokens
    return len(waiting)
