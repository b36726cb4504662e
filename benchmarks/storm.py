"""The command: `python -m benchmarks.storm` measures what a storm of retries leaves of the throughput.

One model, with room for as many requests as there are well-behaved clients; then four times as many clients, which all
come back at once after each refusal, on the same server, in turn. Goodput counts answers only.
It must never know torch.
"""

import asyncio
import itertools
import logging
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import models, options
from benchmarks.connection import Address, connect, request_of
from benchmarks.figures import milliseconds, percentile
from benchmarks.load import Tally, closed_loop
from benchmarks.processes import Server, run_unless_terminated
from benchmarks.texts import texts_for

logger = logging.getLogger("benchmarks")

ROOM = 32
STORM = 4 * ROOM
PROBE_PAUSE_S = 0.03
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def probe(address: Address, seconds: float) -> list[float]:
    """The latencies of `/health`, in seconds, meanwhile."""
    loop = asyncio.get_running_loop()
    connection, latencies_s, end = await connect(address), list[float](), loop.time() + seconds
    while (sent := loop.time()) < end:
        await connection.exchange(HEALTH)
        latencies_s.append(loop.time() - sent)
        await asyncio.sleep(PROBE_PAUSE_S)
    connection.close()
    return latencies_s


async def load(address: Address, requests: Iterator[bytes], clients: int, seconds: float) -> Tally:
    """A closed loop, in which refused clients come back at once, beside a probe."""
    tally, latencies_s = await asyncio.gather(closed_loop(address, requests, clients, seconds), probe(address, seconds))
    logger.info(
        "%3d clients  %7.1f texts/s answered  %6.0f/s refused  /health p99 %s ms",
        clients,
        tally.per_second,
        tally.errors / tally.elapsed_s if tally.elapsed_s else 0.0,
        milliseconds(percentile(latencies_s, 0.99)),
    )
    return tally


async def measure(model: models.Model, folder: Path, logs: Path, rounds: int, seconds: float) -> None:
    environment = {
        "PIPELINE_MODEL": str(folder),
        "PIPELINE_TASK": model.task,
        "PIPELINE_MAX_REQUESTS": str(ROOM),
        "PIPELINE_MAX_INPUTS": str(ROOM),
    }
    server = Server("server:app", environment, logs / f"{model.name}.log")
    requests = itertools.cycle([request_of(text) for text in texts_for(folder, model.task)])
    shares = []
    try:
        await server.start()
        await closed_loop(server.address, requests, ROOM, 1.0)
        for _ in range(rounds):
            good = await load(server.address, requests, ROOM, seconds)
            storm = await load(server.address, requests, STORM, seconds)
            shares.append(storm.per_second / good.per_second)
    finally:
        await server.end()
    logger.info("%s: goodput in the storm %.2f times that of %d clients", model.name, statistics.median(shares), ROOM)


async def run(names: list[str], rounds: int, seconds: float, cache: Path | None) -> None:
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as temporary:
        for name in names:
            model = models.MODELS[name]
            folder = await models.folder_of(model, cache or Path(temporary))
            await measure(model, folder, Path(temporary), rounds, seconds)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    given = options.parse(options.parser("python -m benchmarks.storm", __doc__))
    run_unless_terminated(run(given.only, given.rounds, given.seconds, given.models))


if __name__ == "__main__":
    main()
