"""How long entries will take, learned from the batches that ran.

Pure: it must never know a clock, or what runs a batch.
"""

import math
import statistics
from collections import deque
from dataclasses import dataclass, field

from pipeline_webserver.scheduling.batch_policy import BatchPolicy

# Batches that an estimate is made from. It uses their median, so one batch that another process disturbed has no
# weight.
WINDOW_BATCHES = 9


@dataclass(frozen=True, slots=True)
class BatchCost:
    """What one batch took: seconds of work, for so many entries with so many tokens in total."""

    seconds: float
    entries: int
    tokens: int


@dataclass(slots=True)
class LatencyModel:
    """Linear in tokens: a batch costs a fixed time, worth `fixed_cost_tokens`, and a time for each token.

    So the cost of one entry alone predicts that of a full batch.
    """

    policy: BatchPolicy
    fixed_cost_tokens: float
    _seconds_per_token: float = 0.0
    _tokens_per_entry: float = 0.0
    _costs: deque[BatchCost] = field(default_factory=lambda: deque(maxlen=WINDOW_BATCHES))

    def observe(self, cost: BatchCost) -> None:
        """Learn from one batch."""
        self._costs.append(cost)
        self._seconds_per_token = statistics.median(
            cost.seconds / max(1.0, self.fixed_cost_tokens + cost.tokens) for cost in self._costs
        )
        self._tokens_per_entry = statistics.median(cost.tokens / cost.entries for cost in self._costs)

    def estimate_s(self, entries: int) -> float:
        """Seconds until so many entries are complete, batch after batch; 0 before the first observation.

        The last of several batches counts as full: arrivals will have filled it by the time it is dispatched.
        """
        tokens = entries * self._tokens_per_entry
        batches = max(entries / self.policy.max_batch_size, tokens / self.policy.max_batch_tokens)
        if batches > 1:
            tokens *= math.ceil(batches) / batches
        return (math.ceil(batches) * self.fixed_cost_tokens + tokens) * self._seconds_per_token


def retry_after_s(seconds: float) -> int:
    """The `Retry-After` for an estimate: whole seconds, at least one."""
    return max(1, math.ceil(seconds))
