"""The process that uvicorn runs the app in: its shutdown and its exit. It must never know the routes."""

import asyncio
import atexit
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn


class UvicornProcess:
    """The process in which this uvicorn server runs the app."""

    def __init__(self, server: uvicorn.Server) -> None:
        self.server = server
        self._failed = False

    def fail(self) -> None:
        """Shut down, and exit with status 1: uvicorn has no status for a failure after the start."""
        self._failed = self.server.should_exit = True

    def close(self, *, threads_ended: bool) -> None:
        """The last call before uvicorn returns; `threads_ended` says whether no thread runs any more."""
        if self._failed or not threads_ended:
            exit_without_teardown(int(self._failed))


@contextmanager
def graceful_shutdown(begin: Callable[[], object], timeout_s: float) -> Iterator[UvicornProcess | None]:
    """Call `begin` in the event loop as soon as a signal ends uvicorn; after SIGTERM the process exits with status 0.

    uvicorn drains by itself, but without a limit, and the app hears of it only afterwards; then uvicorn raises the
    signal again, so that the status would be that of a killed process. Yields None, and does nothing, unless uvicorn
    runs the app in the main thread of its process.
    """
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    server = getattr(previous[signal.SIGTERM], "__self__", None)
    if not isinstance(server, uvicorn.Server):
        yield None
        return
    if server.config.timeout_graceful_shutdown is None:
        # For connections that neither finish sending nor read their response; a little after every input is complete.
        server.config.timeout_graceful_shutdown = math.ceil(timeout_s) + 1
    terminate = _signal_handler(server, begin, asyncio.get_running_loop())
    for number in previous:
        signal.signal(number, terminate)
    try:
        yield UvicornProcess(server)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _signal_handler(
    server: uvicorn.Server, begin: Callable[[], object], loop: asyncio.AbstractEventLoop
) -> Callable[[int, FrameType | None], None]:
    def terminate(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(begin)
        if number == signal.SIGTERM:
            server.should_exit = True
        else:
            server.handle_exit(number, frame)

    return terminate


def exit_without_teardown(status: int) -> None:
    """At its exit, end the process with this status before the interpreter is torn down.

    A thread that is still in the model would return in the middle of the teardown, which aborts the process (seen).
    """

    def exit_now() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    atexit.register(exit_now)
