"""What every serving loop has: start, drain, stop, health, and a fatal failure that completes every entry.

It must never know how entries become batches, or what runs them.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from pipeline_webserver.errors import ClientError, DeadlineExceeded, Draining, PipelineServerError, Unavailable
from pipeline_webserver.scheduling.admission import AdmissionController
from pipeline_webserver.scheduling.arrivals import ArrivalQueue
from pipeline_webserver.scheduling.batch_policy import drop_reason
from pipeline_webserver.scheduling.entry import TOO_LATE, Entry, Result
from pipeline_webserver.scheduling.latency_model import retry_after_s
from pipeline_webserver.scheduling.watchdog import Watchdog
from pipeline_webserver.telemetry import metrics

logger = logging.getLogger(__name__)
Item = TypeVar("Item")
SHUTTING_DOWN = "The server is shutting down; try another."


class ServingLoop(ABC):
    """One loop over the entries that `admission` admits.

    A call that makes no progress for `request_timeout_s` seconds is stalled. `clock` measures what is reported: the
    loop's own may be as coarse as 1 ms. `on_fatal` is called once, when the loop can serve no entry any more and has
    completed every one. Without it, a stalled call is waited for.
    """

    def __init__(
        self,
        admission: AdmissionController,
        request_timeout_s: float,
        clock: Callable[[], float],
        on_fatal: Callable[[], None] | None = None,
    ) -> None:
        self.admission = admission
        self.request_timeout_s = request_timeout_s
        self.clock = clock
        self._arrivals = ArrivalQueue(self._has_room_for)
        self.on_fatal = on_fatal
        self.draining = False
        # Each stage has a watchdog of its own: progress in one says nothing about the other.
        self.preprocess_watchdog = Watchdog(request_timeout_s, self._on_stall, self._on_recovery)
        self.model_watchdog = Watchdog(request_timeout_s, self._on_stall, self._on_recovery)
        self._fault: str | None = None
        self._task: asyncio.Task[None] | None = None

    @abstractmethod
    async def run(self) -> None:
        """Serve entries until cancelled. Raises `Unavailable` when the model no longer works for any input."""

    @abstractmethod
    def _has_room_for(self, entry: Entry, taken: int) -> bool:
        """Whether an arrival may be preprocessed, with so many others taken before it."""

    @property
    @abstractmethod
    def running(self) -> int:
        """How many entries are in the model."""

    @property
    @abstractmethod
    def busy_s(self) -> float:
        """Seconds of work that those have had."""

    def submit(
        self, inputs: Sequence[object], parameters: Mapping[str, object], deadline: float | None = None
    ) -> list[Entry]:
        """Admit all inputs, or none. Raises `Draining`, `Unavailable`, `Overloaded` or `DeadlineExceeded`.

        `deadline` is in seconds of `loop.time()`; by default it is the request time-out from now.
        """
        self.check_accepts(len(inputs))
        now = asyncio.get_running_loop().time()
        deadline = now + self.request_timeout_s if deadline is None else deadline
        entries = self.admission.admit(
            inputs, parameters, now, deadline, self.clock(), running=self.running, busy_s=self.busy_s
        )
        self._arrivals.put(entries)
        return entries

    def check_admits(self, deadline: float) -> None:
        """Raises as `submit`, and counts an input as rejected, where one would not be admitted now."""
        self.check_accepts(1)
        now = asyncio.get_running_loop().time()
        self.admission.check(1, now, deadline, running=self.running, busy_s=self.busy_s)

    def would_admit(self, deadline: float) -> bool:
        """Whether one more input would meet its deadline, and there is room for it."""
        now = asyncio.get_running_loop().time()
        return self.admission.refusal(1, now, deadline, running=self.running, busy_s=self.busy_s) is None

    def start(self) -> None:
        """Start the loop; `stop` ends it."""
        self._task = asyncio.get_running_loop().create_task(self._serve(), name="serving loop")
        self._publish_state()

    async def stop(self) -> None:
        """End the loop; entries in flight complete with `Draining`."""
        self.draining = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        # A task that is cancelled before its first step never gets to its `except`.
        self.admission.fail_all(Draining(SHUTTING_DOWN), "draining")

    async def drain(self, timeout_s: float) -> None:
        """Admit no further entries, complete those in flight within `timeout_s` seconds, then stop."""
        self.draining = True
        self._publish_state()
        if self._task is not None and not self._task.done():
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self.admission.wait_until_idle()
        await self.stop()

    @property
    def unhealthy_reason(self) -> str | None:
        """Why no entry can be served, in one sentence, or None. Overload is not a reason."""
        if self._fault is not None:
            return self._fault
        if self._task is None or (self._task.done() and not self.draining):
            return "The server loop is not running."
        if self.model_watchdog.is_stalled:
            return f"The model has been busy with one pass for {self.model_watchdog.stalled_s:.0f} s."
        if self.preprocess_watchdog.is_stalled:
            return f"Preprocessing has been busy with one input for {self.preprocess_watchdog.stalled_s:.0f} s."
        return None

    def check_accepts(self, count: int) -> None:
        """Raises `Draining` or `Unavailable` where no entry is accepted, and counts so many inputs as rejected."""
        if self.draining:
            metrics.REJECTED.labels("draining").inc(count)
            raise Draining(SHUTTING_DOWN, retry_after_s(self.admission.backlog_s))
        if reason := self.unhealthy_reason:
            metrics.REJECTED.labels("unavailable").inc(count)
            raise Unavailable(reason, retry_after_s(self.admission.backlog_s))

    def _is_dropped(self, entry: Entry) -> bool:
        """Whether an entry is no longer wanted; it is complete then."""
        now = asyncio.get_running_loop().time()
        reason = drop_reason(cancelled=entry.cancelled, deadline=entry.deadline, now=now)
        if reason is None:
            return False
        self.admission.complete(entry, Result(error=DeadlineExceeded(TOO_LATE)), reason)
        return True

    async def _serve(self) -> None:
        try:
            await self.run()
        except asyncio.CancelledError:
            self.admission.fail_all(Draining(SHUTTING_DOWN), "draining")
            raise
        except Unavailable as error:
            self._fail(str(error), error)
        except BaseException as error:  # a panic in Rust is no `Exception`; whatever it was, every entry completes
            self._fail("The server loop died of a bug.", error)
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise

    def _fail(self, fault: str, cause: BaseException | None = None) -> None:
        logger.critical("The server loop stops: %s", fault, exc_info=cause)
        self._fault = fault
        self._publish_state()
        self.admission.fail_all(Unavailable(fault), "unavailable")
        if self.on_fatal is not None:
            self.on_fatal()

    def _on_stall(self) -> None:
        reason = self.unhealthy_reason or ""
        self._publish_state()
        logger.critical("Stalled: %s", reason)
        if self.on_fatal is not None:
            assert self._task is not None, "it made the call"
            self._task.cancel()
            self._fail(reason)

    def _on_recovery(self) -> None:
        self._publish_state()
        logger.warning("The stalled call goes on.")

    def _publish_state(self) -> None:
        if self._fault is not None:
            state = "broken"
        elif self.model_watchdog.is_stalled or self.preprocess_watchdog.is_stalled:
            state = "stuck"
        else:
            state = "draining" if self.draining else "serving"
        metrics.set_state(state)


async def run_until_first_end(*stages: Coroutine[Any, Any, None]) -> None:
    """Run stages side by side until one ends; raises what it raised, after the others were cancelled and awaited."""
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(stage) for stage in stages]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def one_for_each(results: Sequence[Item], entries: Sequence[Entry]) -> Sequence[Item]:
    """The results; raises `RuntimeError` where the runner did not make one for each entry."""
    if len(results) != len(entries):
        raise RuntimeError(f"the runner made {len(results)} results for {len(entries)} entries")
    return results


def outcome_of(error: PipelineServerError | None) -> str:
    """The outcome of an entry that was tried, as the metrics label it."""
    if error is None:
        return "answered"
    return "invalid" if isinstance(error, ClientError) else "failed"
