"""Dynamic batching: the queue, and the server loop that owns the one runner.

It acts on what `policy` decides, on times of `loop.time()`. It must never know HTTP, torch, JSON or settings objects:
what runs a batch is behind `Runner`.

The rules: a batch leaves when it is full, or when its oldest request has waited `wait_s` since its arrival, whichever
comes first. The wait is one absolute deadline that no later arrival moves, and that goes on while the runner is busy.
After a request that was alone in the house to its end, the next does not wait.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from pipeline_webserver.errors import ClientError, DeadlineExceeded, Draining, PipelineServerError, Unavailable
from pipeline_webserver.scheduling.admission import TOO_LATE, Answer, House, Request
from pipeline_webserver.scheduling.batch_policy import (
    Cost,
    Forecast,
    Policy,
    fits,
    is_full,
    leaves_at,
    retry_after_s,
    skip_reason,
)
from pipeline_webserver.scheduling.watchdog import Watch
from pipeline_webserver.telemetry import metrics

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
SHUTTING_DOWN = "The server is shutting down; try another."


class Prepared(Protocol):
    """An input that is ready for the model."""

    @property
    def tokens(self) -> int: ...


class Runner(Protocol):
    """Runs batches, one call at a time. Each result is an output, or the error that this one input failed with."""

    on_progress: Callable[[], None]  # called in the event loop, when a long call has done a part of its work

    @property
    def fixed_cost_tokens(self) -> float:
        """What a batch costs besides its tokens, in tokens."""

    async def prepare(
        self, work: Sequence[tuple[object, Mapping[str, object]]]
    ) -> Sequence[Prepared | PipelineServerError]: ...

    async def run(self, batch: Sequence[Any]) -> Sequence[object | PipelineServerError]:
        """Raises `Unavailable` when the model no longer works for any input."""


class Batcher:
    """The one queue and the one loop.

    `give_up` is called once when it can serve nobody any more, after everyone was answered. Without it, a model that is
    stuck is waited for.
    """

    def __init__(
        self,
        runner: Runner,
        policy: Policy,
        max_requests: int,
        request_timeout_s: float,
        clock: Callable[[], float] = time.perf_counter,
        give_up: Callable[[], None] | None = None,
    ) -> None:
        self.runner = runner
        self.policy = policy
        self.request_timeout_s = request_timeout_s
        self.clock = clock  # for what is reported: the loop's own may be as coarse as a millisecond
        self.give_up = give_up
        self.house = House(max_requests, Forecast(policy, runner.fixed_cost_tokens))
        self.draining = False
        self._queue: asyncio.PriorityQueue[Request] = asyncio.PriorityQueue()
        self._ready: list[Request] = []  # in their order, at most one batch of them
        self._running = 0
        self._work_s = 0.0
        self._watch = Watch(request_timeout_s, self._on_stuck, self._on_return)
        self._fault: str | None = None
        self._company = True
        self._task: asyncio.Task[None] | None = None

    # What others call

    def start(self) -> None:
        """Start the server loop; `stop` ends it."""
        self.runner.on_progress = self._watch.progressed
        self._task = asyncio.get_running_loop().create_task(self._serve(), name="server loop")
        self._tell_state()

    async def stop(self) -> None:
        """End the loop; whoever still waits is answered with `Draining`."""
        self.draining = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        # A task that is cancelled before its first step never gets to its `finally`.
        self.house.answer_everyone(Draining(SHUTTING_DOWN), "draining")

    async def drain(self, timeout_s: float) -> None:
        """Let nobody in, answer everyone in the house for `timeout_s` seconds at most, then stop."""
        self.draining = True
        self._tell_state()
        if self._task is not None and not self._task.done():
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self.house.until_empty()
        await self.stop()

    @property
    def trouble(self) -> str | None:
        """Why no request can be served, in one sentence, or None. Overload is no trouble."""
        if self._fault is not None:
            return self._fault
        if self._task is None or (self._task.done() and not self.draining):
            return "The server loop is not running."
        if self._watch.is_stuck:
            return f"The model has been busy with one pass for {self._watch.idle_s:.0f} s."
        return None

    def submit(
        self, inputs: Sequence[object], parameters: Mapping[str, object], deadline: float | None = None
    ) -> list[Request]:
        """Admit all inputs, or none: raises `Draining`, `Unavailable` or `Overloaded`.

        `deadline` is in seconds of `loop.time()`; without one, the request time counts from now.
        """
        if self.draining:
            metrics.REFUSED.labels("draining").inc(len(inputs))
            raise Draining(SHUTTING_DOWN, retry_after_s(self.house.backlog_s))
        if trouble := self.trouble:
            metrics.REFUSED.labels("unavailable").inc(len(inputs))
            raise Unavailable(trouble, retry_after_s(self.house.backlog_s))
        now = asyncio.get_running_loop().time()
        deadline = now + self.request_timeout_s if deadline is None else deadline
        requests = self.house.admit(
            inputs, parameters, now, deadline, self.clock(), running=self._running, busy_s=self._watch.idle_s
        )
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
            self.house.answer_everyone(Draining(SHUTTING_DOWN), "draining")
            raise
        except Unavailable as error:
            self._die(str(error), error)
        except BaseException as error:  # a panic in Rust is no `Exception`; whatever it was, nobody is left waiting
            self._die("The server loop died of a bug.", error)
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise

    def _die(self, fault: str, cause: BaseException | None = None) -> None:
        logger.critical("The server loop stops: %s", fault, exc_info=cause)
        self._fault = fault
        self._tell_state()
        self.house.answer_everyone(Unavailable(fault), "unavailable")
        if self.give_up is not None:
            self.give_up()

    async def _gather(self) -> None:
        """Return when a batch is due, with its requests ready."""
        loop = asyncio.get_running_loop()
        while True:
            self._drop_skipped()
            if is_full(self.policy, self._sizes()):
                return
            oldest_at = min((request.enqueued_at for request in self._ready), default=None)
            due = None if oldest_at is None else leaves_at(self.policy, oldest_at, company=self._company)
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
        work = [(request.input, request.parameters) for request in waiting]
        results = await self._call(self.runner.prepare(work), len(waiting))
        for request, result in zip(waiting, results, strict=True):
            if isinstance(result, PipelineServerError):
                self.house.leave(request, Answer(error=result), outcome_of(result))
            else:
                request.prepared = result
                self._ready.append(request)
        self._ready.sort()
        if not self._ready:
            self._work_s = 0.0  # it was for nothing, and tells nothing of what a batch takes

    async def _run(self) -> None:
        """Run one batch and answer each of its requests."""
        self._drop_skipped()
        count = fits(self.policy, self._sizes())
        batch, self._ready = self._ready[:count], self._ready[count:]
        if not batch:
            return
        tokens = sum(request.prepared.tokens for request in batch)
        started = self.clock()
        self._running = count
        results = await self._call(self.runner.run([request.prepared for request in batch]), count)
        self._running = 0
        model_s = self.clock() - started
        self._company = len(self.house) > 1
        self.house.forecast.learn(Cost(self._work_s, count, tokens))
        self._work_s = 0.0
        metrics.BATCH_SIZE.observe(count)
        metrics.BATCH_TOKENS.observe(tokens)
        metrics.MODEL_SECONDS.observe(model_s)
        for request, result in zip(batch, results, strict=True):
            error = result if isinstance(result, PipelineServerError) else None
            output = None if error else result
            queue_s = started - request.measured_from
            metrics.QUEUE_SECONDS.observe(queue_s)
            self.house.leave(request, Answer(output, error, queue_s, model_s, count), outcome_of(error))

    async def _call(self, work: Awaitable[Sequence[Result]], count: int) -> Sequence[Result]:
        """Await so many results of the runner, with a watch on it."""
        started = self.clock()
        with self._watch.over_a_call():
            results = await work
        self._work_s += self.clock() - started
        if len(results) != count:
            raise RuntimeError(f"the runner made {len(results)} results of {count} requests")
        return results

    # The watch on the runner

    def _on_stuck(self) -> None:
        self._tell_state()
        logger.critical("The model is stuck: it has been busy with one pass for %.0f s.", self._watch.idle_s)
        if self.give_up is not None:
            assert self._task is not None, "it made the call"
            self._task.cancel()
            self._die("The model is stuck in a pass.")

    def _on_return(self) -> None:
        self._tell_state()
        logger.warning("The model is back.")

    def _tell_state(self) -> None:
        if self._fault is not None:
            state = "broken"
        elif self._watch.is_stuck:
            state = "stuck"
        else:
            state = "draining" if self.draining else "serving"
        metrics.STATE.state(state)

    # Those nobody waits for

    def _sizes(self) -> list[int]:
        return [request.prepared.tokens for request in self._ready]

    def _drop_skipped(self) -> None:
        self._ready = [request for request in self._ready if not self._skipped(request)]

    def _skipped(self, request: Request) -> bool:
        now = asyncio.get_running_loop().time()
        reason = skip_reason(abandoned=request.abandoned, deadline=request.deadline, now=now)
        if reason is None:
            return False
        self.house.leave(request, Answer(error=DeadlineExceeded(TOO_LATE)), reason)
        return True


def outcome_of(error: PipelineServerError | None) -> str:
    """What became of an input that was tried, in a word."""
    if error is None:
        return "answered"
    return "rejected" if isinstance(error, ClientError) else "failed"
