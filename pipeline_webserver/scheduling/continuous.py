"""Continuous batching: a serving loop whose every step computes tokens of all sequences that run.

Inputs join and leave between steps, so no input waits for the last token of another. It acts on what `step_policy`
decides. It must never know HTTP, torch, JSON or settings: what computes a step is behind `StepRunner`.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

from pipeline_webserver.errors import DeadlineExceeded, PipelineServerError
from pipeline_webserver.scheduling.admission import AdmissionController
from pipeline_webserver.scheduling.batch_policy import drop_reason
from pipeline_webserver.scheduling.entry import TOO_LATE, Entry, Result
from pipeline_webserver.scheduling.serving_loop import ServingLoop, one_for_each, outcome_of, run_until_first_end
from pipeline_webserver.scheduling.step_latency import StepCost, StepLatencyModel
from pipeline_webserver.scheduling.step_policy import StepPolicy, schedule, startable
from pipeline_webserver.scheduling.step_runner import StepRunner
from pipeline_webserver.telemetry import metrics

# Inputs that are preprocessed in one call, and that wait for room in the cache at most.
MAX_PREPROCESSED = 16


class ContinuousBatcher(ServingLoop):
    """The one queue and the one loop. `clock` measures what is reported: the loop's own may be as coarse as 1 ms."""

    def __init__(
        self,
        runner: StepRunner,
        policy: StepPolicy,
        max_in_flight: int,
        request_timeout_s: float,
        clock: Callable[[], float] = time.perf_counter,
        on_fatal: Callable[[], None] | None = None,
    ) -> None:
        self.latency_model = StepLatencyModel(policy)
        super().__init__(AdmissionController(max_in_flight, self.latency_model), request_timeout_s, clock, on_fatal)
        self.runner = runner
        self.policy = policy
        self._queue: asyncio.PriorityQueue[Entry] = asyncio.PriorityQueue()
        self._waiting: list[Entry] = []  # preprocessed, in their order
        self._running: list[Entry] = []
        self._released: list[Entry] = []  # ran, and are not wanted any more
        self._started: dict[Entry, float] = {}  # by the clock
        self._steps: dict[Entry, int] = {}  # the largest step that each was in
        self._changed = asyncio.Event()
        self._room = asyncio.Event()

    def enqueue(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._queue.put_nowait(entry)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def busy_s(self) -> float:
        """The seconds of work that the running entries have had already, by the estimate."""
        return self.latency_model.done_s([entry.prepared for entry in self._running])

    async def run(self) -> None:
        """Preprocess arrivals and compute steps, side by side."""
        await run_until_first_end(self._preprocess_arrivals(), self._run_steps())

    # Preprocessing

    async def _preprocess_arrivals(self) -> None:
        while True:
            arrivals = [await self._queue.get()]
            while len(arrivals) < MAX_PREPROCESSED and not self._queue.empty():
                arrivals.append(self._queue.get_nowait())
            await self._preprocess([entry for entry in arrivals if not self._is_dropped(entry)])
            self._changed.set()
            while len(self._waiting) >= MAX_PREPROCESSED:
                self._room.clear()
                await self._room.wait()

    async def _preprocess(self, arrivals: list[Entry]) -> None:
        """Make entries ready; one with an invalid input completes at once."""
        if not arrivals:
            return
        inputs = [(entry.input, entry.parameters) for entry in arrivals]
        with self.preprocess_watchdog.watching():
            results = await self.runner.preprocess(inputs, self.preprocess_watchdog.heartbeat)
        for entry, result in zip(arrivals, one_for_each(results, arrivals), strict=True):
            if isinstance(result, PipelineServerError):
                self.admission.complete(entry, Result(error=result), outcome_of(result))
            else:
                entry.prepared = result
                self._waiting.append(entry)
        self._waiting.sort()

    # Steps

    async def _run_steps(self) -> None:
        while True:
            self._drop_unwanted()
            self._start()
            if not self._running and not self._released:
                self._changed.clear()
                await self._changed.wait()
            elif self._running and not self._running[0].prepared.sequences:
                await self._run_whole(self._running[0])
            else:
                await self._run_step()

    def _drop_unwanted(self) -> None:
        self._waiting = [entry for entry in self._waiting if not self._is_dropped(entry)]
        unwanted = [entry for entry in self._running if self._is_dropped(entry)]
        self._running = [entry for entry in self._running if entry not in unwanted]
        self._released += unwanted
        for entry in unwanted:
            self._forget(entry)

    def _start(self) -> None:
        """Let those that wait run, as far as there is room for them."""
        sequences = sum(len(entry.prepared.sequences) for entry in self._running)
        reserved = sum(entry.prepared.cache_tokens for entry in self._running)
        needs = [(len(entry.prepared.sequences), entry.prepared.cache_tokens) for entry in self._waiting]
        if any(not entry.prepared.sequences for entry in self._running):
            return
        # What is generated as a whole runs by itself.
        whole = next((index for index, (count, _) in enumerate(needs) if count == 0), len(needs))
        is_whole = whole == 0 and bool(needs) and not self._running
        count = 1 if is_whole else startable(self.policy, sequences, reserved, needs[:whole])
        started, self._waiting = self._waiting[:count], self._waiting[count:]
        now = self.clock()
        for entry in started:
            self._started[entry] = now
            metrics.QUEUE_SECONDS.observe(now - entry.submitted_at)
        self._running += started
        self._room.set()

    async def _run_step(self) -> None:
        """Compute one step and complete the entries that have ended."""
        running = [
            sequence for entry in self._running for sequence in entry.prepared.sequences if not sequence.is_ended
        ]
        counts = schedule(self.policy, [sequence.pending_tokens for sequence in running])
        work = [(sequence, count) for sequence, count in zip(running, counts, strict=True) if count]
        released, self._released = [entry.prepared for entry in self._released], []
        started = self.clock()
        with self.model_watchdog.watching():
            await self.runner.step(work, released, self.model_watchdog.heartbeat)
        if work:
            self.latency_model.observe(StepCost(self.clock() - started, sum(counts)))
            metrics.BATCH_SIZE.observe(len(work))
            metrics.BATCH_TOKENS.observe(sum(counts))
            metrics.MODEL_SECONDS.observe(self.clock() - started)
        for entry in self._running:
            self._steps[entry] = max(self._steps.get(entry, 0), len(work))
        for entry in [entry for entry in self._running if entry.prepared.result is not None]:
            self._complete(entry, entry.prepared.result)

    async def _run_whole(self, entry: Entry) -> None:
        """Generate for one entry that cannot be generated from step by step."""
        self._steps[entry] = 1
        with self.model_watchdog.watching():
            (result,) = await self.runner.run([entry.prepared], self.model_watchdog.heartbeat)
        self._complete(entry, result)

    def _complete(self, entry: Entry, result: object) -> None:
        self._running.remove(entry)
        self.latency_model.observe_entry(entry.prepared)
        started = self._started[entry]
        error = result if isinstance(result, PipelineServerError) else None
        output = None if error else result
        timing = (started - entry.submitted_at, self.clock() - started, self._steps[entry])
        self._forget(entry)
        self.admission.complete(entry, Result(output, error, *timing), outcome_of(error))

    def _forget(self, entry: Entry) -> None:
        self._started.pop(entry, None)
        self._steps.pop(entry, None)

    # Entries that are no longer wanted

    def _is_dropped(self, entry: Entry) -> bool:
        now = asyncio.get_running_loop().time()
        reason = drop_reason(cancelled=entry.cancelled, deadline=entry.deadline, now=now)
        if reason is None:
            return False
        self.admission.complete(entry, Result(error=DeadlineExceeded(TOO_LATE)), reason)
        return True
