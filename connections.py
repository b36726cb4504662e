"""Connections that do not get on: what uvicorn would leave open for ever is closed after a while.

Clients may take their time, but not without end: for the head of a request, for the rest of a body that was refused,
for reading an answer. And as many may be connected as the system allows. It must never know routes or the model.
"""

import asyncio
import contextlib
import sys
from typing import Any

import uvicorn

# Seconds for each of these, and the bytes of a head, and of the rest of a refused body.
PATIENCE_S = 10.0
MOST_HEAD_BYTES, MOST_REFUSED_BYTES = 2**16, 2**28


class Impatience(asyncio.Protocol):
    """For either of uvicorn's two protocols: it gives up on clients that send no head, or read no answer."""

    cycle: Any
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    send_400_response: Any

    patience_s: float
    _giving_up: asyncio.TimerHandle | None = None
    _allowed_bytes = MOST_HEAD_BYTES
    _unread_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._be_patient()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._stop_waiting()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._between_requests():
            self._stop_waiting()
            return
        if self._giving_up is None:  # until now uvicorn waited, for as long as it was told to
            self._be_patient()
        self._allowed_bytes -= len(data)
        if self._allowed_bytes < 0 and not self.transport.is_closing():
            self.send_400_response("The head of the request is too large.")

    def on_response_complete(self) -> None:
        super().on_response_complete()  # type: ignore[misc]
        if not self._between_requests():
            return
        self._allowed_bytes = MOST_REFUSED_BYTES if self.cycle.more_body else MOST_HEAD_BYTES
        self._unread_bytes = self.transport.get_write_buffer_size()
        if self.cycle.more_body or self._unread_bytes:
            self._be_patient()

    def _between_requests(self) -> bool:
        return self.cycle is None or bool(self.cycle.response_complete)

    def _be_patient(self) -> None:
        self._stop_waiting()
        self._giving_up = self.loop.call_later(self.patience_s, self._give_up)

    def _stop_waiting(self) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None

    def _give_up(self) -> None:
        """Unless a long answer is being read, if slowly."""
        unread_bytes = self.transport.get_write_buffer_size()
        if 0 < unread_bytes < self._unread_bytes:
            self._unread_bytes = unread_bytes
            self._be_patient()
        else:
            self.transport.abort()


def watch_connections(server: uvicorn.Server, patience_s: float = PATIENCE_S) -> None:
    """Those to come: uvicorn listens only once the app has started."""
    protocol: Any = server.config.http_protocol_class
    server.config.http_protocol_class = type("ImpatientProtocol", (Impatience, protocol), {"patience_s": patience_s})


def allow_many_connections() -> None:
    """As many open files as the system allows: of the usual 1,024, a thousand idle clients leave none for others."""
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 - Windows has none

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(ValueError, OSError):  # on macOS, no limit is not taken for one
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
