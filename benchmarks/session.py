"""A session: all subjects of one model, measured in turn.

Owns the order of measurements, and which subject is still measured. It must never know how processes are started, how
figures are computed, or how they are shown.
"""

import itertools
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence

from benchmarks.answers import compare
from benchmarks.connection import request_of
from benchmarks.load import Tally, ask_all, closed_loop, open_loop
from benchmarks.noise import Noise
from benchmarks.processes import Failed, Process
from benchmarks.results import Measurement, ModelResult, SubjectResult, measurement_of
from benchmarks.subjects import DIRECT, NAIVE, OURS, OURS_BFLOAT16, Subjects
from benchmarks.texts import BLOCK
from benchmarks.workloads import (
    ALONE,
    BATCH_SIZES,
    CLOSED,
    FULL,
    OPEN,
    Closed,
    Open,
    batches_of,
    poisson_arrivals,
    rotated,
)

logger = logging.getLogger(__name__)

FIRST_WARM_UP_S, WARM_UP_S = 1.0, 0.3
COMPARED_TEXTS = 50


class Session:
    """Fills a `ModelResult`. A subject that fails is left out from then on, and the others continue."""

    def __init__(
        self,
        result: ModelResult,
        subjects: Subjects,
        texts: Sequence[str],
        rounds: int,
        seconds: float,
        opened: Sequence[Open] = OPEN,
    ) -> None:
        self.result = result
        self.subjects = subjects
        self.rounds = rounds
        self.seconds = seconds
        self.opened = opened
        self._texts = texts
        self._requests = [request_of(text) for text in texts]
        self._processes: dict[str, Process] = {**subjects.servers, **subjects.workers}
        result.subjects = [SubjectResult(name) for name in self._processes]

    async def run(self) -> None:
        try:
            await self._start()
            await self._compare()
            for turn in range(self.rounds):
                await self._closed_round(turn)
            for turn in range(self.rounds):
                await self._open_round(turn)
            self._note_memory()
        finally:
            for process in self._processes.values():
                await process.end()

    # Before and after

    async def _start(self) -> None:
        """One after the other: a server that measures its model at the start needs the machine to itself."""
        for name, process in self._processes.items():
            logger.info("%s  starting %s", self.result.name, name)
            try:
                await process.start()
            except Failed as error:
                self._fail(name, error)
        for name in self._alive(self.subjects.servers):
            await self._warm_up(name, FULL.clients, min(self.seconds, FIRST_WARM_UP_S))

    async def _compare(self) -> None:
        """The answers to texts sent all at once, with those of `pipe(text)`."""
        if DIRECT not in self._alive(self.subjects.workers):
            return
        try:
            references = await self.subjects.workers[DIRECT].ask(f"answers {COMPARED_TEXTS}")
        except Failed as error:
            self._fail(DIRECT, error)
            return
        for name in self._alive([name for name in (OURS, OURS_BFLOAT16) if name in self.subjects.servers]):
            bodies = await ask_all(self.subjects.servers[name].address, self._requests[:COMPARED_TEXTS])
            answers = [None if body is None else json.loads(body) for body in bodies]
            self._subject(name).difference = compare(answers, references)

    def _note_memory(self) -> None:
        for name in self._alive(self._processes):
            self._subject(name).rss_mb = self._processes[name].rss_mb

    # Rounds

    async def _closed_round(self, turn: int) -> None:
        for workload in CLOSED:
            for name in rotated(self._alive(self.subjects.servers), turn):
                await self._closed(name, workload, turn)
        for name in rotated(self._alive(self.subjects.workers), turn):
            try:
                await self._without_server(name, turn)
            except Failed as error:
                self._fail(name, error)

    async def _open_round(self, turn: int) -> None:
        for workload in self.opened:
            for name in rotated(self._alive(self.subjects.servers), turn):
                # The naive server's own capacity is the naive one: measured once.
                if name != NAIVE or workload.of_naive:
                    await self._open(name, workload, turn)

    async def _closed(self, name: str, workload: Closed, turn: int) -> None:
        await self._warm_up(name, 1, min(self.seconds, WARM_UP_S))
        address, noise = self.subjects.servers[name].address, self._noise()
        tally = await closed_loop(address, self._endless(turn), workload.clients, self.seconds)
        self._note(name, measurement_of(tally, workload.name, turn, None, noise.cores()))

    async def _open(self, name: str, workload: Open, turn: int) -> None:
        capacity = self._subject(NAIVE if workload.of_naive else name).median(FULL.name, "texts_per_s")
        if not capacity:
            return
        rate_per_s = workload.share * capacity
        await self._warm_up(name, 1, min(self.seconds, WARM_UP_S))
        due_s, noise = poisson_arrivals(rate_per_s, self.seconds, turn), self._noise()
        tally = await open_loop(self.subjects.servers[name].address, self._endless(turn), due_s)
        self._note(name, measurement_of(tally, workload.name, turn, rate_per_s, noise.cores()))

    async def _without_server(self, name: str, turn: int) -> None:
        worker = self.subjects.workers[name]
        sizes = {ALONE: 1} if name == DIRECT else {batches_of(size): size for size in BATCH_SIZES}
        seconds = self.seconds if name == DIRECT else 2 * self.seconds / len(BATCH_SIZES)
        for workload, size in sizes.items():
            noise = self._noise()
            figures = await worker.ask(f"measure {seconds} {size}")
            self._note(name, Measurement(workload, turn, **figures, others_cores=noise.cores()))

    # Parts

    async def _warm_up(self, name: str, clients: int, seconds: float) -> Tally:
        return await closed_loop(self.subjects.servers[name].address, self._endless(0), clients, seconds)

    def _noise(self) -> Noise:
        return Noise([os.getpid(), *(pid for process in self._processes.values() for pid in process.pids)])

    def _endless(self, turn: int) -> Iterator[bytes]:
        """The same requests for every subject in a round, others in the next; from the beginning of a block."""
        first = turn * 7 * BLOCK % len(self._requests)
        return itertools.cycle(self._requests[first:] + self._requests[:first])

    def _alive(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if self._subject(name).failure is None]

    def _subject(self, name: str) -> SubjectResult:
        result = self.result.find(name)
        assert result is not None, "every process has its result"
        return result

    def _note(self, name: str, measurement: Measurement) -> None:
        self._subject(name).measurements.append(measurement)
        logger.info("%s", progress(self.result.name, name, measurement, self.rounds))
        if not self._processes[name].alive:
            self._fail(name, self._processes[name].failure("ended"))

    def _fail(self, name: str, error: Failed) -> None:
        self._subject(name).failure = str(error)
        logger.error("%s  %s FAILED: %s", self.result.name, name, error)


def progress(model: str, subject: str, measurement: Measurement, rounds: int) -> str:
    """One line of a measurement."""
    p50, p99 = ("-" if ms is None else f"{ms:.1f}" for ms in (measurement.p50_ms, measurement.p99_ms))
    errors = f"  {measurement.errors} ERRORS, the first: {measurement.first_error}" if measurement.errors else ""
    return (
        f"{model}  round {measurement.round + 1}/{rounds}  {measurement.workload:<25}  {subject:<31}"
        f"  {measurement.texts_per_s:8.1f} texts/s  p50 {p50:>8} ms  p99 {p99:>8} ms{errors}"
    )
