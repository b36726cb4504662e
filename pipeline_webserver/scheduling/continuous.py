"""Continuous batching: a serving loop whose every step computes tokens of all sequences that run.

Inputs join and leave between steps, so no input waits for the last token of another. It acts on what `step_policy`
decides. It must never know HTTP, torch, JSON or settings: what computes a step is behind `StepRunner`.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

from pipeline_webserver.errors import PipelineServerError
from pipeline_webserver.scheduling.admission import AdmissionController
from pipeline_webserver.scheduling.entry import Entry, Result
from pipeline_webserver.scheduling.serving_loop import ServingLoop, one_for_each, outcome_of, run_until_first_end
from pipeline_webserver.scheduling.step_latency import StepCost, StepLatencyModel
from pipeline_webserver.scheduling.step_policy import StepPolicy, schedule, startable
from pipeline_webserver.scheduling.step_runner import StepRunner
from pipeline_webserver.telemetry import metrics

# Inputs that are preprocessed in one call, and that wait for room in the cache, but for those that overtake them.
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
        self._waiting: list[Entry] = []  # preprocessed, in their order
        self._running: list[Entry] = []
        self._released: list[Entry] = []  # ran, and are not wanted any more
        self._started: dict[Entry, float] = {}  # by the clock
        self._sizes: dict[Entry, int] = {}  # of the largest step that each was in, in entries
        self._token_at: dict[Entry, float] = {}  # when each had its last token, by the clock
        self._changed = asyncio.Event()

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
            arrivals = await self._arrivals.take(MAX_PREPROCESSED)
            await self._preprocess([entry for entry in arrivals if not self._is_dropped(entry)])
            self._changed.set()

    def _has_room_for(self, entry: Entry, taken: int) -> bool:
        """Whether it may wait, ready, with so many others taken before it; always where it overtakes one that does."""
        return len(self._waiting) + taken < MAX_PREPROCESSED or (bool(self._waiting) and entry < self._waiting[-1])

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
        for entry in unwanted:
            if asyncio.get_running_loop().time() >= entry.deadline:
                # Else a server on which all come too late would never learn that they do.
                self.latency_model.observe_entry(entry.prepared)
            self._running.remove(entry)
            self._forget(entry)
        self._released += unwanted

    def _start(self) -> None:
        """Let those that wait run, as far as there is room for them."""
        sequences = sum(len(entry.prepared.sequences) for entry in self._running)
        reserved = sum(entry.prepared.cache_tokens for entry in self._running)
        needs = [(len(entry.prepared.sequences), entry.prepared.cache_tokens) for entry in self._waiting]
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
        self._arrivals.room_changed()
        metrics.GENERATING.set(len(self._running))
        metrics.CACHE_TOKENS.set(sum(entry.prepared.cache_tokens for entry in self._running))

    async def _run_step(self) -> None:
        """Compute one step and complete the entries that have ended."""
        running = [
            (entry, sequence)
            for entry in self._running
            for sequence in entry.prepared.sequences
            if not sequence.is_ended
        ]
        counts = schedule(self.policy, [sequence.pending_tokens for _, sequence in running])
        chosen = [(entry, sequence, count) for (entry, sequence), count in zip(running, counts, strict=True) if count]
        released, self._released = [entry.prepared for entry in self._released], []
        assert chosen or released, "a sequence that has not ended has tokens to compute"
        metrics.PROMPT_TOKENS.inc(sum(count for _, sequence, count in chosen if not sequence.new_tokens))
        tokens_before = {entry: new_tokens(entry) for entry in self._running}
        started = self.clock()
        with self.model_watchdog.watching():
            work = [(sequence, count) for _, sequence, count in chosen]
            await self.runner.step(work, released, self.model_watchdog.heartbeat)
        if chosen:
            entries = list(dict.fromkeys(entry for entry, _, _ in chosen))
            model_s = self._observe(started, entries, sum(counts))
            self.latency_model.observe(StepCost(model_s, sum(counts)))
            self._observe_tokens(tokens_before)
        for entry in [entry for entry in self._running if entry.prepared.result is not None]:
            self._complete(entry, entry.prepared.result)

    async def _run_whole(self, entry: Entry) -> None:
        """Generate for one entry that cannot be generated from step by step."""
        started = self.clock()
        with self.model_watchdog.watching():
            results = await self.runner.run([entry.prepared], self.model_watchdog.heartbeat)
        self._observe(started, [entry], entry.prepared.tokens)
        (result,) = one_for_each(results, [entry])
        self._complete(entry, result)

    def _observe(self, started: float, entries: Sequence[Entry], tokens: int) -> float:
        """Count what these entries were together in, since then; returns the seconds it took."""
        model_s = self.clock() - started
        metrics.BATCH_SIZE.observe(len(entries))
        metrics.BATCH_TOKENS.observe(tokens)
        metrics.MODEL_SECONDS.observe(model_s)
        for entry in entries:
            self._sizes[entry] = max(self._sizes.get(entry, 0), len(entries))
        return model_s

    def _observe_tokens(self, before: dict[Entry, int]) -> None:
        """Count the tokens that the last step generated; `before`: how many each entry had."""
        now = self.clock()
        for entry, count in before.items():
            generated = new_tokens(entry) - count
            if not generated:
                continue
            metrics.GENERATED_TOKENS.inc(generated)
            if count:
                metrics.TOKEN_SECONDS.observe(now - self._token_at[entry])
            else:
                metrics.FIRST_TOKEN_SECONDS.observe(now - entry.submitted_at)
            self._token_at[entry] = now

    def _complete(self, entry: Entry, result: object) -> None:
        self._running.remove(entry)
        error = result if isinstance(result, PipelineServerError) else None
        output = None if error else result
        if error is None:  # one that fails may fail early
            self.latency_model.observe_entry(entry.prepared)
        started = self._started[entry]
        timing = (started - entry.submitted_at, self.clock() - started, self._sizes[entry])
        self._forget(entry)
        self.admission.complete(entry, Result(output, error, *timing), outcome_of(error))

    def _forget(self, entry: Entry) -> None:
        self._started.pop(entry, None)
        self._sizes.pop(entry, None)
        self._token_at.pop(entry, None)


def new_tokens(entry: Entry) -> int:
    """How many tokens all sequences of an entry have been given."""
    return sum(sequence.new_tokens for sequence in entry.prepared.sequences)
