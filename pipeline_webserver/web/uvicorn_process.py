"""The dealings with the ASGI server underneath: bodies, hang-ups, termination.

It must never know the routes, the queue or the model.
"""

import asyncio
import atexit
import math
import multiprocessing
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from types import FrameType

import uvicorn
from starlette.requests import Request
from starlette.types import Receive

from pipeline_webserver.errors import Draining, Overloaded, TooLarge, TooSlow

# Bodies of full size that may be in the house at once.
MOST_BODIES = 64


class Bodies:
    """The bodies in the house: each of `most_bytes` at most, and no more in all than `MOST_BODIES` of that size.

    Those who send slowly hold a connection, but not much memory; those who send much are let go when it is too much.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._held_bytes = 0
        self._waiting: set[asyncio.Timeout] = set()
        self._draining = False

    @asynccontextmanager
    async def of(self, request: Request, deadline: float) -> AsyncIterator[bytes]:
        """It counts until the end of the context.

        Raises `TooLarge` before taking more than it may, `TooSlow` at the deadline, `Overloaded`, `Draining`.
        """
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and (len(declared) > 19 or int(declared) > self.most_bytes):
            raise TooLarge(f"The body has {declared[:20]} bytes; the limit is {self.most_bytes}.")
        body = bytearray()
        try:
            await self._read(request, body, deadline)
            yield bytes(body)
        finally:
            self._held_bytes -= len(body)

    async def _read(self, request: Request, body: bytearray, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline) as patience:
                self._waiting.add(patience)
                async for chunk in request.stream():
                    self._take(body, chunk)
        except TimeoutError:
            if self._draining:
                raise Draining("The server is shutting down; the body was not there in time.") from None
            raise TooSlow("The body did not arrive in time.") from None
        finally:
            self._waiting.discard(patience)

    def _take(self, body: bytearray, chunk: bytes) -> None:
        body += chunk
        self._held_bytes += len(chunk)
        if len(body) > self.most_bytes:
            raise TooLarge(f"The body has at least {len(body)} bytes; the limit is {self.most_bytes}.")
        if self._held_bytes > MOST_BODIES * self.most_bytes:
            raise Overloaded("The server is full: too much is being sent to it.")

    def drain(self, deadline: float) -> None:
        """Wait for no body beyond this time of the loop."""
        self._draining = True
        for patience in self._waiting:
            due = patience.when()
            if not patience.expired() and (due is None or due > deadline):
                patience.reschedule(deadline)


async def hang_up(receive: Receive) -> None:
    """Return when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


@contextmanager
def on_termination(begin: Callable[[], object], timeout_s: float) -> Iterator[uvicorn.Server | None]:
    """Call `begin` in the event loop as soon as uvicorn is told to end; after SIGTERM the process ends with status 0.

    uvicorn drains by itself, but without a limit, it tells the app only when it has, and then it raises the signal
    again, so that the status would be that of a killed process. Yields the server that runs the app; without uvicorn
    this does nothing.
    """
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    server = getattr(previous[signal.SIGTERM], "__self__", None)
    if not isinstance(server, uvicorn.Server):
        yield None
        return
    if server.config.timeout_graceful_shutdown is None:
        # Connections of those who neither finish sending nor read their answer; a little after everyone was answered.
        server.config.timeout_graceful_shutdown = math.ceil(timeout_s) + 1
    loop = asyncio.get_running_loop()

    def terminate(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(begin)
        if number == signal.SIGTERM:
            server.should_exit = True
        else:
            server.handle_exit(number, frame)

    for number in previous:
        signal.signal(number, terminate)
    try:
        yield server
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def workers() -> int:
    """How many processes like this one uvicorn runs. It does not tell them, but they have its command line."""
    return 1 if multiprocessing.parent_process() is None else workers_of(sys.argv[1:], os.environ)


def workers_of(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """How many uvicorn starts by this command line and in this environment."""
    told: int | None = uvicorn.main.make_context("uvicorn", [*arguments], resilient_parsing=True).params["workers"]
    return told or int(environment.get("WEB_CONCURRENCY", 1))


def leave_at_once(status: int) -> None:
    """End the process, when it comes to that, without taking the interpreter down.

    A thread that is still in the model would come back in the middle of that, which aborts the process (seen); and
    uvicorn knows no status for a failure after the start.
    """

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    atexit.register(leave)
