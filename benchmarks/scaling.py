"""The command: `python -m benchmarks.scaling` measures threads against processes, and latency against load.

Owns what is compared and the form of `scaling.md`. It must never know torch.
"""

import argparse
import itertools
import logging
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.connection import request_of
from benchmarks.figures import milliseconds, percentile
from benchmarks.load import closed_loop, open_loop
from benchmarks.machine import this_machine, usable_cores
from benchmarks.models import BUNDLED, MODELS, Model, folder_of
from benchmarks.options import parse, parser
from benchmarks.processes import Server, run_unless_terminated
from benchmarks.queueing import fit, simulate
from benchmarks.report import latency, number, table
from benchmarks.results import ModelResult
from benchmarks.session import Session
from benchmarks.subjects import OURS, Subjects, server
from benchmarks.texts import texts_for
from benchmarks.workloads import CLOSED, FULL, poisson_arrivals

logger = logging.getLogger("benchmarks")

EMPTY = "1 process, a model that costs nothing"
SHARES = (0.2, 0.4, 0.6, 0.8, 0.9)
MAX_BATCH_SIZE = 32
# An open loop takes as long as so many measurements of a closed one: its queue needs time to reach its full length.
OPEN_LOOP_FACTOR = 6


def variants(cores: int) -> dict[str, tuple[int, int]]:
    """Processes and threads of each, by name: the default first, then one core, and as many processes as cores."""
    counts = [(1, cores), (1, 1), (cores, 1), (cores, cores)]
    return {f"{p} process{'es' * (p > 1)}, {t} thread{'s' * (t > 1)}": (p, t) for p, t in dict.fromkeys(counts)}


# Threads and processes


async def compare(model: Model, folder: Path, options: argparse.Namespace, logs: Path) -> str:
    environment = {"PIPELINE_MODEL": str(folder), "PIPELINE_TASK": model.task}
    return await throughput(
        model.name,
        {
            name: Server("server:app", {**environment, "PIPELINE_THREADS": str(threads)}, logs / f"{name}.log", count)
            for name, (count, threads) in variants(usable_cores()).items()
        },
        texts_for(folder, model.task),
        options,
    )


async def throughput(name: str, servers: dict[str, Server], texts: list[str], options: argparse.Namespace) -> str:
    result = ModelResult(name, "", "")
    await Session(result, Subjects(servers=servers), texts, options.rounds, options.seconds, opened=()).run()
    rows = []
    for subject in result.subjects:
        if subject.failure or any(subject.of(workload.name, "errors") != [0] * options.rounds for workload in CLOSED):
            raise SystemExit(f"{name}, {subject.name}: {subject.failure or 'errors, see above'}")
        cells = [f"{number(subject.median(w.name, 'texts_per_s'))}: {latency(subject, w.name)}" for w in CLOSED]
        rows.append([subject.name, *cells, number(subject.rss_mb)])
    return table(["texts/s: p50 / p99 ms", *(workload.name for workload in CLOSED), "memory, MB"], rows)


# Latency against load


@dataclass(frozen=True, slots=True)
class Point:
    """One load: the planned rate, the rejected requests, and the measured and predicted latencies in seconds."""

    share: float
    rate_per_s: float
    rejected: int
    measured_s: list[float]
    predicted_s: list[float]

    def row(self) -> list[str]:
        cells = [[milliseconds(percentile(values, share)) for share in (0.5, 0.99)] for values in self.both]
        in_flight = [self.rate_per_s * statistics.mean(values) for values in self.both]  # Little's law
        times = [f"{number(p50)} / {number(p99)}" for p50, p99 in cells]
        rejected = f", {self.rejected} rejected" * bool(self.rejected)
        return [f"{self.share:.0%}, {number(self.rate_per_s)}/s{rejected}", *times, *map(number, in_flight)]

    @property
    def both(self) -> tuple[list[float], list[float]]:
        return self.measured_s, self.predicted_s


async def against_load(model: Model, folder: Path, options: argparse.Namespace, logs: Path) -> str:
    """The server with its defaults. The model's cost is measured before each load, since machines vary in speed."""
    texts = texts_for(folder, model.task)
    lengths = [float(len(text.split())) for text in texts]
    requests = itertools.cycle([request_of(text) for text in texts])
    ours = server(OURS, model, folder, logs)
    rows = []
    try:
        await ours.start()
        for share in SHARES:
            alone, full = [
                (await closed_loop(ours.address, requests, clients, options.seconds)).per_second
                for clients in (1, FULL.clients)
            ]
            rate = share * full
            due_s = poisson_arrivals(rate, OPEN_LOOP_FACTOR * options.seconds, seed=1)
            tally = await open_loop(ours.address, requests, due_s)
            cost = fit(alone, full, FULL.clients)
            predicted = simulate(cost, rate, lengths, MAX_BATCH_SIZE)
            rows.append(Point(share, rate, tally.errors, [*tally.latencies_s], predicted).row())
            logger.info("%s  %s", model.name, rows[-1])
    finally:
        await ours.end()
    times = [f"p50 / p99 ms, {kind}" for kind in ("measured", "predicted")]
    return table(["load", *times, "texts in flight, measured", "predicted"], rows)


async def run(options: argparse.Namespace) -> None:
    machine = this_machine()
    parts = ["# Processes, threads and load"]
    parts.append(f"{machine.processor}, {machine.cores} cores, {' '.join(machine.instructions)}.")
    each = f"Closed loops: medians of {options.rounds} rounds of {options.seconds:g} s"
    parts.append(f"{each}. Loads: one open loop of {OPEN_LOOP_FACTOR * options.seconds:g} s each.")
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as scratch:
        logs = Path(scratch)
        empty = {EMPTY: Server("benchmarks.empty:app", {}, logs / "empty.log")}
        parts += ["## No model", await throughput("no model", empty, texts_for(BUNDLED, "fill-mask"), options)]
        for model in (MODELS[name] for name in options.only):
            folder = await folder_of(model, options.models or logs)
            parts.append(f"## {model.description}")
            parts.append(await compare(model, folder, options, logs))
            parts.append(await against_load(model, folder, options, logs))
            (options.output / "scaling.md").write_text("\n\n".join(parts) + "\n", "utf-8")


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    description = f"{__doc__} Open loops take {OPEN_LOOP_FACTOR} times as long."
    options = parse(parser("python -m benchmarks.scaling", description))
    options.output.mkdir(parents=True, exist_ok=True)
    run_unless_terminated(run(options))


if __name__ == "__main__":
    main()
