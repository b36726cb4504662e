"""The load generator: clients in a closed loop, and arrivals in an open one.

Owns when requests are sent, the clock, and the counts of responses and errors. It must never know processes, models,
or what the figures are for.
"""

import asyncio
from array import array
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.connection import Address, Connection, NotHttp, Reply, connect

TIMEOUT_S = 60.0


def _seconds() -> "array[float]":
    return array("d")


@dataclass(slots=True)
class Tally:
    """The outcome of a load, in seconds. `late_s`: how long after it was due the generator sent each request."""

    latencies_s: "array[float]" = field(default_factory=_seconds)
    late_s: "array[float]" = field(default_factory=_seconds)
    errors: int = 0
    first_error: str | None = None
    elapsed_s: float = 0.0

    def count_error(self, error: str) -> None:
        self.errors += 1
        self.first_error = self.first_error or error

    @property
    def per_second(self) -> float:
        """Correct responses per second, up to the last of them."""
        return len(self.latencies_s) / self.elapsed_s if self.elapsed_s else 0.0


async def _connect(address: Address, tally: Tally) -> Connection | None:
    """A new connection; None, and an error counted, where there is none."""
    try:
        return await connect(address)
    except OSError as error:
        tally.count_error(f"{type(error).__name__}: {error}")
        return None


async def _exchange(connection: Connection, request: bytes, tally: Tally) -> Reply | None:
    """The reply, if its status is 200; every other outcome counts as an error."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reply = await connection.exchange(request)
    except (OSError, NotHttp) as error:
        connection.close()  # after a time-out (an `OSError`, too) the response may still arrive
        tally.count_error(f"{type(error).__name__}: {error}")
        return None
    if reply.status != 200:
        tally.count_error(f"status {reply.status}: {reply.body[:200].decode(errors='replace')}")
        return None
    return reply


async def closed_loop(address: Address, requests: Iterator[bytes], clients: int, seconds: float) -> Tally:
    """Clients that send until the time is over; requests in flight then are waited for and count.

    The rate is taken up to the last response: cut off at the end of the time, it would depend on whether a batch was
    nearly done just then. A client that cannot connect ends.
    """
    loop = asyncio.get_running_loop()
    tally = Tally()
    connections = await asyncio.gather(*(_connect(address, tally) for _ in range(clients)))
    started = loop.time()

    async def client(connection: Connection | None) -> None:
        while connection is not None and (sent := loop.time()) < started + seconds:
            if await _exchange(connection, next(requests), tally) is not None:
                tally.latencies_s.append(loop.time() - sent)
                tally.elapsed_s = loop.time() - started
            elif not connection.usable:
                connection = await _connect(address, tally)
        if connection is not None:
            connection.close()

    await asyncio.gather(*(client(connection) for connection in connections))
    return tally


class Pool:
    """Reusable connections; a new one is opened when all are busy."""

    def __init__(self, address: Address, tally: Tally) -> None:
        self.address = address
        self.tally = tally
        self._idle: list[Connection] = []

    async def acquire(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return await _connect(self.address, self.tally)

    def release(self, connection: Connection) -> None:
        self._idle.append(connection)

    def close(self) -> None:
        for connection in self._idle:
            connection.close()


async def open_loop(address: Address, requests: Iterator[bytes], due_s: Sequence[float]) -> Tally:
    """A request at each of these times, in seconds from the start, however many are still in flight.

    Latency counts from when a request was due, so it includes the delay of a busy generator.
    """
    loop = asyncio.get_running_loop()
    tally = Tally()
    pool = Pool(address, tally)
    started = loop.time()

    async def arrive(due: float) -> None:
        connection = await pool.acquire()
        if connection is None:
            return
        tally.late_s.append(loop.time() - due)
        if await _exchange(connection, next(requests), tally) is not None:
            tally.latencies_s.append(loop.time() - due)
            tally.elapsed_s = loop.time() - started
        pool.release(connection)

    await _at_times([started + offset for offset in due_s], arrive)
    pool.close()
    return tally


async def _at_times(times: Sequence[float], start: Callable[[float], Coroutine[Any, Any, None]]) -> None:
    """Call `start` at each of these times, and wait for all calls."""
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        for time in times:
            await asyncio.sleep(time - loop.time())
            group.create_task(start(time))


async def ask_all(address: Address, requests: Sequence[bytes]) -> list[bytes | None]:
    """The bodies of the responses to requests that are all sent at once; None for an error."""
    tally = Tally()

    async def ask(request: bytes) -> bytes | None:
        connection = await _connect(address, tally)
        reply = await _exchange(connection, request, tally) if connection is not None else None
        if connection is not None:
            connection.close()
        return None if reply is None else reply.body

    return list(await asyncio.gather(*(ask(request) for request in requests)))
