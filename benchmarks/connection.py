"""One keep-alive connection of a client, with HTTP/1.1 written by hand, since a client library would cost more than
the server.

Owns the bytes of requests and responses. It must never know what is sent, how often, or how long it took.
"""

import asyncio
from dataclasses import dataclass
from typing import TypeAlias

Address: TypeAlias = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: bytes


class NotHttp(Exception):
    """The server's response is not of the form that this client reads."""


def request_of(text: str, path: str = "/", media_type: str = "text/plain") -> bytes:
    """`POST` with the text as its body."""
    body = text.encode()
    headers = f"Host: benchmark\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}"
    return f"POST {path} HTTP/1.1\r\n{headers}\r\n\r\n".encode() + body


def parse_reply(received: bytes) -> Reply | None:
    """The response, or None while it is not complete. Raises `NotHttp`, also for a body without a given length."""
    head, end, body = received.partition(b"\r\n\r\n")
    if not end:
        return None
    first, *lines = head.split(b"\r\n")
    try:
        status = int(first.split(b" ", 2)[1])
        headers = dict(line.lower().split(b":", 1) for line in lines)
        length = int(headers[b"content-length"])
    except (ValueError, LookupError):
        raise NotHttp(head.decode("latin-1")) from None
    return Reply(status, body) if len(body) >= length else None


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._reply: asyncio.Future[Reply] | None = None

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def exchange(self, request: bytes) -> Reply:
        """Raises `ConnectionError` when the server disconnects, and `NotHttp`."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the connection is closed")
        self._received, self._reply = b"", asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await self._reply
        finally:
            self._reply = None

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._reply is None or self._reply.done():
            return self.close()  # unrequested bytes: from here on, responses could not be matched to requests
        self._received += data
        try:
            reply = parse_reply(self._received)
        except NotHttp as error:
            self._reply.set_exception(error)
            return self.close()
        if reply is not None:
            self._reply.set_result(reply)
        return None

    def connection_lost(self, error: Exception | None) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(ConnectionResetError("the server closed the connection"))


async def connect(address: Address) -> Connection:
    """Raises `OSError`."""
    _, connection = await asyncio.get_running_loop().create_connection(Connection, *address)
    return connection
