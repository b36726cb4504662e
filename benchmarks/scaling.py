"""The command: `python -m benchmarks.scaling` measures threads against processes, and a model of latency against load.

Owns what is compared and the form of `scaling.md`. It must never know torch.
"""

import argparse
import logging
import sys
import tempfile
from pathlib import Path

from benchmarks.figures import milliseconds, percentile
from benchmarks.machine import this_machine, usable_cores
from benchmarks.models import BUNDLED, MODELS, Model, folder_of
from benchmarks.processes import ROOT, Server, run_unless_terminated
from benchmarks.queueing import fit, simulate
from benchmarks.report import latency, number, table
from benchmarks.results import ModelResult, SubjectResult
from benchmarks.session import Session
from benchmarks.subjects import Subjects
from benchmarks.texts import texts_for
from benchmarks.workloads import FULL, Closed, Open

ALONE, MANY = Closed(1), Closed(64)
CLOSED = (ALONE, Closed(8), FULL, MANY)
OPEN = tuple(Open(share, of_naive=False) for share in (0.2, 0.4, 0.6, 0.8, 0.9))
MAX_BATCH_SIZE = 32
EMPTY = "1 process, a model that costs nothing"


def variants(cores: int) -> dict[str, tuple[int, int]]:
    """Processes and threads of each, by name: the default first, then one core, and as many processes as cores."""
    found = [(1, cores), (1, 1), (cores, 1), (cores, cores)]
    return {f"{p} process{'es' * (p > 1)}, {t} thread{'s' * (t > 1)}": (p, t) for p, t in dict.fromkeys(found)}


def servers(model: Model, folder: Path, logs: Path) -> dict[str, Server]:
    environment = {"PIPELINE_MODEL": str(folder), "PIPELINE_TASK": model.task}
    return {
        name: Server("server:app", {**environment, "PIPELINE_THREADS": str(threads)}, logs / f"{name}.log", processes)
        for name, (processes, threads) in variants(usable_cores()).items()
    }


async def measure(model: Model, options: argparse.Namespace, scratch: Path) -> ModelResult:
    folder = await folder_of(model, options.models or scratch)
    texts = texts_for(folder, model.task)
    result = ModelResult(model.name, model.task, model.description)
    found = Subjects(servers=servers(model, folder, scratch))
    await Session(result, found, texts, options.rounds, options.seconds, CLOSED, OPEN).run()
    return result


async def without_a_model(options: argparse.Namespace, scratch: Path) -> str:
    """What the event loop of one process can do, whatever the model."""
    texts, result = texts_for(BUNDLED, "fill-mask"), ModelResult("no model", "fill-mask", "")
    found = Subjects(servers={EMPTY: Server("benchmarks.empty:app", {}, scratch / "empty.log")})
    await Session(result, found, texts, options.rounds, options.seconds, CLOSED, ()).run()
    return throughput(result)


def throughput(result: ModelResult) -> str:
    rows = []
    for subject in result.subjects:
        cells = [f"{number(subject.median(w.name, 'texts_per_s'))}: {latency(subject, w.name)}" for w in CLOSED]
        rows.append([subject.name, *cells, number(subject.rss_mb)])
    return table(["texts/s: p50 / p99 ms", *(workload.name for workload in CLOSED), "memory, MB"], rows)


def predicted(subject: SubjectResult, rate_per_s: float, processes: int, lengths: list[float]) -> list[float]:
    """Latencies by the model, in seconds: each process has its part of the arrivals and of the clients."""
    alone, full = (subject.median(workload.name, "texts_per_s") or 0.0 for workload in (ALONE, FULL))
    cost = fit(alone, full / processes, FULL.clients / processes)
    return simulate(cost, rate_per_s / processes, lengths, MAX_BATCH_SIZE)


def against_load(result: ModelResult, lengths: list[float]) -> str:
    rows = []
    for subject in result.subjects:
        processes, _ = variants(usable_cores())[subject.name]
        for workload in OPEN:
            rate = subject.median(workload.name, "rate_per_s")
            if not rate:
                continue
            found = predicted(subject, rate, processes, lengths)
            p50, p99 = (milliseconds(percentile(found, share)) for share in (0.5, 0.99))
            in_house = rate * sum(found) / len(found)
            name = f"{subject.name}, {number(rate)}/s, {workload.share:.0%}"
            rows.append([name, latency(subject, workload.name), f"{number(p50)} / {number(p99)}", number(in_house)])
    return table(["load", "p50 / p99 ms", "by the model", "texts in the house, by the model"], rows)


def errors(result: ModelResult) -> list[str]:
    failed = [f"{subject.name}: {subject.failure}" for subject in result.subjects if subject.failure]
    counts = [(s.name, m) for s in result.subjects for m in s.measurements if m.errors]
    return failed + [f"{name}, {m.workload}: {m.errors} errors, e.g. `{m.first_error}`" for name, m in counts]


async def run(options: argparse.Namespace) -> list[str]:
    machine = this_machine()
    parts = ["# Processes, threads and load", f"{machine.processor}, {machine.cores} cores, {machine.instructions}."]
    parts.append(f"Medians of {options.rounds} rounds of {options.seconds:g} s.")
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as scratch:
        parts += ["## No model", await without_a_model(options, Path(scratch))]
        for model in (MODELS[name] for name in options.only):
            result = await measure(model, options, Path(scratch))
            texts = texts_for(await folder_of(model, options.models or Path(scratch)), model.task)
            lengths = [float(len(text.split())) for text in texts]
            parts += [f"## {model.name}", *errors(result), throughput(result), against_load(result, lengths)]
            (options.output / "scaling.md").write_text("\n\n".join(parts) + "\n", "utf-8")
    return parts


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    add = parser.add_argument
    add("--only", nargs="+", choices=list(MODELS), default=list(MODELS), metavar="MODEL", help=", ".join(MODELS))
    add("--seconds", type=float, default=5.0, help="of each measurement")
    add("--rounds", type=int, default=3)
    add("--models", type=Path, metavar="FOLDER", help="keep the models here for the next run")
    add("--output", type=Path, default=ROOT / "benchmarks" / "results", metavar="FOLDER")
    options = parser.parse_args()
    sys.stdout.write("\n\n".join(run_unless_terminated(run(options))) + "\n")


if __name__ == "__main__":
    main()
