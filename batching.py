"""Dynamic batching: the queue, the deadline policy, admission, and the server loop that owns the one runner.

Decisions are pure functions of numbers; time comes in as one, in seconds of `loop.time()`. It must never know HTTP,
torch, JSON or settings objects: what runs a batch is behind `Runner`.

The rules: a batch leaves when it is full, or when its oldest request has waited `wait_s` since its arrival, whichever
comes first. The wait is one absolute deadline that no later arrival moves, and that goes on while the runner is busy.
After a request that was alone in the house to its end, the next does not wait. Requests leave in the order they came.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import metrics
from errors import DeadlineExceeded, Draining, Overloaded, PipelineServerError, Unavailable

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
SHUTTING_DOWN = "The server is shutting down; try another."
TOO_LATE = "There was no answer in time; the server is slow or busy."


class Prepared(Protocol):
    """An input that is ready for the model."""

    @property
    def tokens(self) -> int: ...


class Runner(Protocol):
    """Runs batches, one call at a time. Each result is an output, or the error that this one input failed with."""

    async def prepare(
        self, work: Sequence[tuple[object, Mapping[str, object]]]
    ) -> Sequence[Prepared | PipelineServerError]: ...

    async def run(self, batch: Sequence[Any]) -> Sequence[object | PipelineServerError]:
        """Raises `Unavailable` when the model no longer works for any input."""


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

    `enqueued_at` and `deadline` are in seconds of `loop.time()`, `measured_from` in seconds of the measuring clock.
    """

    input: object
    parameters: Mapping[str, object]
    enqueued_at: float
    deadline: float
    measured_from: float
    response: asyncio.Queue[Answer] = field(default_factory=lambda: asyncio.Queue(maxsize=1))
    abandoned: bool = False
    prepared: Any = None


# Decisions


@dataclass(frozen=True, slots=True)
class Policy:
    """The limits of a batch, in requests and in tokens, and how long its oldest request may wait, in seconds."""

    max_batch_size: int
    max_batch_tokens: int
    wait_s: float


def fits(policy: Policy, tokens: Sequence[int]) -> int:
    """How many of the waiting requests, first come first, go into one batch. The first always does."""
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


def skip_reason(request: Request, now: float) -> str | None:
    """Why nobody waits for this request any more, or None."""
    if request.abandoned:
        return "abandoned"
    return "expired" if now >= request.deadline else None


def forecast_s(backlog: int, seconds_per_request: float) -> int:
    """Whole seconds, at least one, until the requests in the house are done."""
    return max(1, math.ceil(backlog * seconds_per_request))


# The server loop


