"""Connections that do not get on are closed, others are left alone. Real sockets, on both of uvicorn's parsers."""

import re
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline_webserver.web.slow_clients import MOST_HEAD_BYTES, allow_many_connections, watch_connections
from tests.support.process import read_to_the_end

PATIENCE_S = 0.3
LONG = b"x" * 2**25  # more than the sockets' buffers take


async def short(request: Request) -> Response:
    return Response(b"short")


async def long(request: Request) -> Response:
    return Response(LONG)


async def refuse(request: Request) -> Response:
    """Without reading the body."""
    return Response(b"refused", 413)


@pytest.fixture(scope="module", params=["httptools", "h11"])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    async def connections(request: Request) -> Response:
        return Response(f"{len(server.server_state.connections)}.".encode())

    routes = [Route("/", short), Route("/long", long), Route("/connections", connections)]
    routes.append(Route("/refuse", refuse, methods=["POST"]))
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), http=request.param, log_level="error"))
    server.config.load()
    watch_connections(server, PATIENCE_S)
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


def read_answer(client: socket.socket, end: bytes) -> bytes:
    received = b""
    while not received.endswith(end):
        received += client.recv(2**16)
    return received


@pytest.mark.parametrize("beginning", [b"", b"G", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_who_sends_no_head_or_half_of_one_is_given_up_on(port: int, beginning: bytes) -> None:
    with connected(port) as client:
        client.sendall(beginning)
        assert read_to_the_end(client) == b""


def test_who_sends_half_of_a_second_head_is_given_up_on(port: int) -> None:
    with connected(port) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        read_answer(client, b"short")
        client.sendall(b"GET / HTTP/1.1\r\n")
        assert read_to_the_end(client) == b""


def test_a_head_without_an_end_is_refused(port: int) -> None:
    with connected(port) as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        try:
            for number in range(2 * MOST_HEAD_BYTES // 1000):
                client.sendall(b"X-%d: %s\r\n" % (number, b"a" * 1000))
        except (BrokenPipeError, ConnectionResetError):
            return
        assert read_to_the_end(client).startswith(b"HTTP/1.1 400")


def connections(client: socket.socket) -> int:
    client.sendall(b"GET /connections HTTP/1.1\r\nHost: x\r\n\r\n")
    return int(read_answer(client, b".").rsplit(b"\r\n", 1)[1][:-1])


def test_who_reads_no_answer_is_given_up_on(port: int) -> None:
    with connected(port) as client, connected(port) as other:
        client.sendall(b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(1)
        while connections(other) > 1:
            pass
        assert len(read_to_the_end(client)) < len(LONG)


def test_who_reads_a_long_answer_gets_it(port: int) -> None:
    with connected(port) as client:
        client.sendall(b"GET /long HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert read_to_the_end(client).endswith(LONG[-1000:])


def test_who_is_refused_in_the_middle_of_sending_reads_why(port: int) -> None:
    with connected(port) as client:
        client.sendall(b"POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        for _ in range(900):
            client.sendall(b"a" * 1000)
        assert read_answer(client, b"refused").startswith(b"HTTP/1.1 413")
        assert read_to_the_end(client) == b""  # the rest never comes


def test_requests_that_follow_each_other_are_answered(port: int) -> None:
    with connected(port) as client:
        for _ in range(3):
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert read_answer(client, b"short").startswith(b"HTTP/1.1 200")


def test_pipelined_requests_are_answered_in_order(port: int) -> None:
    with connected(port) as client:
        first = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        second = b"POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
        client.sendall(first + second)
        assert re.findall(rb"HTTP/1.1 (\d+)", read_answer(client, b"refused")) == [b"200", b"413"]


def test_as_many_files_may_be_open_as_the_system_allows() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(500, most), most))
    allow_many_connections()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, most)
