"""The soak: this server alone under full load for a long time, while its memory is sampled.

Owns the sampling. It must never know the other servers.
"""

import asyncio
import itertools
from collections.abc import Sequence

from benchmarks.connection import request_of
from benchmarks.figures import slope
from benchmarks.load import Tally, closed_loop
from benchmarks.processes import Failed, Server
from benchmarks.results import Soak
from benchmarks.workloads import FULL

MAX_INTERVAL_S = 5.0
Samples = list[tuple[float, float]]


async def sample(server: Server, interval_s: float, samples: Samples) -> None:
    """Seconds and megabytes, until cancelled."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    while True:
        if (megabytes := server.rss_mb) is not None:
            samples.append((loop.time() - started, megabytes))
        await asyncio.sleep(interval_s)


def soak_of(model: str, tally: Tally, samples: Samples, failure: str | None) -> Soak:
    """The figures; slopes are per minute."""
    minutes = [(seconds / 60, megabytes) for seconds, megabytes in samples]
    megabytes = [value for _, value in samples]
    return Soak(
        model=model,
        clients=FULL.clients,
        seconds=tally.elapsed_s,
        texts_per_s=tally.per_second,
        errors=tally.errors,
        first_error=tally.first_error,
        samples=samples,
        first_mb=megabytes[0] if megabytes else None,
        last_mb=megabytes[-1] if megabytes else None,
        max_mb=max(megabytes, default=None),
        mb_per_minute=slope(minutes),
        late_mb_per_minute=slope(minutes[len(minutes) // 2 :]),
        failure=failure,
    )


async def soak(model: str, server: Server, texts: Sequence[str], seconds: float) -> Soak:
    requests = itertools.cycle([request_of(text) for text in texts])
    samples: Samples = []
    try:
        await server.start()
        await closed_loop(server.address, requests, FULL.clients, 1.0)
        sampling = asyncio.create_task(sample(server, min(MAX_INTERVAL_S, seconds / 20), samples))
        tally = await closed_loop(server.address, requests, FULL.clients, seconds)
        sampling.cancel()
        await asyncio.wait({sampling})
        failure = None if server.alive else str(server.failure("ended"))
        return soak_of(model, tally, samples, failure)
    except Failed as error:
        return soak_of(model, Tally(), samples, str(error))
    finally:
        await server.end()
