"""Reading request bodies, within limits of size, memory and time. It must never know routes, or what a body means."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request

from pipeline_webserver.errors import Draining, Overloaded, TooLarge, TooSlow
from pipeline_webserver.web.content_encoding import decode_body

# All bodies together may take the memory of this many full ones. No setting: what a full body is, is one
# (`PIPELINE_MAX_BODY_BYTES`), and it scales this bound too.
MAX_BUFFERED_BODIES = 64


class BodyReader:
    """Reads bodies of at most `max_bytes` each, and of `MAX_BUFFERED_BODIES` times as much in total.

    A slow client holds a connection, but little memory; a client that sends too much is rejected as soon as it does.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._buffered_bytes = 0
        self._timeouts: set[asyncio.Timeout] = set()
        self._draining = False

    @asynccontextmanager
    async def read(self, request: Request, deadline: float) -> AsyncIterator[bytes]:
        """The body, which counts as buffered until the end of the context; `deadline` is in seconds of `loop.time()`.

        Raises `TooLarge` before it buffers more than the limit, `TooSlow` at the deadline, `Overloaded`, `Draining`;
        `Malformed` or `UnsupportedMediaType` for what cannot be decompressed.
        """
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and (len(declared) > 19 or int(declared) > self.max_bytes):
            raise TooLarge(f"The body has {declared[:20]} bytes; the limit is {self.max_bytes}.")
        body = bytearray()
        try:
            await self._receive(request, body, deadline)
            if encoding := request.headers.get("content-encoding"):
                decoded = decode_body(bytes(body), encoding, self.max_bytes)
                self._buffered_bytes += len(decoded) - len(body)
                body[:] = decoded
            yield bytes(body)
        finally:
            self._buffered_bytes -= len(body)

    async def _receive(self, request: Request, body: bytearray, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline) as timeout:
                self._timeouts.add(timeout)
                async for chunk in request.stream():
                    self._buffer(body, chunk)
        except TimeoutError:
            if self._draining:
                raise Draining("The server is shutting down; the body was not there in time.") from None
            raise TooSlow("The body did not arrive in time.") from None
        finally:
            self._timeouts.discard(timeout)

    def _buffer(self, body: bytearray, chunk: bytes) -> None:
        body += chunk
        self._buffered_bytes += len(chunk)
        if len(body) > self.max_bytes:
            raise TooLarge(f"The body has at least {len(body)} bytes; the limit is {self.max_bytes}.")
        if self._buffered_bytes > MAX_BUFFERED_BODIES * self.max_bytes:
            raise Overloaded("The server is full: too much is being sent to it.")

    def drain(self, deadline: float) -> None:
        """Bodies that are still arriving at this time of `loop.time()` are rejected with `Draining`."""
        self._draining = True
        for timeout in self._timeouts:
            due = timeout.when()
            if not timeout.expired() and (due is None or due > deadline):
                timeout.reschedule(deadline)
