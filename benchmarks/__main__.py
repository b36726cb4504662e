"""The command: `python -m benchmarks` measures all subjects on all models and writes the report.

Owns the arguments and the order of models. It must never know torch: the load generator runs in this process, and must
stay light.
"""

import argparse
import datetime
import importlib.util
import logging
import sys
import tempfile
from pathlib import Path

from benchmarks import report
from benchmarks.machine import load_average, this_machine, versions
from benchmarks.models import MODELS, Model, folder_of
from benchmarks.options import parse, parser
from benchmarks.processes import run_module, run_unless_terminated
from benchmarks.results import ModelResult, Results, save
from benchmarks.session import Session
from benchmarks.soak import soak
from benchmarks.subjects import OURS, SERVERS, server, subjects
from benchmarks.texts import texts_for
from benchmarks.workloads import estimate_s

logger = logging.getLogger("benchmarks")

BUSY = 0.5


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """With 0 rounds, nothing but a soak."""
    options_parser = parser("python -m benchmarks", __doc__)
    add = options_parser.add_argument
    add("--bfloat16", action="store_true", help="also measure this server in bfloat16")
    add(
        "--soak",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="then load this server alone with the first model, and watch its memory; with --rounds 0, only that",
    )
    add("--quick", action="store_true", help="one round of half a second: to try the command, not to measure")
    options = parse(options_parser, given)
    if options.quick:
        options.seconds, options.rounds = 0.5, 1
    return options


async def measure(model: Model, options: argparse.Namespace, scratch: Path) -> ModelResult:
    folder = await folder_of(model, options.models or scratch)
    result = ModelResult(model.name, model.task, model.description)
    measured = subjects(model, folder, scratch, bfloat16=options.bfloat16)
    await Session(result, measured, texts_for(folder, model.task), options.rounds, options.seconds).run()
    return result


async def run(options: argparse.Namespace, scratch: Path) -> Results:
    """All models, then the soak; the results so far are written after each model."""
    now = datetime.datetime.now(datetime.UTC).date().isoformat()
    results = Results(now, options.seconds, options.rounds, this_machine(), versions())
    models = [MODELS[name] for name in options.only]
    for model in models if options.rounds else []:
        results.models.append(await measure(model, options, scratch))
        await write(results, options.output)
    if options.soak:
        folder = await folder_of(models[0], options.models or scratch)
        logger.info("%s  soaking for %g s", models[0].name, options.soak)
        ours = server(OURS, models[0], folder, scratch)
        results.soak = await soak(models[0].name, ours, texts_for(folder, models[0].task), options.soak)
        await write(results, options.output)
    return results


async def write(results: Results, folder: Path) -> None:
    """The files; another process draws the picture, so that matplotlib does not slow the load generator down."""
    save(results, folder / "results.json")
    report.write(results, folder)
    if not results.models:
        return
    if importlib.util.find_spec("matplotlib") is None:
        logger.warning("matplotlib is not installed, so there will be no results.png.")
        return
    await run_module("benchmarks.plot", str(folder))


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    options = arguments()
    servers = len(SERVERS) - (not options.bfloat16)
    models = len(options.only) if options.rounds else 0
    estimated_s = estimate_s(models, servers, options.rounds, options.seconds) + options.soak
    logger.info("This takes about %.0f minutes, and needs an otherwise idle machine.", max(1, estimated_s / 60))
    if (load_average() or 0.0) > BUSY:
        logger.warning("The machine is busy: its load average is %.1f. The figures will be noisy.", load_average())
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as scratch:
        results = run_unless_terminated(run(options, Path(scratch)))
    logger.info("Results are in %s", options.output)
    if report.problems(results):
        raise SystemExit("The run had errors; results.md begins with them.")


if __name__ == "__main__":
    main()
