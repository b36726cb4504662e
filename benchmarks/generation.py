"""The command: `python -m benchmarks.generation` compares the text generation of this server with the naive server's.

Both are asked for greedy texts of various lengths, by clients in closed loops, in turn; what they answer is compared
first. It must never know torch.
"""

import asyncio
import json
import logging
import math
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import options
from benchmarks.connection import Address, connect
from benchmarks.figures import percentile
from benchmarks.processes import Server, run_module, run_unless_terminated
from benchmarks.texts import texts_for

logger = logging.getLogger("benchmarks")

CLIENTS = (1, 16, 32)
# New tokens of a request: log-normal, as lengths of answers are.
SHORTEST, LONGEST, MEDIAN_TOKENS, SIGMA = 4, 128, 25, 0.8
# A request of so few tokens is a short one.
SHORT_TOKENS = 12
COMPARED = 6


@dataclass(frozen=True, slots=True)
class Ask:
    """A request, and how many tokens it asks for."""

    content: bytes
    tokens: int


@dataclass(slots=True)
class Outcome:
    """Of one loop: tokens of the answers in its time, its seconds, and the latencies of all and of short requests."""

    tokens: int = 0
    elapsed_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    short_s: list[float] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        return self.tokens / self.elapsed_s


def asks(folder: Path) -> list[Ask]:
    """The same in every run."""
    generator = random.Random(5)  # noqa: S311 - repeatable, not secret
    made = []
    for text in texts_for(folder, "text-generation"):
        drawn = round(math.exp(generator.gauss(math.log(MEDIAN_TOKENS), SIGMA)))
        tokens = min(LONGEST, max(SHORTEST, drawn))
        parameters = {"do_sample": False, "max_new_tokens": tokens}
        body = json.dumps({"inputs": text, "parameters": parameters}).encode()
        head = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        made.append(Ask(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body, tokens))
    return made


async def closed_loop(address: Address, requests: Iterator[Ask], clients: int, seconds: float) -> Outcome:
    """Each client sends its next request when it has its answer; those that end within the time count."""
    loop, outcome = asyncio.get_running_loop(), Outcome()
    began = loop.time()

    async def client() -> None:
        connection = await connect(address)
        while (sent := loop.time()) < began + seconds:
            ask = next(requests)
            reply = await connection.exchange(ask.content)
            assert reply.status == 200, reply.body
            done = loop.time()
            if done <= began + seconds:
                outcome.tokens += ask.tokens
                outcome.latencies_s.append(done - sent)
                if ask.tokens <= SHORT_TOKENS:
                    outcome.short_s.append(done - sent)
        connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    outcome.elapsed_s = seconds
    return outcome


async def answers(address: Address, requests: list[Ask]) -> list[object]:
    connection = await connect(address)
    found = [json.loads((await connection.exchange(ask.content)).body) for ask in requests]
    connection.close()
    return found


async def measure(folder: Path, logs: Path, rounds: int, seconds: float) -> None:
    environment = {"PIPELINE_MODEL": str(folder), "PIPELINE_TASK": "text-generation", "HF_HUB_OFFLINE": "1"}
    naive_environment = {"BENCHMARK_MODEL": str(folder), "BENCHMARK_TASK": "text-generation", "HF_HUB_OFFLINE": "1"}
    subjects = {
        "this server": Server("server:app", environment, logs / "server.log"),
        "naive server": Server("benchmarks.llama:naive", naive_environment, logs / "naive.log"),
    }
    requests = asks(folder)
    try:
        for server in subjects.values():
            await server.start()
        compared = [await answers(server.address, requests[:COMPARED]) for server in subjects.values()]
        equal = sum(ours == theirs for ours, theirs in zip(*compared, strict=True))
        logger.info("%d of %d answers are equal", equal, COMPARED)
        for clients in CLIENTS:
            rates: dict[str, list[float]] = {name: [] for name in subjects}
            for _ in range(rounds):
                for name, server in subjects.items():
                    outcome = await closed_loop(server.address, iter(requests), clients, seconds)
                    rates[name].append(outcome.per_second)
                    logger.info(
                        "%2d clients  %-12s  %6.1f tokens/s  p50 %6.0f ms  short ones %6.0f ms",
                        clients,
                        name,
                        outcome.per_second,
                        1000 * (percentile(outcome.latencies_s, 0.5) or math.nan),
                        1000 * (percentile(outcome.short_s, 0.5) or math.nan),
                    )
            ours, theirs = rates.values()
            ratios = [one / other for one, other in zip(ours, theirs, strict=True) if other]
            logger.info("%2d clients: %.1f times as many tokens", clients, statistics.median(ratios or [math.nan]))
    finally:
        for server in subjects.values():
            await server.end()


async def run(rounds: int, seconds: float, cache: Path | None) -> None:
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as temporary:
        folder = (cache or Path(temporary)) / "llama"
        if not (folder / "config.json").is_file() and await run_module("benchmarks.llama", str(folder)):
            raise RuntimeError("the model could not be created")
        await measure(folder, Path(temporary), rounds, seconds)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    parser = options.parser("python -m benchmarks.generation", __doc__)
    parser.set_defaults(seconds=30.0)  # with 32 clients, an answer of the naive server takes 30 s
    given = options.parse(parser)
    run_unless_terminated(run(given.rounds, given.seconds, given.models))


if __name__ == "__main__":
    main()
