"""Slow connections are closed, others are left alone. Real sockets, on both of uvicorn's parsers."""

import asyncio
import re
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from pipeline_webserver.web.slow_clients import (
    CYCLE_NAMES,
    HTTPTOOLS_NAMES,
    MAX_HEAD_BYTES,
    PROTOCOL_NAMES,
    HttpToolsGuard,
    SlowClientGuard,
    guard_against_slow_clients,
    raise_open_file_limit,
)
from tests.support.process import read_to_the_end

IDLE_TIMEOUT_S = 0.3
LONG = b"x" * 2**25  # more than the sockets' buffers take


async def short(request: Request) -> Response:
    return Response(b"short")


async def long(request: Request) -> Response:
    return Response(LONG)


async def reject(request: Request) -> Response:
    """Without reading the body."""
    return Response(b"rejected", 413)


@pytest.fixture(scope="module", params=["httptools", "h11"])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    async def connections(request: Request) -> Response:
        return Response(f"{len(server.server_state.connections)}.".encode())

    routes = [Route("/", short), Route("/long", long), Route("/connections", connections)]
    routes.append(Route("/reject", reject, methods=["POST"]))
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), http=request.param, log_level="error"))
    server.config.load()
    guard_against_slow_clients(server, IDLE_TIMEOUT_S)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        yield client


def read_response(client: socket.socket, end: bytes) -> bytes:
    received = b""
    while not received.endswith(end):
        received += client.recv(2**16)
    return received


@pytest.mark.parametrize("beginning", [b"", b"G", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_a_client_that_sends_no_head_or_half_of_one_is_disconnected(port: int, beginning: bytes) -> None:
    with connected(port) as client:
        client.sendall(beginning)
        assert read_to_the_end(client) == b""


def test_a_client_that_sends_half_of_a_second_head_is_disconnected(port: int) -> None:
    with connected(port) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        read_response(client, b"short")
        client.sendall(b"GET / HTTP/1.1\r\n")
        assert read_to_the_end(client) == b""


def test_a_head_without_an_end_is_rejected(port: int) -> None:
    with connected(port) as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        try:
            for number in range(2 * MAX_HEAD_BYTES // 1000):
                client.sendall(b"X-%d: %s\r\n" % (number, b"a" * 1000))
        except (BrokenPipeError, ConnectionResetError):
            return
        assert read_to_the_end(client).startswith(b"HTTP/1.1 400")


def connections(client: socket.socket) -> int:
    client.sendall(b"GET /connections HTTP/1.1\r\nHost: x\r\n\r\n")
    return int(read_response(client, b".").rsplit(b"\r\n", 1)[1][:-1])


def test_a_client_that_does_not_read_its_response_is_disconnected(port: int) -> None:
    with connected(port) as client, connected(port) as other:
        client.sendall(b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(1)
        while connections(other) > 1:
            pass
        assert len(read_to_the_end(client)) < len(LONG)


def test_a_client_that_reads_a_long_response_gets_all_of_it(port: int) -> None:
    with connected(port) as client:
        client.sendall(b"GET /long HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert read_to_the_end(client).endswith(LONG[-1000:])


def test_a_client_that_is_rejected_while_it_sends_can_read_why(port: int) -> None:
    with connected(port) as client:
        client.sendall(b"POST /reject HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        for _ in range(900):
            client.sendall(b"a" * 1000)
        assert read_response(client, b"rejected").startswith(b"HTTP/1.1 413")
        assert read_to_the_end(client) == b""  # the rest never comes


def test_requests_that_follow_each_other_are_answered(port: int) -> None:
    with connected(port) as client:
        for _ in range(3):
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert read_response(client, b"short").startswith(b"HTTP/1.1 200")


def test_pipelined_requests_are_answered_in_order(port: int) -> None:
    with connected(port) as client:
        first = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        second = b"POST /reject HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
        client.sendall(first + second)
        assert re.findall(rb"HTTP/1.1 (\d+)", read_response(client, b"rejected")) == [b"200", b"413"]


def test_as_many_files_may_be_open_as_the_system_allows() -> None:
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(500, hard_limit), hard_limit))
    raise_open_file_limit()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard_limit, hard_limit)


# The private names of uvicorn


class Transport(asyncio.Transport):
    """Sends nothing anywhere."""

    def write(self, data: Any) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


@pytest.mark.parametrize(
    ("kind", "names"), [(H11Protocol, PROTOCOL_NAMES), (HttpToolsProtocol, (*PROTOCOL_NAMES, *HTTPTOOLS_NAMES))]
)
def test_the_installed_uvicorn_has_each_private_name_that_is_used(
    kind: type[H11Protocol] | type[HttpToolsProtocol], names: tuple[str, ...]
) -> None:
    async def main() -> None:
        protocol = kind(uvicorn.Config(Starlette(), log_config=None), ServerState(), {})
        protocol.connection_made(Transport())
        protocol.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert [name for name in names if not hasattr(protocol, name)] == []
        assert [name for name in CYCLE_NAMES if not hasattr(protocol.cycle, name)] == []
        await asyncio.gather(*protocol.tasks)

    asyncio.run(main())


def test_each_name_of_uvicorn_that_a_guard_overrides_or_declares_is_in_the_list_of_private_names() -> None:
    members = vars(SlowClientGuard).keys() | vars(HttpToolsGuard).keys()
    overridden = members & (set(dir(HttpToolsProtocol)) - set(dir(asyncio.Protocol)) - {"__dict__", "__weakref__"})
    declared = {*SlowClientGuard.__annotations__, *HttpToolsGuard.__annotations__} - members - {"idle_timeout_s"}
    assert overridden | declared == {*PROTOCOL_NAMES, *HTTPTOOLS_NAMES}
