"""Connections that do not get on, or take too much: what uvicorn would leave open, or hold, without end.

Clients may take their time, but not for ever: for the head of a request, for the rest of a body that was refused, for
reading an answer. Heads are bounded, and so are requests that are sent ahead of their answers. And as many clients may
be connected as the system allows. It must never know routes or the model.
"""

import asyncio
import contextlib
import re
import sys
from typing import Any

import uvicorn

PATIENCE_S = 10.0
MOST_HEAD_BYTES = 2**16
MOST_AHEAD = 64  # requests of one connection that wait for their turn

UPGRADE = re.compile(rb"(?<=\r\n)upgrade(?=:)", re.IGNORECASE)


class Impatience(asyncio.Protocol):
    """For either of uvicorn's two protocols: it gives up on clients that send no head, or read no answer."""

    cycle: Any
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    timeout_keep_alive_task: asyncio.TimerHandle | None

    patience_s: float
    _giving_up: asyncio.TimerHandle | None = None
    _unread_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._be_patient()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._stop_waiting()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._between_requests():
            if self._giving_up is None:  # until now uvicorn waited, for as long as it was told to
                self._be_patient()
        elif not self.transport.get_write_buffer_size():
            self._stop_waiting()

    def on_response_complete(self) -> None:
        super().on_response_complete()  # type: ignore[misc]
        self._unread_bytes = self.transport.get_write_buffer_size()
        if self._unread_bytes or (self._between_requests() and self.cycle.more_body):
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
        """Unless a long answer is being read, if slowly, or uvicorn waits by itself for the next request."""
        self._giving_up = None
        unread_bytes, before = self.transport.get_write_buffer_size(), self._unread_bytes
        if unread_bytes and (not before or unread_bytes < before):
            self._unread_bytes = unread_bytes
            self._be_patient()
        elif unread_bytes or (self._between_requests() and self.timeout_keep_alive_task is None):
            self.transport.abort()


class HttpToolsImpatience(Impatience):
    """What uvicorn's other parser, h11, minds by itself, and more about requests that are sent ahead."""

    pipeline: Any
    send_400_response: Any

    _running: Any = None  # the cycle that is being answered; `cycle` is the one that came last
    _in_head = True
    _head_bytes = 0
    _untold_bytes = 0  # that came since the parser had anything to tell: of one name or value that does not end

    def data_received(self, data: bytes) -> None:
        if self._between_requests():
            # Nobody here speaks another protocol, which a server may ignore; but the parser would drop the body.
            head, end, rest = data.partition(b"\r\n\r\n")
            data = UPGRADE.sub(b"ignored", head) + end + rest
        self._untold_bytes += len(data)
        super().data_received(data)
        if self._untold_bytes > MOST_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("A header is too large.")

    def _unsupported_upgrade_warning(self) -> None:
        """Of a head that came in pieces, or behind another: its body is lost, so it is refused."""
        if not self.transport.is_closing():
            self.send_400_response("There is no protocol to upgrade to.")

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()  # type: ignore[misc]

    def on_url(self, url: bytes) -> None:
        self._weigh(len(url))
        super().on_url(url)  # type: ignore[misc]

    def on_header(self, name: bytes, value: bytes) -> None:
        """Those behind a chunked body are weighed, but no part of the request."""
        self._weigh(len(name) + len(value))
        if self._in_head:
            super().on_header(name, value)  # type: ignore[misc]

    def on_headers_complete(self) -> None:
        self._in_head = False
        if len(self.pipeline) >= MOST_AHEAD:
            raise ValueError("too many requests ahead")  # the parser makes it an error of its own, and uvicorn a 400
        super().on_headers_complete()  # type: ignore[misc]

    def on_body(self, body: bytes) -> None:
        self._untold_bytes = 0
        super().on_body(body)  # type: ignore[misc]

    def _weigh(self, count: int) -> None:
        self._untold_bytes = 0
        self._head_bytes += count
        if self._head_bytes > MOST_HEAD_BYTES:
            raise ValueError("the head is too large")

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)  # type: ignore[misc]

    def connection_lost(self, error: Exception | None) -> None:
        """uvicorn tells only the request that came last."""
        super().connection_lost(error)
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()


def watch_connections(server: uvicorn.Server, patience_s: float = PATIENCE_S) -> None:
    """Those to come: uvicorn listens only once the app has started."""
    protocol: Any = server.config.http_protocol_class
    impatience = HttpToolsImpatience if hasattr(protocol, "on_header") else Impatience
    server.config.http_protocol_class = type("ImpatientProtocol", (impatience, protocol), {"patience_s": patience_s})


def allow_many_connections() -> None:
    """As many open files as the system allows: of the usual 1,024, a thousand idle clients leave none for others."""
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 - Windows has none

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(ValueError, OSError):  # on macOS, no limit is not taken for one
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
