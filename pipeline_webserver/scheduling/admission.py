"""Admission control: bounds the entries in flight, rejects those that would miss their deadline, completes each once.

It must never know the queue, the serving loop, or what runs a batch.

Order is fair: the k-th input of a list ranks behind the next k - 1 arrivals. So a long list delays no other client, and
no entry is overtaken without end.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from pipeline_webserver.errors import DeadlineExceeded, Overloaded, PipelineServerError
from pipeline_webserver.scheduling.entry import TOO_LATE, Entry, Result
from pipeline_webserver.scheduling.latency_model import retry_after_s
from pipeline_webserver.telemetry import metrics

# How much longer than estimated a batch may take: under overload every admitted entry is close to its deadline.
# Simulated at twice the capacity, with batches that vary by 30 %, a fifth of the work came too late without it.
LATENCY_MARGIN = 1.25


class Refusal(NamedTuple):
    """Why inputs are not admitted: as the metrics have it, and as an error."""

    reason: str
    error: Overloaded | DeadlineExceeded


class LatencyEstimate(Protocol):
    """What is known of how long entries take."""

    def estimate_s(self, entries: int) -> float:
        """Seconds until so many entries are complete; 0 before anything is known."""


class AdmissionController:
    """Admits at most `max_in_flight` entries at a time. A list is admitted whole or not at all."""

    def __init__(self, max_in_flight: int, latency_model: LatencyEstimate) -> None:
        self.max_in_flight = max_in_flight
        self.latency_model = latency_model
        self._in_flight: dict[Entry, None] = {}
        self._next_rank = 0
        self._next_arrival = 0
        self._idle = asyncio.Event()

    def __len__(self) -> int:
        return len(self._in_flight)

    @property
    def backlog_s(self) -> float:
        """The estimated seconds until every entry in flight is complete."""
        return self.latency_model.estimate_s(len(self))

    def admit(
        self,
        inputs: Sequence[object],
        parameters: Mapping[str, object],
        now: float,
        deadline: float,
        submitted_at: float,
        *,
        running: int,
        busy_s: float,
    ) -> list[Entry]:
        """Entries for these inputs, in their order; `submitted_at` is the measuring clock's time. Raises as `check`."""
        self.check(len(inputs), now, deadline, running=running, busy_s=busy_s)
        entries = [
            Entry(item, parameters, self._next_rank + index, self._next_arrival + index, now, deadline, submitted_at)
            for index, item in enumerate(inputs)
        ]
        self._next_rank += 1
        self._next_arrival += len(inputs)
        self._in_flight.update(dict.fromkeys(entries))
        metrics.IN_FLIGHT.set(len(self))
        return entries

    def check(self, count: int, now: float, deadline: float, *, running: int, busy_s: float) -> None:
        """Raises the error of `refusal`, and counts so many inputs as rejected."""
        if refusal := self.refusal(count, now, deadline, running=running, busy_s=busy_s):
            metrics.REJECTED.labels(refusal.reason).inc(count)
            raise refusal.error

    def refusal(self, count: int, now: float, deadline: float, *, running: int, busy_s: float) -> Refusal | None:
        """Why `count` inputs would not be admitted; None if they would.

        `running` of the entries in flight have been in the model for `busy_s` seconds. `Overloaded` where the server is
        full or the estimate misses the deadline, `DeadlineExceeded` where the deadline has passed.
        """
        if len(self) + count > self.max_in_flight:
            in_flight = f"{len(self)} of {self.max_in_flight} inputs are in flight"
            return Refusal("queue_full", Overloaded(f"The server is full: {in_flight}.", retry_after_s(self.backlog_s)))
        if now >= deadline:
            return Refusal("deadline", DeadlineExceeded(TOO_LATE))
        timeout_s = deadline - now
        done_s = min(busy_s, self.latency_model.estimate_s(running))
        estimate_s = self._estimate_s(count, running, done_s, timeout_s)
        if estimate_s <= timeout_s:
            return None
        estimate = f"about {estimate_s:.2g} s; the deadline is in {timeout_s:.2g} s"
        retry_s = retry_after_s(estimate_s - timeout_s)
        return Refusal("deadline", Overloaded(f"The server is busy: the answer may take {estimate}.", retry_s))

    def _estimate_s(self, count: int, running: int, done_s: float, timeout_s: float) -> float:
        """Seconds within which `count` more inputs complete. An idle server admits any input, and so it learns."""
        if not self._in_flight:
            return 0.0
        estimate_s = LATENCY_MARGIN * (self.latency_model.estimate_s(len(self) + count) - done_s)
        if estimate_s <= timeout_s:
            return estimate_s
        last_rank = self._next_rank + count - 1
        # Entries of long lists rank behind these inputs, except for those that are running already.
        ahead = max(running, sum(entry.rank <= last_rank for entry in self._in_flight))
        return LATENCY_MARGIN * (self.latency_model.estimate_s(ahead + count) - done_s)

    def complete(self, entry: Entry, result: Result, outcome: str) -> None:
        """Put the result on the entry's response queue; `outcome` is its label in the metrics.

        Raises `KeyError` where the entry is complete already.
        """
        del self._in_flight[entry]
        metrics.IN_FLIGHT.set(len(self))
        metrics.INPUTS.labels(outcome).inc()
        entry.response_queue.put_nowait(result)
        if not self._in_flight:
            self._idle.set()

    def fail_all(self, error: PipelineServerError, outcome: str) -> None:
        """Complete every entry in flight with this error."""
        for entry in list(self._in_flight):
            self.complete(entry, Result(error=error), outcome)

    async def wait_until_idle(self) -> None:
        """Return when no entry is in flight."""
        while self._in_flight:
            self._idle.clear()
            await self._idle.wait()
