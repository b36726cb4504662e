"""The decisions of batching, pure: who goes into a batch, when it leaves, whom nobody waits for, how long it will take.

Times come in as numbers, in seconds. It must never know the queue, the loop, or what runs a batch.
"""

import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

# Batches that a forecast is made from. By the median: one that was held up by something else does not count.
REMEMBERED_BATCHES = 9


@dataclass(frozen=True, slots=True)
class Policy:
    """The limits of a batch, in requests and in tokens, and how long its oldest request may wait, in seconds."""

    max_batch_size: int
    max_batch_tokens: int
    wait_s: float


def fits(policy: Policy, tokens: Sequence[int]) -> int:
    """How many of the waiting requests, in their order, go into one batch. The first always does."""
    total = 0
    for count, size in enumerate(tokens[: policy.max_batch_size]):
        total += size
        if count and total > policy.max_batch_tokens:
            return count
    return min(len(tokens), policy.max_batch_size)


def is_full(policy: Policy, tokens: Sequence[int]) -> bool:
    """Whether waiting longer cannot make the next batch larger."""
    count = fits(policy, tokens)
    return count == policy.max_batch_size or count < len(tokens) or sum(tokens) >= policy.max_batch_tokens


def leaves_at(policy: Policy, oldest_enqueued_at: float, *, company: bool) -> float:
    """When a batch leaves that does not fill up before; at once if no company is to be expected."""
    return oldest_enqueued_at + policy.wait_s if company else oldest_enqueued_at


def skip_reason(*, abandoned: bool, deadline: float, now: float) -> str | None:
    """Why nobody waits for a request any more, or None."""
    if abandoned:
        return "abandoned"
    return "expired" if now >= deadline else None


@dataclass(frozen=True, slots=True)
class Cost:
    """What one batch took: seconds of work, for so many requests of so many tokens in all."""

    seconds: float
    requests: int
    tokens: int


@dataclass(slots=True)
class Forecast:
    """How long requests will take, by what the last batches took.

    A batch takes a fixed time, worth `fixed_cost_tokens`, and a time for each token; so what a lone request took tells
    what a full batch will take.
    """

    policy: Policy
    fixed_cost_tokens: float
    _seconds_per_token: float = 0.0
    _tokens_per_request: float = 0.0
    _costs: deque[Cost] = field(default_factory=lambda: deque(maxlen=REMEMBERED_BATCHES))

    def learn(self, cost: Cost) -> None:
        self._costs.append(cost)
        self._seconds_per_token = statistics.median(
            cost.seconds / max(1.0, self.fixed_cost_tokens + cost.tokens) for cost in self._costs
        )
        self._tokens_per_request = statistics.median(cost.tokens / cost.requests for cost in self._costs)

    def seconds(self, requests: int) -> float:
        """Until so many requests are done, one batch after the other; 0 while nothing is known.

        Of several batches the last counts as full: it will be, by those who come before it begins.
        """
        tokens = requests * self._tokens_per_request
        batches = max(requests / self.policy.max_batch_size, tokens / self.policy.max_batch_tokens)
        if batches > 1:
            tokens *= math.ceil(batches) / batches
        return (math.ceil(batches) * self.fixed_cost_tokens + tokens) * self._seconds_per_token


def retry_after_s(seconds: float) -> int:
    """Whole seconds, at least one, in which it is worth coming back."""
    return max(1, math.ceil(seconds))
