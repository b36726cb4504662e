"""Slow and greedy connections: what uvicorn would leave open, or buffer, without end.

A client may be slow, but not for ever: with the head of a request, with the rest of a body that was rejected, with
reading a response. Heads are bounded, and so are pipelined requests. As many clients may connect as the system allows.
This is the only file with uvicorn's private names. It must never know routes or the model.

None of the limits here is a setting: no well-behaved client comes near one, and they hold per connection, so how many
clients a server has is no reason to change them.
"""

import asyncio
import contextlib
import re
import sys
from typing import Any

import uvicorn

IDLE_TIMEOUT_S = 10.0
MAX_HEAD_BYTES = 2**16
MAX_PIPELINED_REQUESTS = 64  # of one connection, while the response to another is on its way

# The private names of uvicorn that are used here: on both of its protocols, on that of httptools, on a cycle, which is
# a request with its response. A test looks each of them up in the installed uvicorn.
PROTOCOL_NAMES = ("cycle", "loop", "transport", "timeout_keep_alive_task", "on_response_complete")
HTTPTOOLS_NAMES = (
    "pipeline",
    "send_400_response",
    "_unsupported_upgrade_warning",
    "on_message_begin",
    "on_url",
    "on_header",
    "on_headers_complete",
    "on_body",
    "_start_asgi_task",
)
CYCLE_NAMES = ("response_complete", "more_body", "disconnected", "message_event")

UPGRADE = re.compile(rb"(?<=\r\n)upgrade(?=:)", re.IGNORECASE)


class SlowClientGuard(asyncio.Protocol):
    """For both of uvicorn's protocols: aborts connections whose client sends no head, or does not read its response."""

    cycle: Any
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    timeout_keep_alive_task: asyncio.TimerHandle | None

    idle_timeout_s: float
    _timer: asyncio.TimerHandle | None = None
    _unread_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._stop_timer()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_between_requests():
            if self._timer is None:  # until now uvicorn had a timer of its own, for the keep-alive
                self._start_timer()
        elif not self.transport.get_write_buffer_size():
            self._stop_timer()

    def on_response_complete(self) -> None:
        super().on_response_complete()  # type: ignore[misc]
        self._unread_bytes = self.transport.get_write_buffer_size()
        if self._unread_bytes or (self._is_between_requests() and self.cycle.more_body):
            self._start_timer()

    def _is_between_requests(self) -> bool:
        return self.cycle is None or bool(self.cycle.response_complete)

    def _start_timer(self) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(self.idle_timeout_s, self._on_timeout)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timeout(self) -> None:
        """Abort, unless the client reads a long response, if slowly, or uvicorn's own timer for the keep-alive runs."""
        self._timer = None
        unread_bytes, before = self.transport.get_write_buffer_size(), self._unread_bytes
        if unread_bytes and (not before or unread_bytes < before):
            self._unread_bytes = unread_bytes
            self._start_timer()
        elif unread_bytes or (self._is_between_requests() and self.timeout_keep_alive_task is None):
            self.transport.abort()


class HttpToolsGuard(SlowClientGuard):
    """Bounds that uvicorn's other parser, h11, has of its own, and more about pipelined requests."""

    pipeline: Any
    send_400_response: Any

    _active_cycle: Any = None  # the one that is being answered; `cycle` is the latest
    _in_head = True
    _head_bytes = 0
    _unparsed_bytes = 0  # received since the parser's last callback: of one name or value that does not end

    def data_received(self, data: bytes) -> None:
        if self._is_between_requests():
            # A server that speaks no other protocol may ignore `Upgrade`; but the parser would drop the body.
            head, end, rest = data.partition(b"\r\n\r\n")
            data = UPGRADE.sub(b"ignored", head) + end + rest
        self._unparsed_bytes += len(data)
        super().data_received(data)
        if self._unparsed_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("A header is too large.")

    def _unsupported_upgrade_warning(self) -> None:
        """`Upgrade` in a head that came in pieces, or pipelined: its body is lost, so it is rejected."""
        if not self.transport.is_closing():
            self.send_400_response("There is no protocol to upgrade to.")

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()  # type: ignore[misc]

    def on_url(self, url: bytes) -> None:
        self._count_head_bytes(len(url))
        super().on_url(url)  # type: ignore[misc]

    def on_header(self, name: bytes, value: bytes) -> None:
        """Trailers, behind a chunked body, are counted, but no part of the request."""
        self._count_head_bytes(len(name) + len(value))
        if self._in_head:
            super().on_header(name, value)  # type: ignore[misc]

    def on_headers_complete(self) -> None:
        self._in_head = False
        if len(self.pipeline) >= MAX_PIPELINED_REQUESTS:
            raise ValueError(
                "too many pipelined requests"
            )  # the parser makes it an error of its own, and uvicorn a 400
        super().on_headers_complete()  # type: ignore[misc]

    def on_body(self, body: bytes) -> None:
        self._unparsed_bytes = 0
        super().on_body(body)  # type: ignore[misc]

    def _count_head_bytes(self, count: int) -> None:
        self._unparsed_bytes = 0
        self._head_bytes += count
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ValueError("the head is too large")

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._active_cycle = cycle
        super()._start_asgi_task(cycle, app)  # type: ignore[misc]

    def connection_lost(self, error: Exception | None) -> None:
        """Disconnect the request that is being answered, too: uvicorn disconnects only the latest."""
        super().connection_lost(error)
        if self._active_cycle is not None and not self._active_cycle.response_complete:
            self._active_cycle.disconnected = True
            self._active_cycle.message_event.set()


def guard_against_slow_clients(server: uvicorn.Server, idle_timeout_s: float = IDLE_TIMEOUT_S) -> None:
    """Guard all connections to come; uvicorn listens only once the app has started."""
    protocol: Any = server.config.http_protocol_class
    guard = HttpToolsGuard if hasattr(protocol, "on_header") else SlowClientGuard
    server.config.http_protocol_class = type("GuardedProtocol", (guard, protocol), {"idle_timeout_s": idle_timeout_s})


def raise_open_file_limit() -> None:
    """To what the system allows: of the usual 1,024 open files, a thousand idle connections leave none for others."""
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 - Windows has none

        _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(ValueError, OSError):  # macOS takes no unlimited one
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
