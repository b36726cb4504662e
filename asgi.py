"""The dealings with the ASGI server underneath: request ids, bodies, hang-ups, termination, a failed start in one line.

It must never know the routes, the queue or the model.
"""

import asyncio
import atexit
import math
import os
import re
import signal
import sys
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import metrics
from errors import DeadlineExceeded, TooLarge

SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


async def read_body(request: Request, limit: int, deadline: float) -> bytes:
    """The body, in bytes. Raises `TooLarge` before taking more than `limit`, `DeadlineExceeded` at the deadline."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and len(declared) < 20 and int(declared) > limit:
        raise TooLarge(f"The body has {declared} bytes; the limit is {limit}.")
    body = bytearray()
    try:
        async with asyncio.timeout_at(deadline):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise TooLarge(f"The body has at least {len(body)} bytes; the limit is {limit}.")
    except TimeoutError:
        raise DeadlineExceeded("The body did not arrive in time.") from None
    return bytes(body)


async def hang_up(receive: Receive) -> None:
    """Return when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


@contextmanager
def on_termination(begin: Callable[[], object], timeout_s: float) -> Iterator[bool]:
    """Call `begin` in the event loop as soon as uvicorn is told to end; after SIGTERM the process ends with status 0.

    uvicorn drains by itself, but without a limit, it tells the app only when it has, and then it raises the signal
    again, so that the status would be that of a killed process. Yields whether uvicorn is there; without it this does
    nothing.
    """
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    server = getattr(previous[signal.SIGTERM], "__self__", None)
    if not isinstance(server, uvicorn.Server):
        yield False
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
        yield True
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def leave_at_once() -> None:
    """End the process, when it comes to that, without taking the interpreter down: a thread is still in the model.

    The thread would come back in the middle of it, which aborts the process (seen).
    """

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)

    atexit.register(leave)


class Envelope:
    """Around the whole app: what every message has in common.

    `paths` are those counted by name. `startup_error` gives the line that replaces the traceback of a failed start.
    """

    def __init__(self, app: ASGIApp, paths: Collection[str], startup_error: Callable[[], str | None]) -> None:
        self.app = app
        self.paths = paths
        self.startup_error = startup_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, self._one_line(send))
        elif scope["type"] == "http":
            await self._identified(Request(scope), receive, send)
        else:
            await self.app(scope, receive, send)

    def _one_line(self, send: Send) -> Send:
        async def send_one_line(message: Message) -> None:
            line = self.startup_error()
            if message["type"] == "lifespan.startup.failed" and line:
                message = {**message, "message": line}
            await send(message)

        return send_one_line

    async def _identified(self, request: Request, receive: Receive, send: Send) -> None:
        theirs = request.headers.get("x-request-id", "")
        request.state.request_id = theirs if SANE_REQUEST_ID.fullmatch(theirs) else uuid.uuid4().hex
        request.state.error_type = ""
        status = 500  # what is made of an error that nobody foresaw, outside of here

        async def send_identified(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request.state.request_id
            await send(message)

        try:
            await self.app(request.scope, receive, send_identified)
        except Exception:
            request.state.error_type = "internal"
            raise
        finally:
            # A path that is not a route has no series of its own, or anyone could make thousands.
            route = request.scope["path"] if request.scope["path"] in self.paths else "unknown"
            metrics.REQUESTS.labels(route, status, request.state.error_type).inc()