class Batcher:
    """The one queue and the one loop. Every admitted request gets exactly one answer, and leaves the house once."""

    def __init__(
        self,
        runner: Runner,
        policy: Policy,
        max_requests: int,
        request_timeout_s: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.runner = runner
        self.policy = policy
        self.max_requests = max_requests
        self.request_timeout_s = request_timeout_s
        self.clock = clock  # for what is reported: the loop's own may be as coarse as a millisecond
        self.in_house = 0
        self.draining = False
        self._queue: asyncio.Queue[Request] = asyncio.Queue()
        self._ready: deque[Request] = deque()
        self._in_hand: list[Request] = []
        self._busy_since: float | None = None
        self._seconds_per_request = 0.0
        self._fault: str | None = None
        self._company = True
        self._empty = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # What others call

    def start(self) -> None:
        """Start the server loop; `stop` ends it."""
        self._task = asyncio.get_running_loop().create_task(self._serve(), name="server loop")

    async def stop(self) -> None:
        """End the loop; whoever still waits is answered with `Draining`."""
        self.draining = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        # A task that is cancelled before its first step never gets to its `finally`.
        self._answer_everyone(Draining(SHUTTING_DOWN))

    async def drain(self, timeout_s: float) -> None:
        """Let nobody in, answer everyone in the house for `timeout_s` seconds at most, then stop."""
        self.draining = True
        if self.in_house and self._task is not None and not self._task.done():
            self._empty.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._empty.wait()
        await self.stop()

    @property
    def trouble(self) -> str | None:
        """Why no request can be served, in one sentence, or None. Overload is no trouble."""
        if self._fault is not None:
            return self._fault
        if self._task is None or (self._task.done() and not self.draining):
            return "The server loop is not running."
        if self._busy_since is not None:
            busy_s = asyncio.get_running_loop().time() - self._busy_since
            if busy_s > self.request_timeout_s:
                return f"The model has been busy with one batch for {busy_s:.0f} s."
        return None

    def submit(
        self, inputs: Sequence[object], parameters: Mapping[str, object], deadline: float | None = None
    ) -> list[Request]:
        """Admit all inputs, or none: raises `Draining`, `Unavailable` or `Overloaded`.

        `deadline` is in seconds of `loop.time()`; without one, the request time counts from now.
        """
        retry_after_s = forecast_s(self.in_house, self._seconds_per_request)
        if self.draining:
            raise Draining(SHUTTING_DOWN, retry_after_s)
        if trouble := self.trouble:
            raise Unavailable(trouble, retry_after_s)
        if self.in_house + len(inputs) > self.max_requests:
            raise Overloaded(
                f"The server is full: {self.in_house} of {self.max_requests} places are taken.", retry_after_s
            )
        now, clock = asyncio.get_running_loop().time(), self.clock()
        if deadline is None:
            deadline = now + self.request_timeout_s
        requests = [Request(item, parameters, now, deadline, clock) for item in inputs]
        self.in_house += len(requests)
        metrics.IN_HOUSE.set(self.in_house)
        for request in requests:
            self._queue.put_nowait(request)
        return requests

    # The loop

    async def _serve(self) -> None:
        try:
            while True:
                await self._gather()
                await self._run()
        except asyncio.CancelledError:
            self._answer_everyone(Draining(SHUTTING_DOWN))
            raise
        except Unavailable as error:
            self._die(str(error), error)
        except BaseException as error:  # a panic in Rust is no `Exception`; whatever it was, nobody is left waiting
            self._die("The server loop died of a bug.", error)
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise

    def _die(self, fault: str, cause: BaseException) -> None:
        logger.critical("The server loop stops: %s", fault, exc_info=cause)
        self._fault = fault
        self._answer_everyone(Unavailable(fault))

    async def _gather(self) -> None:
        """Return when a batch is due, with its requests ready."""
        loop = asyncio.get_running_loop()
        while True:
            self._drop_skipped()
            if is_full(self.policy, self._sizes()):
                return
            oldest = self._ready[0] if self._ready else None
            due = leaves_at(self.policy, oldest.enqueued_at, company=self._company) if oldest else None
            overdue = due is not None and loop.time() >= due
            arrived = await self._arrivals(due)
            if arrived:
                await self._prepare(arrived)
            # Once overdue, what has arrived already may join, but a stream of arrivals holds nobody up.
            if overdue or (due is not None and not arrived):
                return

    async def _arrivals(self, until: float | None) -> list[Request]:
        """What has arrived, as far as there is room; if nothing has, wait for the first, but not past `until`."""
        room = self.policy.max_batch_size - len(self._ready)
        arrived: list[Request] = []
        # Not `wait_for`: on Python 3.11 it swallowed a cancellation that came in the same tick as an item.
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                arrived.append(await self._queue.get())
        while len(arrived) < room and not self._queue.empty():
            arrived.append(self._queue.get_nowait())
        return arrived

    async def _prepare(self, arrived: list[Request]) -> None:
        """Make requests ready; one that cannot be is answered at once, before any computing."""
        waiting = [request for request in arrived if not self._skipped(request)]
        if not waiting:
            return
        results = await self._call(waiting, self.runner.prepare([(r.input, r.parameters) for r in waiting]))
        for request, result in zip(waiting, results, strict=True):
            if isinstance(result, PipelineServerError):
                self._leave(request, Answer(error=result))
            else:
                request.prepared = result
                self._ready.append(request)

    async def _run(self) -> None:
        """Run one batch and answer each of its requests."""
        self._drop_skipped()
        batch = [self._ready.popleft() for _ in range(fits(self.policy, self._sizes()))]
        if not batch:
            return
        metrics.BATCH_SIZE.observe(len(batch))
        started = self.clock()
        results = await self._call(batch, self.runner.run([request.prepared for request in batch]))
        model_s = self.clock() - started
        self._company = self.in_house > 1
        self._seconds_per_request += 0.2 * (model_s / len(batch) - self._seconds_per_request)
        for request, result in zip(batch, results, strict=True):
            error = result if isinstance(result, PipelineServerError) else None
            output = None if error else result
            self._leave(request, Answer(output, error, started - request.measured_from, model_s, len(batch)))

    async def _call(self, requests: list[Request], work: Awaitable[Sequence[Result]]) -> Sequence[Result]:
        """Await the runner, with it on record who is in its hands and since when."""
        self._in_hand, self._busy_since = requests, asyncio.get_running_loop().time()
        results = await work
        if len(results) != len(requests):
            raise RuntimeError(f"the runner made {len(results)} results of {len(requests)} requests")
        # Not in a `finally`: those in the hands of a runner that failed are still to be answered.
        self._in_hand, self._busy_since = [], None
        return results

    # Leaving the house

    def _sizes(self) -> list[int]:
        return [request.prepared.tokens for request in self._ready]

    def _drop_skipped(self) -> None:
        self._ready = deque(request for request in self._ready if not self._skipped(request))

    def _skipped(self, request: Request) -> bool:
        reason = skip_reason(request, asyncio.get_running_loop().time())
        if reason is None:
            return False
        metrics.SKIPPED.labels(reason).inc()
        self._leave(request, Answer(error=DeadlineExceeded(TOO_LATE)))
        return True

    def _answer_everyone(self, verdict: PipelineServerError) -> None:
        queued = [self._queue.get_nowait() for _ in range(self._queue.qsize())]
        everyone = [*self._in_hand, *self._ready, *queued]
        self._in_hand, self._busy_since = [], None
        self._ready.clear()
        for request in everyone:
            self._leave(request, Answer(error=verdict))

    def _leave(self, request: Request, answer: Answer) -> None:
        self.in_house -= 1
        metrics.IN_HOUSE.set(self.in_house)
        request.response.put_nowait(answer)
        if not self.in_house:
            self._empty.set()
