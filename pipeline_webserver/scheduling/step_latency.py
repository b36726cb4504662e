"""How long entries will take to be generated, learned from the steps that ran and the entries that ended.

Pure: it must never know a clock, or what computes a step.
"""

import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline_webserver.scheduling.step_policy import StepPolicy
from pipeline_webserver.scheduling.step_runner import PreparedGeneration

# Steps and entries that an estimate is made from, by their medians.
WINDOW_STEPS = 33
WINDOW_ENTRIES = 9


@dataclass(frozen=True, slots=True)
class StepCost:
    """What one step took: seconds for so many tokens."""

    seconds: float
    tokens: int


@dataclass(slots=True)
class StepLatencyModel:
    """A step costs a fixed time, worth `fixed_cost_tokens`, and a time for each token."""

    policy: StepPolicy
    _seconds_per_token: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW_STEPS))
    _prompt_tokens: deque[int] = field(default_factory=lambda: deque(maxlen=WINDOW_ENTRIES))
    _new_tokens: deque[int] = field(default_factory=lambda: deque(maxlen=WINDOW_ENTRIES))
    _sequences: deque[int] = field(default_factory=lambda: deque(maxlen=WINDOW_ENTRIES))
    _cache_tokens: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW_ENTRIES))  # of a sequence

    def observe(self, cost: StepCost) -> None:
        """Learn from one step."""
        self._seconds_per_token.append(cost.seconds / (self.policy.fixed_cost_tokens + cost.tokens))

    def observe_entry(self, prepared: PreparedGeneration) -> None:
        """Learn from an entry that has ended, or that was in time for no more than it has."""
        if not prepared.sequences:
            return
        self._prompt_tokens.append(prepared.prompt_tokens)
        self._new_tokens.append(max(sequence.new_tokens for sequence in prepared.sequences))
        self._sequences.append(len(prepared.sequences))
        self._cache_tokens.append(prepared.cache_tokens / len(prepared.sequences))

    def estimate_s(self, entries: int) -> float:
        """Seconds until so many entries are complete; 0 before the first has ended.

        As many as may run at a time are generated side by side, one after the other where there are more.
        """
        if not self._seconds_per_token or not self._new_tokens or not entries:
            return 0.0
        prompt, new = statistics.median(self._prompt_tokens), statistics.median(self._new_tokens)
        sequences = entries * statistics.median(self._sequences)
        at_a_time = self._at_a_time()
        side_by_side = min(sequences, at_a_time)
        steps = new * math.ceil(sequences / at_a_time)
        tokens = steps * (self.policy.fixed_cost_tokens + side_by_side) + prompt * entries
        return tokens * statistics.median(self._seconds_per_token)

    def _at_a_time(self) -> int:
        """How many sequences there is room for."""
        room = self.policy.max_cache_tokens / max(1, statistics.median(self._cache_tokens))
        return max(1, min(self.policy.max_sequences, int(room)))

    def done_s(self, running: Sequence[PreparedGeneration]) -> float:
        """The part of the estimate for those that run that they have behind them."""
        shares = [
            sum(sequence.new_tokens for sequence in prepared.sequences)
            / max(1, prepared.tokens - prepared.prompt_tokens)
            for prepared in running
        ]
        return self.estimate_s(len(shares)) * sum(shares) / len(shares) if shares else 0.0
