"""The command: `python -m benchmarks.embeddings FOLDER` compares our embeddings with those of sentence-transformers.

One model, the same texts for each server, in turn: texts per second with 1, 8 and 32 clients, p99 latency, and the
largest difference between the embeddings. It must never know torch.
"""

import argparse
import itertools
import json
import logging
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.connection import request_of
from benchmarks.figures import milliseconds, percentile
from benchmarks.load import ask_all, closed_loop
from benchmarks.processes import Server, run_unless_terminated
from benchmarks.texts import texts_for

logger = logging.getLogger("benchmarks")

OURS, ONE_BY_ONE, IN_BATCHES = "this server", "sentence-transformers, one by one", "sentence-transformers, in batches"
CLIENTS = (1, 8, 32)
COMPARED_TEXTS = 50


def servers(folder: Path, logs: Path) -> dict[str, Server]:
    theirs = {"BENCHMARK_MODEL": str(folder)}
    return {
        OURS: Server("server:app", {"PIPELINE_MODEL": str(folder)}, logs / "ours.log"),
        ONE_BY_ONE: Server("benchmarks.sentence_servers:unbatched", theirs, logs / "one by one.log"),
        IN_BATCHES: Server("benchmarks.sentence_servers:batched", theirs, logs / "in batches.log"),
    }


def requests_for(name: str, texts: Sequence[str]) -> list[bytes]:
    """Requests whose responses have the numbers as JSON."""
    if name != OURS:
        return [request_of(text) for text in texts]
    form = {"model": "any", "encoding_format": "float"}
    return [request_of(json.dumps({**form, "input": text}), "/v1/embeddings", "application/json") for text in texts]


async def worst_difference(running: Mapping[str, Server], texts: Sequence[str]) -> float:
    """The largest difference of any number of any embedding."""
    some = texts[:COMPARED_TEXTS]
    ours = await ask_all(running[OURS].address, requests_for(OURS, some))
    theirs = await ask_all(running[ONE_BY_ONE].address, requests_for(ONE_BY_ONE, some))
    worst = 0.0
    for one, other in zip(ours, theirs, strict=True):
        embedding = json.loads(one or b"{}")["data"][0]["embedding"]
        worst = max(worst, *(abs(a - b) for a, b in zip(embedding, json.loads(other or b"[]"), strict=True)))
    return worst


async def measure(running: Mapping[str, Server], texts: Sequence[str], rounds: int, seconds: float) -> None:
    rates: dict[tuple[str, int], list[float]] = {}
    for turn, clients in itertools.product(range(rounds), CLIENTS):
        for name, server in running.items():
            endless = itertools.cycle(requests_for(name, texts))
            await closed_loop(server.address, endless, clients, 0.3)
            tally = await closed_loop(server.address, endless, clients, seconds)
            rates.setdefault((name, clients), []).append(tally.per_second)
            p99 = milliseconds(percentile(tally.latencies_s, 0.99))
            errors = f"  {tally.errors} ERRORS: {tally.first_error}" if tally.errors else ""
            logger.info(
                "%d  %2d clients  %-34s %7.1f/s  p99 %s ms%s", turn, clients, name, tally.per_second, p99, errors
            )
    for clients in CLIENTS:
        medians = {name: statistics.median(rates[name, clients]) for name in running}
        for name in (ONE_BY_ONE, IN_BATCHES):
            logger.info("%2d clients: %.2f times %s", clients, medians[OURS] / medians[name], name)


async def run(folder: Path, rounds: int, seconds: float) -> None:
    texts = texts_for(folder, "feature-extraction")
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as logs:
        running = servers(folder, Path(logs))
        try:
            for server in running.values():
                await server.start()
            logger.info("worst difference: %.1e", await worst_difference(running, texts))
            await measure(running, texts, rounds, seconds)
        finally:
            for server in running.values():
                await server.end()


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embeddings", description=__doc__)
    parser.add_argument("folder", type=Path, help="a model with a sentence-transformers configuration")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    options = parser.parse_args()
    run_unless_terminated(run(options.folder.resolve(), options.rounds, options.seconds))


if __name__ == "__main__":
    main()
