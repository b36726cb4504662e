"""The house: who is let in, in which place each stands, and that each leaves it once, with one answer.

It must never know the queue, the server loop, or what runs a batch.

Who comes first is served first, and a list shares with those who come after it: its second input stands behind the next
arrival, its third behind the next two. So a long list holds up nobody, and nobody is overtaken for ever.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline_webserver.errors import DeadlineExceeded, Overloaded, PipelineServerError
from pipeline_webserver.scheduling.batch_policy import Forecast, retry_after_s
from pipeline_webserver.telemetry import metrics

# By how much longer than forecast it may take: under overload all who are let in stand at the edge of their deadline.
# Simulated at twice the capacity, with batches that vary by 30 %, a fifth of the work came too late without.
MARGIN = 1.25
TOO_LATE = "There was no answer in time; the server is slow or busy."


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request: its output or its error, and the seconds and company it took."""

    output: object = None
    error: PipelineServerError | None = None
    queue_s: float = 0.0
    model_s: float = 0.0
    batch_size: int = 0


@dataclass(slots=True, eq=False)
class Request:
    """One input on its way; the response queue gets exactly one `Answer`.

    `place` is where it stands, and in equal places `number` decides. `enqueued_at` and `deadline` are in seconds of
    `loop.time()`, `measured_from` in seconds of the measuring clock.
    """

    input: object
    parameters: Mapping[str, object]
    place: int
    number: int
    enqueued_at: float
    deadline: float
    measured_from: float
    response: asyncio.Queue[Answer] = field(default_factory=lambda: asyncio.Queue(maxsize=1))
    abandoned: bool = False
    prepared: Any = None

    def __lt__(self, other: "Request") -> bool:
        return (self.place, self.number) < (other.place, other.number)


class House:
    """A bounded number of requests. A list is let in whole or not at all."""

    def __init__(self, max_requests: int, forecast: Forecast) -> None:
        self.max_requests = max_requests
        self.forecast = forecast
        self._inside: dict[Request, None] = {}
        self._next_place = 0
        self._next_number = 0
        self._empty = asyncio.Event()

    def __len__(self) -> int:
        return len(self._inside)

    @property
    def backlog_s(self) -> float:
        """The seconds until everyone who is in will have been answered, as far as can be told."""
        return self.forecast.seconds(len(self))

    def admit(
        self,
        inputs: Sequence[object],
        parameters: Mapping[str, object],
        now: float,
        deadline: float,
        clock: float,
        *,
        running: int,
        busy_s: float,
    ) -> list[Request]:
        """Raises `Overloaded` if there is no room, or if the answers would come after the deadline; `DeadlineExceeded`.

        `running` of those inside are in the model since `busy_s` seconds. `clock` is the measuring clock's time.
        """
        if len(self) + len(inputs) > self.max_requests:
            metrics.REFUSED.labels("full").inc(len(inputs))
            places = f"{len(self)} of {self.max_requests} places are taken"
            raise Overloaded(f"The server is full: {places}.", retry_after_s(self.backlog_s))
        if now >= deadline:
            metrics.REFUSED.labels("late").inc(len(inputs))
            raise DeadlineExceeded(TOO_LATE)
        patience_s = deadline - now
        done_s = min(busy_s, self.forecast.seconds(running))
        wait_s = self._wait_s(len(inputs), running, done_s, patience_s)
        if wait_s > patience_s:
            metrics.REFUSED.labels("late").inc(len(inputs))
            took = f"about {wait_s:.2g} s; it was to come within {patience_s:.2g} s"
            raise Overloaded(f"The server is busy: the answer may take {took}.", retry_after_s(wait_s - patience_s))
        admitted = [
            Request(item, parameters, self._next_place + index, self._next_number + index, now, deadline, clock)
            for index, item in enumerate(inputs)
        ]
        self._next_place += 1
        self._next_number += len(inputs)
        self._inside.update(dict.fromkeys(admitted))
        metrics.IN_HOUSE.set(len(self))
        return admitted

    def _wait_s(self, count: int, running: int, done_s: float, patience_s: float) -> float:
        """Within how long so many more inputs are answered. An empty house lets in whoever comes: so it learns."""
        if not self._inside:
            return 0.0
        wait_s = MARGIN * (self.forecast.seconds(len(self) + count) - done_s)
        if wait_s <= patience_s:
            return wait_s
        last = self._next_place + count - 1
        # The rest of a list stands behind, but for what is running already.
        before = max(running, sum(request.place <= last for request in self._inside))
        return MARGIN * (self.forecast.seconds(before + count) - done_s)

    def leave(self, request: Request, answer: Answer, outcome: str) -> None:
        """`outcome` is what became of it in a word, for the metrics."""
        del self._inside[request]
        metrics.IN_HOUSE.set(len(self))
        metrics.INPUTS.labels(outcome).inc()
        request.response.put_nowait(answer)
        if not self._inside:
            self._empty.set()

    def answer_everyone(self, verdict: PipelineServerError, outcome: str) -> None:
        for request in list(self._inside):
            self.leave(request, Answer(error=verdict), outcome)

    async def until_empty(self) -> None:
        """Return when nobody is in."""
        while self._inside:
            self._empty.clear()
            await self._empty.wait()
