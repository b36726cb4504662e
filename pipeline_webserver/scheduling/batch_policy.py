"""The decisions of dynamic batching, pure: which entries form a batch, when it is dispatched, which entries are
dropped.

Times are numbers, in seconds. It must never know the queue, the loop, or what runs a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """The limits of a batch, in entries and in tokens, and how long its oldest entry may wait, in seconds."""

    max_batch_size: int
    max_batch_tokens: int
    max_wait_s: float


def batch_length(policy: BatchPolicy, tokens: Sequence[int]) -> int:
    """How many of the waiting entries, with so many `tokens` each and in their order, form one batch.

    The first entry always does, whatever its length.
    """
    total = 0
    for count, size in enumerate(tokens[: policy.max_batch_size]):
        total += size
        if count and total > policy.max_batch_tokens:
            return count
    return min(len(tokens), policy.max_batch_size)


def is_full(policy: BatchPolicy, tokens: Sequence[int]) -> bool:
    """Whether no later arrival can make the next batch larger."""
    count = batch_length(policy, tokens)
    return count == policy.max_batch_size or count < len(tokens) or sum(tokens) >= policy.max_batch_tokens


def dispatch_at(policy: BatchPolicy, oldest_enqueued_at: float, *, expect_more: bool) -> float:
    """When a batch that is not full is dispatched; at once where no further arrivals are expected."""
    return oldest_enqueued_at + policy.max_wait_s if expect_more else oldest_enqueued_at


def drop_reason(*, cancelled: bool, deadline: float, now: float) -> str | None:
    """Why an entry is dropped before it runs: `cancelled` or `expired`; None where it is still wanted."""
    if cancelled:
        return "cancelled"
    return "expired" if now >= deadline else None
