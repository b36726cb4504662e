"""Dynamic batching: the queue, and the server loop that forms batches and runs them on the one runner.

It acts on what `batch_policy` decides, on times of `loop.time()`. It must never know HTTP, torch, JSON or settings:
what runs a batch is behind `Runner`.

The rules: a batch is dispatched when it is full, or when its oldest entry has waited `max_wait_s` since its arrival,
whichever comes first. That is one absolute deadline, which no later arrival moves and which runs while the model is
busy. After an entry that was alone in flight to its end, the next one does not wait.

Two stages run side by side. What arrives while a batch runs is preprocessed meanwhile, so an invalid input is rejected
at once, and the next batch follows without a gap.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from pipeline_webserver.errors import PipelineServerError
from pipeline_webserver.scheduling.admission import AdmissionController
from pipeline_webserver.scheduling.batch_policy import BatchPolicy, batch_length, dispatch_at, is_full
from pipeline_webserver.scheduling.entry import Entry, Result
from pipeline_webserver.scheduling.latency_model import BatchCost, LatencyModel
from pipeline_webserver.scheduling.runner import Runner
from pipeline_webserver.scheduling.serving_loop import ServingLoop, one_for_each, outcome_of, run_until_first_end
from pipeline_webserver.telemetry import metrics

# Calls of preprocessing that a batch which is due still waits for: what has arrived by now may join. Few, so that a
# stream of arrivals delays no entry. With one, clients that send together were split into small batches: on a two-layer
# BERT with 32 clients, three gave 1.08 times the throughput (2 cores, AMD EPYC).
MAX_JOINS = 3


class Batcher(ServingLoop):
    """The one queue and the one loop. `clock` measures what is reported: the loop's own may be as coarse as 1 ms."""

    def __init__(
        self,
        runner: Runner,
        policy: BatchPolicy,
        max_in_flight: int,
        request_timeout_s: float,
        clock: Callable[[], float] = time.perf_counter,
        on_fatal: Callable[[], None] | None = None,
    ) -> None:
        self.latency_model = LatencyModel(policy, runner.fixed_cost_tokens)
        super().__init__(AdmissionController(max_in_flight, self.latency_model), request_timeout_s, clock, on_fatal)
        self.runner = runner
        self.policy = policy
        self._ready: list[Entry] = []  # preprocessed, in their order, at most one batch of them
        self._ready_changed = asyncio.Event()
        self._is_preprocessing = False
        self._running: list[Entry] = []
        self._running_since = 0.0
        self._model_total_s = 0.0
        self._exposed_s = 0.0  # preprocessing for the next batch that no running batch has hidden
        self._expect_more = True

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def busy_s(self) -> float:
        """Seconds since the running batch began; 0 while the model is idle."""
        return self.clock() - self._running_since if self._running else 0.0

    async def run(self) -> None:
        """Preprocess arrivals and run batches, side by side."""
        await run_until_first_end(self._preprocess_arrivals(), self._run_batches())

    # Preprocessing

    async def _preprocess_arrivals(self) -> None:
        while True:
            arrivals = await self._arrivals.take(self.policy.max_batch_size)
            self._is_preprocessing = True
            await self._preprocess(arrivals)
            self._is_preprocessing = False
            self._ready_changed.set()

    def _has_room_for(self, entry: Entry, taken: int) -> bool:
        """Whether it is in the next batch, for all that is known, with so many others taken before it."""
        return len(self._ready) + taken < self.policy.max_batch_size or entry < self._ready[-1]

    async def _preprocess(self, arrivals: list[Entry]) -> None:
        """Make entries ready; one with an invalid input completes at once."""
        wanted = [entry for entry in arrivals if not self._is_dropped(entry)]
        if not wanted:
            return
        inputs = [(entry.input, entry.parameters) for entry in wanted]
        started, model_before_s = self.clock(), self._model_s()
        with self.preprocess_watchdog.watching():
            results = await self.runner.preprocess(inputs, self.preprocess_watchdog.heartbeat)
        self._exposed_s += (self.clock() - started) - (self._model_s() - model_before_s)
        for entry, result in zip(wanted, one_for_each(results, wanted), strict=True):
            if isinstance(result, PipelineServerError):
                self.admission.complete(entry, Result(error=result), outcome_of(result))
            else:
                entry.prepared = result
                self._ready.append(entry)
        self._return_excess()
        if not self._ready:
            self._exposed_s = 0.0  # every input was invalid, which tells nothing about the cost of a batch

    def _return_excess(self) -> None:
        """Keep one batch ready; overtaken entries return to the queue, without what would hold memory there."""
        self._ready.sort()
        overtaken = self._ready[self.policy.max_batch_size :]
        for entry in overtaken:
            entry.prepared = None
        self._arrivals.put(overtaken)
        del self._ready[self.policy.max_batch_size :]

    # Batches

    async def _run_batches(self) -> None:
        while True:
            batch = await self._form_batch()
            if batch:
                await self._run_batch(batch)

    async def _form_batch(self) -> list[Entry]:
        """The entries of the next batch, once it is due."""
        joins = 0
        while True:
            self._drop_unwanted()
            if is_full(self.policy, self._ready_tokens()):
                break
            if not await self._is_due():
                continue
            if not self._has_arrivals() or joins == MAX_JOINS:
                break
            joins += 1
            await self._ready_changes(None)
        count = batch_length(self.policy, self._ready_tokens())
        batch, self._ready = self._ready[:count], self._ready[count:]
        self._arrivals.room_changed()
        return batch

    async def _is_due(self) -> bool:
        """Wait until a batch of the entries that are ready is due, or until those change; returns whether it is due."""
        oldest_at = min((entry.enqueued_at for entry in self._ready), default=None)
        if oldest_at is None:
            return not await self._ready_changes(None)
        due = dispatch_at(self.policy, oldest_at, expect_more=self._expect_more)
        # A timer may fire a little before its time, and counts.
        return asyncio.get_running_loop().time() >= due or not await self._ready_changes(due)

    def _has_arrivals(self) -> bool:
        return self._is_preprocessing or not self._arrivals.empty()

    async def _ready_changes(self, until: float | None) -> bool:
        """Wait until there are other entries ready, but not past `until`; returns whether there are."""
        self._ready_changed.clear()
        # Not `wait_for`: on Python 3.11 it swallows a cancellation that comes in the same tick.
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._ready_changed.wait()
                return True
        return False

    async def _run_batch(self, batch: list[Entry]) -> None:
        """Run one batch and complete each of its entries."""
        tokens = sum(entry.prepared.tokens for entry in batch)
        started = self._running_since = self.clock()
        self._running = batch
        with self.model_watchdog.watching():
            results = await self.runner.run([entry.prepared for entry in batch], self.model_watchdog.heartbeat)
        model_s = self.clock() - started
        self._running, self._model_total_s = [], self._model_total_s + model_s
        self._expect_more = len(self.admission) > 1
        self.latency_model.observe(BatchCost(self._exposed_s + model_s, len(batch), tokens))
        self._exposed_s = 0.0
        metrics.BATCH_SIZE.observe(len(batch))
        metrics.BATCH_TOKENS.observe(tokens)
        metrics.MODEL_SECONDS.observe(model_s)
        for entry, result in zip(batch, one_for_each(results, batch), strict=True):
            error = result if isinstance(result, PipelineServerError) else None
            output = None if error else result
            queue_s = started - entry.submitted_at
            metrics.QUEUE_SECONDS.observe(queue_s)
            self.admission.complete(entry, Result(output, error, queue_s, model_s, len(batch)), outcome_of(error))

    # Times

    def _model_s(self) -> float:
        """Seconds that the model has been running batches, in total."""
        return self._model_total_s + self.busy_s

    # Entries that are no longer wanted

    def _ready_tokens(self) -> list[int]:
        return [entry.prepared.tokens for entry in self._ready]

    def _drop_unwanted(self) -> None:
        self._ready = [entry for entry in self._ready if not self._is_dropped(entry)]
        self._arrivals.room_changed()
