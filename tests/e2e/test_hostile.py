"""Bad and hostile clients against real processes: each is rejected, or answered as if it were nothing special.

Everything is written to bare sockets, as no library would write it. Nothing waits for time to pass: a test reads until
the server answers or closes, or asks the metrics again until it is so.
"""

import json
import os
import re
import select
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest
import transformers

from pipeline_webserver.inference.loading import BUNDLED_MODEL
from tests.support.compare import assert_same
from tests.support.forkserver import ForkServer
from tests.support.process import Process, read_to_the_end, serving, until

TEXT = b"a [MASK]"
JSON = b"Content-Type: application/json"
CHUNKED = b"Transfer-Encoding: chunked"
LAST_CHUNK = b"0\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
LIMIT_BYTES = 2**20  # the default of PIPELINE_MAX_BODY_BYTES

KEY, OTHER_KEY, HUB_TOKEN = "hush-hush-hush", "öffne-dich-☃", "hf_secret"
PRIVATE = "xylophonists"  # a word of a client's text that must turn up nowhere
BEARER = f"Authorization: Bearer {KEY}".encode()


@dataclass(frozen=True, slots=True)
class Result:
    """One HTTP response, as it stood on the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error_type(self) -> str:
        return str(json.loads(self.body)["error_type"])

    @property
    def error(self) -> str:
        return str(json.loads(self.body)["error"])


def parse(received: bytes) -> list[Result]:
    """The answers in what a connection brought, up to its end."""
    answers = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = int(headers.get("content-length", 0))
        answers.append(Result(int(status_line.split()[1]), headers, rest[:length]))
        received = rest[length:]
    return answers


@contextmanager
def connected(process: Process) -> Iterator[socket.socket]:
    """A connection whose end the test does not wait for longer than half a minute."""
    with process.connect() as client:
        client.settimeout(30)
        yield client


def send(client: socket.socket, data: bytes) -> None:
    """All of it, unless the server stops listening."""
    with suppress(BrokenPipeError, ConnectionResetError):
        client.sendall(data)


def talk(process: Process, data: bytes) -> list[Result]:
    """Every answer to these bytes on a connection of their own, until the server closes it."""
    with connected(process) as client:
        send(client, data)
        return parse(read_to_the_end(client))


def request(body: bytes = b"", *headers: bytes, method: bytes = b"POST", path: bytes = b"/") -> bytes:
    """A request after which the connection stays open."""
    length = b"Content-Length: %d" % len(body)
    return b"\r\n".join([method + b" " + path + b" HTTP/1.1", b"Host: x", length, *headers, b"", body])


def last(body: bytes = b"", *headers: bytes, method: bytes = b"POST", path: bytes = b"/") -> bytes:
    """A request after which the server closes the connection."""
    return request(body, b"Connection: close", *headers, method=method, path=path)


def get(path: bytes, *headers: bytes) -> bytes:
    return last(b"", *headers, method=b"GET", path=path)


def post_head(*headers: bytes) -> bytes:
    """The head of a POST that says about its body what is given here, and no more."""
    return b"\r\n".join([b"POST / HTTP/1.1", b"Host: x", *headers, b"", b""])


def ask(process: Process, data: bytes) -> Result:
    """The one answer to this."""
    (answer,) = talk(process, data)
    return answer


def ask_json(process: Process, body: bytes, *headers: bytes) -> Result:
    return ask(process, last(body, JSON, *headers))


def counted(process: Process) -> Counter[int]:
    """How many requests to `/` have been answered with each status."""
    pattern = r'^pipeline_requests_total\{.*route="/",status="(\d+)"\} (.*)$'
    counts: Counter[int] = Counter()
    for status, count in re.findall(pattern, process.get("/metrics").text, re.MULTILINE):
        counts[int(status)] += int(float(count))
    return counts


def assert_still_serves(process: Process) -> None:
    """No input is left in flight, and the next client is answered."""
    until(lambda: process.metric("pipeline_inputs_in_flight") == 0)
    assert ask(process, last(TEXT)).status == 200


def logged(process: Process, path: bytes, name: str, *headers: bytes) -> str:
    """The line of the log about a request to nowhere."""
    assert ask(process, get(path, b"X-Request-ID: " + name.encode(), *headers)).status == 404
    process.wait_for_line(name)
    (line,) = [line for line in process.log if name in line]
    return line


def assert_closed(answers: list[Result]) -> None:
    """Without an answer, or with one that says why; nothing that came after it was answered."""
    assert [answer.status for answer in answers] in ([], [400], [413], [431])


@pytest.fixture(scope="module")
def guarded(fork_server: ForkServer) -> Iterator[Process]:
    """A server with keys, a token, a short deadline, larger bodies and a log in JSON."""
    environment = {
        "PIPELINE_API_KEY": f"{KEY},{OTHER_KEY}",
        "PIPELINE_REQUEST_TIMEOUT_S": "2",
        "PIPELINE_MAX_BODY_BYTES": str(2**22),
        "PIPELINE_LOG_FORMAT": "json",
        "HF_TOKEN": HUB_TOKEN,
    }
    with serving("server:app", fork_server, **environment) as process:
        yield process


class LogReader:
    """What is new in the logs of some processes."""

    def __init__(self, processes: list[Process]) -> None:
        self.processes = processes
        self._read = {process.url: len(process.log) for process in processes}

    def assert_nothing_unforeseen(self) -> None:
        """No client can make the server fail at its own work: that would be a traceback in the log."""
        for process in self.processes:
            since = process.log[self._read[process.url] :]
            self._read[process.url] += len(since)
            assert not any("Traceback" in line or "ERROR" in line for line in since), "\n".join(since)


@pytest.fixture(scope="module")
def logs(bundled: Process, guarded: Process) -> Iterator[LogReader]:
    """At the end, both servers are well, and their logs are read to the end."""
    reader = LogReader([bundled, guarded])
    yield reader
    for process in reader.processes:
        assert [ask(process, get(path)).status for path in (b"/health", b"/ready")] == [200, 200]
        logged(process, b"/nowhere", "the-end", BEARER)
    reader.assert_nothing_unforeseen()


@pytest.fixture(autouse=True)
def nothing_unforeseen(logs: LogReader) -> Iterator[None]:
    """As far as the logs have come."""
    yield
    logs.assert_nothing_unforeseen()


@pytest.fixture(scope="module")
def pipe() -> Any:
    return transformers.pipeline("fill-mask", model=BUNDLED_MODEL, dtype="float32")


# Slow bodies, large bodies


@pytest.mark.parametrize(
    "beginning",
    [
        pytest.param(post_head(b"Content-Length: 8"), id="no body"),
        pytest.param(post_head(b"Content-Length: 8") + b"a [", id="half a body"),
        pytest.param(post_head(b"Content-Length: 9") + TEXT, id="one byte too few"),
        pytest.param(post_head(CHUNKED) + b"8\r\na [", id="half a chunk"),
        pytest.param(post_head(CHUNKED) + b"8\r\n" + TEXT + b"\r\n", id="no last chunk"),
        pytest.param(post_head(CHUNKED) + b"FFFFFFFFFFFFFFF\r\n" + TEXT, id="an endless chunk"),
        pytest.param(post_head(CHUNKED) + b"8;" + b"a" * 1000, id="an endless chunk extension"),
    ],
)
def test_a_body_that_never_ends_is_a_408_at_the_deadline_that_the_client_set(
    bundled: Process, beginning: bytes
) -> None:
    soon = b"POST / HTTP/1.1\r\nConnection: close\r\nX-Request-Timeout: 0.05\r\n"
    answer = ask(bundled, beginning.replace(b"POST / HTTP/1.1\r\n", soon))
    assert (answer.status, answer.error_type) == (408, "too_slow")


def test_no_client_can_make_the_deadline_later_than_the_servers(guarded: Process) -> None:
    none, huge = b"X-Request-ID: a", b"X-Request-Timeout: 999999999"
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(guarded)) for _ in range(2)]
        for client, timeout in zip(clients, (none, huge), strict=True):
            client.sendall(post_head(b"Content-Length: 8", b"Connection: close", BEARER, timeout) + b"a [")
        for client in clients:
            (answer,) = parse(read_to_the_end(client))
            assert (answer.status, answer.error_type) == (408, "too_slow")


@pytest.mark.parametrize("expect", [(), (b"Expect: 100-continue",)], ids=["at once", "expecting 100"])
@pytest.mark.parametrize("length", [LIMIT_BYTES + 1, 10**15, 10**19 - 1])
def test_a_large_body_is_rejected_before_it_is_sent(bundled: Process, length: int, expect: tuple[bytes, ...]) -> None:
    answer = ask(bundled, post_head(b"Content-Length: %d" % length, b"Connection: close", *expect))
    assert (answer.status, answer.error) == (413, f"The body has {length} bytes; the limit is {LIMIT_BYTES}.")


def test_a_body_is_asked_for_only_when_it_may_come(guarded: Process) -> None:
    expecting = (b"Content-Length: 8", b"Connection: close", b"Expect: 100-continue")
    assert [answer.status for answer in talk(guarded, post_head(*expecting))] == [401]
    assert [answer.status for answer in talk(guarded, post_head(*expecting, BEARER) + TEXT)] == [100, 200]
    soon = (*expecting, BEARER, b"X-Request-Timeout: 0")
    assert [answer.status for answer in talk(guarded, post_head(*soon))] == [400]


def test_a_large_body_without_a_length_is_a_413_after_which_the_connection_is_usable(bundled: Process) -> None:
    chunks = b"10000\r\n" + b"a" * 2**16 + b"\r\n"
    rejected, healthy = talk(bundled, post_head(CHUNKED) + 20 * chunks + LAST_CHUNK + get(b"/health"))
    assert (rejected.status, rejected.error_type) == (413, "too_large")
    assert re.fullmatch(r"The body has at least \d{7} bytes; the limit is 1048576\.", rejected.error)
    assert (healthy.status, healthy.body) == (200, b'{"status":"ok"}')


def test_a_body_of_the_limit_is_accepted_and_one_of_a_byte_more_is_not(bundled: Process) -> None:
    assert ask(bundled, last(b" " * (LIMIT_BYTES - 8) + TEXT)).status == 200
    assert ask(bundled, last(b" " * (LIMIT_BYTES - 7) + TEXT)).status == 413


def test_no_more_than_64_large_bodies_are_held_at_once(bundled: Process) -> None:
    almost_all = post_head(b"Content-Length: %d" % LIMIT_BYTES, b"Connection: close") + b"a" * (LIMIT_BYTES - 1)
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(bundled)) for _ in range(66)]
        for client in clients:
            send(client, almost_all)
        answered, _, _ = select.select(clients, [], [], 30)
        (answer,) = parse(read_to_the_end(answered[0]))
        assert (answer.status, answer.error_type) == (503, "overloaded")
        assert int(answer.headers["retry-after"]) >= 1
    assert_still_serves(bundled)


# Lengths that lie, requests inside of requests


CHUNKED_TEXT = b"8\r\n" + TEXT + b"\r\n" + LAST_CHUNK


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        pytest.param([b"Content-Length: -8"], TEXT, id="negative length"),
        pytest.param([b"Content-Length: eight"], TEXT, id="length is no number"),
        pytest.param([b"Content-Length: 0x8"], TEXT, id="hexadecimal length"),
        pytest.param([b"Content-Length: +8"], TEXT, id="length with a sign"),
        pytest.param([b"Content-Length: 8, 8"], TEXT, id="list of lengths"),
        pytest.param([b"Content-Length:"], TEXT, id="empty length"),
        pytest.param([b"Content-Length: 99999999999999999999999"], TEXT, id="length over 64 bits"),
        pytest.param([b"Content-Length: 8", b"Content-Length: 9"], TEXT, id="two different lengths"),
        pytest.param([b"Content-Length: 8", b"Content-Length: 8"], TEXT, id="two equal lengths"),
        pytest.param([b"Content-Length : 8"], TEXT, id="space after the name of the length"),
        pytest.param([b"X-Folded: a", b" Content-Length: 8"], TEXT, id="folded length"),
        pytest.param([b"Content-Length: 8", CHUNKED], CHUNKED_TEXT, id="length and chunked"),
        pytest.param([CHUNKED, b"Content-Length: 8"], CHUNKED_TEXT, id="chunked and length"),
        pytest.param([CHUNKED, CHUNKED], CHUNKED_TEXT, id="chunked twice"),
        pytest.param([b"Transfer-Encoding: chunked, identity"], CHUNKED_TEXT, id="chunked is not the last"),
        pytest.param([b"Transfer-Encoding: xchunked"], CHUNKED_TEXT, id="nearly chunked"),
        pytest.param([b"Transfer-Encoding: \x0bchunked"], CHUNKED_TEXT, id="vertical tab before chunked"),
        pytest.param([b"Transfer-Encoding : chunked"], CHUNKED_TEXT, id="space after the name of the encoding"),
        pytest.param([b"Transfer-Encoding:", b" chunked"], CHUNKED_TEXT, id="folded encoding"),
        pytest.param([b"Transfer-Encoding: identity"], TEXT, id="identity"),
        pytest.param([CHUNKED], b"-8\r\n" + TEXT, id="negative chunk"),
        pytest.param([CHUNKED], b"0x8\r\n" + TEXT, id="chunk with a prefix"),
        pytest.param([CHUNKED], b"8 \r\n" + TEXT, id="chunk with a space"),
        pytest.param([CHUNKED], b"FFFFFFFFFFFFFFFFF\r\n" + TEXT, id="chunk over 64 bits"),
        pytest.param([CHUNKED], b"8\n" + TEXT + b"\n0\n\n", id="chunk with bare line feeds"),
        pytest.param([CHUNKED], b"7\r\n" + TEXT + b"\r\n" + LAST_CHUNK, id="chunk longer than it says"),
        pytest.param([CHUNKED], b"9\r\n" + TEXT + b"\r\n" + LAST_CHUNK, id="chunk shorter than it says"),
        pytest.param([b"X-A: a\rX-B: b", b"Content-Length: 8"], TEXT, id="bare carriage return"),
        pytest.param([b"X-A: a\0b", b"Content-Length: 8"], TEXT, id="NUL in a header"),
        pytest.param([b"no colon", b"Content-Length: 8"], TEXT, id="header without a colon"),
        pytest.param([b"Content-Length: 7"], TEXT, id="body longer than its length"),
        pytest.param([], TEXT, id="body without a length"),
    ],
)
def test_a_request_that_can_be_read_in_two_ways_is_a_400_and_what_follows_is_not_answered(
    bundled: Process, headers: list[bytes], body: bytes
) -> None:
    assert [answer.status for answer in talk(bundled, post_head(*headers) + body + SMUGGLED)] == [400]


def test_what_follows_a_request_that_closes_the_connection_is_not_answered(bundled: Process) -> None:
    assert [answer.status for answer in talk(bundled, last(TEXT) + SMUGGLED)] == [200]
    assert [answer.status for answer in talk(bundled, last(TEXT) + b"\0\xff garbage")] == [200]


@pytest.mark.parametrize("requests", [1, 2, 3])
def test_garbage_behind_requests_in_line_ends_the_connection(bundled: Process, requests: int) -> None:
    answers = talk(bundled, requests * request(TEXT) + b"\0\xff garbage\r\n\r\n")
    assert {answer.status for answer in answers} <= {200, 400}
    assert [answer.status for answer in answers[-1:]] == [400]
    assert_still_serves(bundled)


def test_a_trailer_changes_nothing_of_the_request(bundled: Process) -> None:
    trailers = b"0\r\nContent-Type: application/json\r\nX-Request-ID: trailer\r\nX-Request-Timeout: 0\r\n\r\n"
    answer = ask(bundled, post_head(CHUNKED, b"Connection: close") + b"8\r\n" + TEXT + b"\r\n" + trailers)
    assert (answer.status, answer.headers["x-request-id"] == "trailer") == (200, False)


def test_pipelined_requests_are_answered_in_order_each_with_its_own_answer(bundled: Process) -> None:
    texts = [b"first [MASK]", b"nothing", b"second [MASK]", b"third [MASK]"]
    requests = [request(text, b"X-Request-ID: %d" % number) for number, text in enumerate(texts)]
    answers = talk(bundled, b"".join(requests) + get(b"/health"))
    assert [answer.status for answer in answers] == [200, 422, 200, 200, 200]
    assert [answer.headers["x-request-id"] for answer in answers[:4]] == ["0", "1", "2", "3"]
    firsts = [json.loads(answers[index].body)[0]["sequence"].split()[0] for index in (0, 2, 3)]
    assert firsts == ["first", "second", "third"]


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
def test_the_offer_of_another_protocol_is_declined_and_the_request_answered(bundled: Process, protocol: bytes) -> None:
    offer = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: " + protocol, b"HTTP2-Settings: AAMAAABkAAQAAP__")
    answers = talk(bundled, request(TEXT, *offer) + get(b"/health"))
    assert [answer.status for answer in answers] == [200, 200]


# Heads


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(get(b"http://elsewhere.example/health"), 200, id="absolute form"),
        pytest.param(last(b"", method=b"OPTIONS", path=b"*"), 404, id="asterisk form"),
        pytest.param(get(b"*"), 404, id="asterisk form with GET"),
        pytest.param(get(b"x:80"), 400, id="authority form"),
        pytest.param(last(b"", method=b"CONNECT", path=b"x:80"), 400, id="CONNECT"),
        pytest.param(last(b"", method=b"TRACE"), 405, id="TRACE"),
        pytest.param(last(b"", method=b"PURGE"), 405, id="PURGE"),
        pytest.param(last(b"", method=b"HEAD"), 405, id="HEAD"),
        pytest.param(last(b"", method=b"BREW"), 400, id="unknown method"),
        pytest.param(last(b"", method=b"get", path=b"/health"), 400, id="method in small letters"),
        pytest.param(b"GET /health HTTP/1.0\r\n\r\n", 200, id="HTTP 1.0"),
        pytest.param(
            b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 8\r\n\r\n" + TEXT,
            200,
            id="HTTP 1.0 that would stay",
        ),
        pytest.param(b"POST / HTTP/1.0\r\n\r\n" + TEXT, 400, id="HTTP 1.0 without a length"),
        pytest.param(b"GET /health\r\n\r\n", 200, id="HTTP 0.9"),
        pytest.param(b"GET /health HTTP/1.2\r\n\r\n", 400, id="HTTP 1.2"),
        pytest.param(b"GET /health HTTP/3.0\r\n\r\n", 400, id="HTTP 3"),
        pytest.param(b"GET /health HTTP/1.1 \r\nX: y\0\r\n\r\n", 400, id="space after the version"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04\0\0\0\0\0", 400, id="preface of HTTP 2"),
        pytest.param(bytes.fromhex("16030100a5010000a10303") + bytes(range(154)), 400, id="hello of TLS"),
        pytest.param(b"hello there\r\n\r\n", 400, id="small talk"),
        pytest.param(b"\0" * 1000, 400, id="NUL bytes"),
        pytest.param(get("/é".encode()), 400, id="path of bytes over 127"),
        pytest.param(get(b"/%zz%"), 404, id="path with bad escapes"),
        pytest.param(get(b"/%ED%A0%80%FF%00"), 404, id="path with escaped bytes that are no text"),
        pytest.param(get(b"/../../etc/passwd"), 404, id="path that climbs"),
        pytest.param(get(b"//health"), 404, id="path with two slashes"),
        pytest.param(get(b"/" + b"a" * 60_000), 404, id="long path"),
        pytest.param(get(b"/health?" + b"a" * 60_000), 200, id="long query"),
        pytest.param(get(b"/health", *[b"a:"] * 10_000), 200, id="ten thousand short headers"),
    ],
)
def test_odd_heads_get_one_plain_answer(bundled: Process, data: bytes, status: int) -> None:
    assert [answer.status for answer in talk(bundled, data)] == [status]


ALMOST = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
TOO_LARGE_HEADS = [
    pytest.param(ALMOST + b"".join(b"X-%d: a\r\n" % n for n in range(10_000)) + b"\r\n", id="ten thousand headers"),
    pytest.param(ALMOST + b"X: " + b"a" * 100 * 1024 + b"\r\n\r\n", id="one header of 100 KiB"),
    pytest.param(ALMOST + b"X: " + b"a" * 2**20 + b"\r\n\r\n", id="one header of 1 MiB"),
    pytest.param(ALMOST + b"X" * 2**20 + b": a\r\n\r\n", id="one name of 1 MiB"),
    pytest.param(get(b"/" + b"a" * 2**20), id="one path of 1 MiB"),
]


@pytest.mark.parametrize("data", TOO_LARGE_HEADS)
def test_a_head_of_more_than_64_kib_closes_the_connection(bundled: Process, data: bytes) -> None:
    assert_closed(talk(bundled, data))


@pytest.mark.parametrize("data", TOO_LARGE_HEADS)
def test_a_head_of_more_than_64_kib_after_a_rejected_body_does_so_too(bundled: Process, data: bytes) -> None:
    with connected(bundled) as client:
        client.sendall(request(b"", path=b"/nowhere").replace(b"Content-Length: 0", b"Content-Length: 1"))
        rejected = b""
        while not rejected.endswith(b"}"):
            rejected += client.recv(2**16)
        assert [answer.status for answer in parse(rejected)] == [404]  # and the body is still to come
        send(client, b"a" + data)
        assert_closed(parse(read_to_the_end(client)))


@pytest.mark.parametrize(
    "trailers",
    [
        pytest.param(b"".join(b"X-%d: %s\r\n" % (number, b"a" * 1000) for number in range(2_000)), id="many"),
        pytest.param(b"X: " + b"a" * 2_000_000, id="one"),
    ],
)
def test_trailers_without_an_end_close_the_connection_before_the_deadline(bundled: Process, trailers: bytes) -> None:
    head = post_head(CHUNKED, b"Connection: close", b"X-Request-Timeout: 2")
    assert_closed(talk(bundled, head + b"8\r\n" + TEXT + b"\r\n0\r\n" + trailers))


def test_requests_that_are_sent_faster_than_they_are_answered_do_not_fill_the_memory(bundled: Process) -> None:
    before = bundled.metric("process_resident_memory_bytes")
    if not before:
        pytest.skip("Linux only shows the memory of a process")
    with connected(bundled) as client:
        client.settimeout(0.5)
        with suppress(OSError):  # the server takes no more, or has closed
            client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 130_000)
        for _ in range(20):
            assert bundled.metric("process_resident_memory_bytes") < before + 64 * 2**20
    assert_still_serves(bundled)


# What ends up in the log, and in headers


TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00"
FIELDS = r"client=\S+ method=GET path=\S+ status=404 error_type=not_found request_id=[\w-]+ total_ms=[\d.]+"


def test_a_line_break_in_a_path_makes_no_line_of_the_log(bundled: Process, guarded: Process) -> None:
    line = logged(bundled, b"/%0d%0aINFO:%20forged%E2%80%A8%C2%85%1b", "line-break")
    assert " path=/%0D%0AINFO%3A%20forged%E2%80%A8%C2%85%1B " in line
    assert re.fullmatch(f"{TIME} INFO:     {FIELDS}", line)
    as_json = json.loads(logged(guarded, b"/%0d%0a%22,%22level%22:%22forged", "json-line-break", BEARER))
    assert (as_json["path"], as_json["level"]) == ("/%0D%0A%22%2C%22level%22%3A%22forged", "INFO")


@pytest.mark.parametrize("address", [b"1.2.3.4 status=200 path=/", b"1.2.3.4\x85INFO:"], ids=["fields", "line"])
def test_an_address_that_a_client_claims_forges_nothing_in_the_log(bundled: Process, address: bytes) -> None:
    name = f"claimed-{len(address)}"
    line = logged(bundled, b"/nowhere", name, b"X-Forwarded-For: " + address)
    assert re.fullmatch(f"{TIME} INFO:     {FIELDS}", line)


@pytest.mark.parametrize(
    "invalid",
    [
        pytest.param(b"a b", id="space"),
        pytest.param(b"a\tb", id="tab"),
        pytest.param(b"a\x85b", id="next line"),
        pytest.param("ü☃".encode(), id="not ASCII"),
        pytest.param(b"a%0d%0aSet-Cookie: a=b", id="escaped line break"),
        pytest.param(b'a"b', id="quote"),
        pytest.param(b"a" * 129, id="too long"),
    ],
)
def test_an_invalid_request_id_comes_back_nowhere(bundled: Process, invalid: bytes) -> None:
    answer = ask(bundled, get(b"/health", b"X-Request-ID: " + invalid))
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])
    assert "set-cookie" not in answer.headers


MARKED: dict[int, bytes] = {
    200: last(TEXT, BEARER),
    400: last(b"\xff", BEARER),
    401: last(TEXT),
    404: get(b"/nowhere"),
    405: last(TEXT, method=b"PUT"),
    408: post_head(BEARER, b"Connection: close", b"Content-Length: 8", b"X-Request-Timeout: 0.1"),
    413: post_head(BEARER, b"Connection: close", b"Content-Length: 5000000"),
    415: last(TEXT, BEARER, b"Content-Type: image/png"),
    422: last(b"no mask", BEARER),
}


@pytest.mark.parametrize("status", MARKED)
def test_every_answer_is_marked_nosniff_and_no_store(guarded: Process, status: int) -> None:
    answer = ask(guarded, MARKED[status])
    assert answer.status == status
    assert_marked(answer)


@pytest.mark.parametrize("path", [b"/health", b"/ready", b"/info", b"/metrics"])
def test_the_answers_of_every_route_are_marked_too(guarded: Process, path: bytes) -> None:
    answer = ask(guarded, get(path, BEARER))
    assert answer.status == 200
    assert_marked(answer)


def assert_marked(answer: Result) -> None:
    assert (answer.headers["x-content-type-options"], answer.headers["cache-control"]) == ("nosniff", "no-store")
    assert answer.headers["x-request-id"]


# JSON


def inputs(value: bytes) -> bytes:
    return b'{"inputs": ' + value + b"}"


def parameters(value: bytes) -> bytes:
    return b'{"inputs": "a [MASK]", "parameters": ' + value + b"}"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        pytest.param(inputs(b"[" * 100_000), "depth limit exceeded", id="100,000 open brackets"),
        pytest.param(inputs(b"[" * 100_000 + b"]" * 100_000), "depth limit exceeded", id="100,000 brackets"),
        pytest.param(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "depth limit exceeded", id="100,000 deep objects"),
        pytest.param(parameters(b'{"targets": ' + b"[" * 900 + b"]" * 900 + b"}"), "'targets'", id="900 deep targets"),
        pytest.param(inputs(b"1e999"), "not JSON", id="number out of range"),
        pytest.param(inputs(b"1" + b"0" * 400), "not JSON", id="number of 400 digits"),
        pytest.param(parameters(b'{"top_k": 1e999}'), "not JSON", id="top_k out of range"),
        pytest.param(parameters(b'{"top_k": 1' + b"0" * 400 + b"}"), "not JSON", id="top_k of 400 digits"),
        pytest.param(parameters(b'{"top_k": 1.5}'), "a valid integer", id="top_k with a fraction"),
        pytest.param(parameters(b'{"top_k": true}'), "a valid integer", id="top_k is true"),
        pytest.param(parameters(b'{"targets": "a"}'), "a valid list", id="targets are no list"),
        pytest.param(parameters(b"[1]"), "must be an object", id="parameters are a list"),
        pytest.param(parameters(b'"top_k"'), "must be an object", id="parameters are a text"),
        pytest.param(inputs(b"NaN"), "not JSON", id="NaN"),
        pytest.param(inputs(b"-Infinity"), "not JSON", id="minus infinity"),
        pytest.param(inputs(b'"a [MASK] \\ud800"'), "not JSON", id="lone high surrogate"),
        pytest.param(inputs(b'"a [MASK] \\udc00"'), "not JSON", id="lone low surrogate"),
        pytest.param(inputs(b'"a [MASK] \xed\xa0\x80"'), "not JSON", id="surrogate in UTF-8"),
        pytest.param(b'{"inputs": "a [MASK]", "\\ud800": 1}', "not JSON", id="lone surrogate as a field"),
        pytest.param(inputs(b'"a [MASK] \xc0\xaf"'), "not JSON", id="overlong UTF-8"),
        pytest.param(inputs(b'"a [MASK]"').decode().encode("utf-16"), "not JSON", id="UTF-16"),
        pytest.param(inputs(b'"a \0 [MASK]"'), "not JSON", id="NUL byte in a text"),
        pytest.param(inputs(b'"a [MASK]"') + b"\0", "not JSON", id="NUL byte at the end"),
        pytest.param(inputs(b'"a [MASK]"') * 2, "not JSON", id="two documents"),
        pytest.param(b"", "The body is empty", id="nothing"),
        *[
            pytest.param(inputs(value), "must be a text, or a list of such", id=f"inputs are {value.decode()}")
            for value in (b"1", b"null", b"true", b"{}", b"[]", b'[["a [MASK]"]]', b'["a [MASK]", 1]', b"[null]")
        ],
        *[
            pytest.param(value, "The JSON form is", id=f"the form is {value.decode()}")
            for value in (b"1", b"null", b"[]", b"{}", b'"a [MASK]"', b'{"Inputs": "a [MASK]"}')
        ],
        pytest.param(b'{"inputs": "a [MASK]", "url": "x"}', "Unknown field 'url'", id="unknown field"),
    ],
)
def test_json_that_is_not_the_form_is_a_400_that_says_so(bundled: Process, body: bytes, words: str) -> None:
    answer = ask_json(bundled, body)
    assert (answer.status, answer.error_type) == (400, "malformed")
    assert words in answer.error


@pytest.mark.parametrize("count", [33, 90_000])
def test_a_list_that_is_too_long_is_a_413_with_both_numbers(bundled: Process, count: int) -> None:
    answer = ask_json(bundled, inputs(b"[" + b",".join([b'"a [MASK]"'] * count) + b"]"))
    assert (answer.status, answer.error) == (413, f"The request has {count} inputs; the limit is 32.")


def test_a_million_empty_texts_are_a_413(guarded: Process) -> None:
    answer = ask_json(guarded, inputs(b"[" + b",".join([b'""'] * 1_000_000) + b"]"), BEARER)
    assert (answer.status, answer.error) == (413, "The request has 1000000 inputs; the limit is 32.")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        pytest.param(b'{"top_k": -1}', "greater than or equal to 1", id="negative top_k"),
        pytest.param(b'{"top_k": 9223372036854775808}', "'top_k' is over the 8192 words", id="top_k over 63 bits"),
        pytest.param(b'{"top_k": 18446744073709551616}', "'top_k' is over the 8192 words", id="top_k over 64 bits"),
        pytest.param(b'{"targets": []}', "'targets': List should have at least 1 item", id="no targets"),
        pytest.param(b'{"targets": ["\\u0000"]}', "At least one target", id="targets of nothing"),
        pytest.param(b'{"__class__": "x"}', "Unknown parameter '__class__'", id="dunder"),
        pytest.param(b'{"tokenizer_kwargs": {}}', "Unknown parameter 'tokenizer_kwargs'", id="tokenizer_kwargs"),
    ],
)
def test_parameters_outside_of_the_specification_are_rejected(bundled: Process, value: bytes, words: str) -> None:
    answer = ask_json(bundled, parameters(value))
    assert (answer.status, answer.error_type) == (422, "rejected")
    assert words in answer.error


def test_of_equal_keys_the_last_one_counts(bundled: Process) -> None:
    twice = b'{"inputs": "first [MASK]", "inputs": "second [MASK]", "parameters": {"top_k": 3, "top_k": 1}}'
    (prediction,) = json.loads(ask_json(bundled, twice).body)
    assert prediction["sequence"].split()[0] == "second"


# Text


TEXTS = [
    pytest.param("a\0 [MASK]\0", id="NUL"),
    pytest.param("\ufeffa [MASK]", id="byte order mark"),
    pytest.param("a\r\n\t\x0b\x1b[31m [MASK]", id="control characters"),
    pytest.param("\u202ea [MASK] שלום مرحبا\u202c", id="right to left"),
    pytest.param("a 👩‍👩‍👧‍👦 🇩🇪 [MASK] 😀", id="emoji"),
    pytest.param("z\u0335\u0301\u0301\u0327a\u0301lgo [MASK]", id="combining"),
    pytest.param("\uffff\U0010ffff [MASK]", id="noncharacters"),
    pytest.param("/etc/passwd [MASK]", id="path"),
    pytest.param("file:///etc/passwd [MASK]", id="file address"),
    pytest.param("data:text/plain;base64,YSBbTUFTS10= [MASK]", id="data address"),
]


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_gets_what_the_pipeline_makes_of_it(bundled: Process, pipe: Any, text: str) -> None:
    expected = pipe(text)
    raw = ask(bundled, last(text.encode()))
    assert raw.status == 200
    assert_same(json.loads(raw.body), expected)
    form = ask_json(bundled, json.dumps({"inputs": [text, text]}).encode())
    assert form.status == 200
    assert_same(json.loads(form.body), [expected, expected])


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"a [MASK] \xed\xa0\x80", id="surrogate"),
        pytest.param(b"a [MASK] \xc0\xaf", id="overlong"),
        pytest.param(b"a [MASK] \xf8\x88\x80\x80\x80", id="five bytes"),
        pytest.param(b"a [MASK] \xf4\x90\x80\x80", id="over the last code point"),
        pytest.param(b"a [MASK] \xe2\x98", id="cut"),
        pytest.param("a [MASK]".encode("utf-16"), id="UTF-16"),
    ],
)
def test_bytes_that_are_not_utf_8_are_a_400(bundled: Process, body: bytes) -> None:
    answer = ask(bundled, last(body))
    assert (answer.status, answer.error_type) == (400, "malformed")
    assert answer.error.startswith("The body is not UTF-8: ")


@pytest.mark.parametrize(
    "form",
    ['"{} [MASK]"', '["{} [MASK]"]', '{{"url": "{}"}}', '[{{"image": "{}"}}]', '[["{}"]]', '{{"text": "{}", "x": 1}}'],
)
def test_an_address_in_a_text_is_never_called(bundled: Process, pipe: Any, form: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/x.png"
        answer = ask_json(bundled, inputs(form.format(address).encode()))
        if "MASK" in form:
            expected = pipe(f"{address} [MASK]")
            assert_same(json.loads(answer.body), [expected] if form.startswith("[") else expected)
        else:
            assert (answer.status, answer.error) == (400, "'inputs' must be a text, or a list of such.")
        as_image = ask(bundled, last(address.encode(), b"Content-Type: image/png"))
        assert as_image.status == 415
        assert select.select([listener], [], [], 0)[0] == []


# Deadlines that clients set


@pytest.mark.parametrize("timeout", [b"", b"abc", b"0", b"0.0", b"-1", b"+1", b"1e3", b"inf", b"nan", b"1,2", b"1."])
def test_a_deadline_that_is_no_number_over_0_is_a_400(bundled: Process, timeout: bytes) -> None:
    answer = ask(bundled, last(TEXT, b"X-Request-Timeout: " + timeout))
    assert (answer.status, answer.error_type) == (400, "malformed")
    assert answer.error == "The header X-Request-Timeout is a number of seconds over 0, like 2.5."


@pytest.mark.parametrize("timeout", [b"0.001", b"0.000000001"])
def test_an_answer_that_cannot_be_in_time_is_not_given_late(bundled: Process, timeout: bytes) -> None:
    answers = [ask(bundled, last(TEXT, b"X-Request-Timeout: " + timeout)) for _ in range(5)]
    errors = {(answer.status, answer.error_type) for answer in answers}
    assert errors <= {(503, "overloaded"), (504, "deadline_exceeded")}
    assert not [answer.error for answer in answers if re.search(r" -\d", answer.error)]  # no time before now


# Clients that disconnect


def reset(client: socket.socket) -> None:
    """Closed without a goodbye: the server's socket fails instead of ending."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


EXPECTING = post_head(b"Content-Length: 8", b"Expect: 100-continue")
LIST = json.dumps({"inputs": [f"{number} [MASK]" for number in range(8)]}).encode()
LEAVING = pytest.mark.parametrize("leave", [reset, socket.socket.close], ids=["reset", "close"])


@LEAVING
@pytest.mark.parametrize("sent", [b"", b"POST / HTTP/1.1\r\nHos"], ids=["before the head", "in the head"])
def test_a_client_that_disconnects_before_a_request_is_not_counted(
    bundled: Process, sent: bytes, leave: Callable[[socket.socket], None]
) -> None:
    before = counted(bundled)
    client = bundled.connect()
    client.sendall(sent)
    leave(client)
    assert counted(bundled) == before
    assert_still_serves(bundled)


@LEAVING
@pytest.mark.parametrize("part", [b"", b"a ["], ids=["after the head", "in the body"])
def test_a_client_that_disconnects_before_the_body_is_there_is_counted_as_disconnected(
    bundled: Process, part: bytes, leave: Callable[[socket.socket], None]
) -> None:
    before = counted(bundled)
    client = bundled.connect()
    client.sendall(EXPECTING)
    assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"  # so the server waits for the body
    client.sendall(part)
    leave(client)
    until(lambda: counted(bundled) - before == Counter({499: 1}))
    assert_still_serves(bundled)


@LEAVING
@pytest.mark.parametrize(
    "sent",
    [pytest.param(request(TEXT), id="a text"), pytest.param(request(LIST, JSON), id="a list")],
)
def test_a_client_that_disconnects_after_the_body_is_counted_once_and_leaves_nothing_in_flight(
    bundled: Process, sent: bytes, leave: Callable[[socket.socket], None]
) -> None:
    before = counted(bundled)
    client = bundled.connect()
    client.sendall(sent)
    leave(client)
    until(lambda: (counted(bundled) - before).total() == 1)
    assert set(counted(bundled) - before) <= {200, 499}  # whichever was first
    assert_still_serves(bundled)


def test_a_client_that_disconnects_with_requests_in_line_leaves_nothing_behind(bundled: Process) -> None:
    before = counted(bundled)
    client = bundled.connect()
    client.sendall(20 * request(TEXT))
    client.close()
    until(lambda: (counted(bundled) - before).total() >= 1)
    assert_still_serves(bundled)
    assert set(counted(bundled) - before) <= {200, 499}


@LEAVING
def test_a_client_that_disconnects_in_the_middle_of_a_large_answer_harms_no_other(
    bundled: Process, leave: Callable[[socket.socket], None]
) -> None:
    before = counted(bundled)
    form = json.dumps({"inputs": ["a [MASK]"] * 32, "parameters": {"top_k": 1000}}).encode()
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", int(bundled.url.rpartition(":")[2])))
    client.sendall(request(form, JSON))
    assert client.recv(12) == b"HTTP/1.1 200"  # of 2.7 MB
    leave(client)
    until(lambda: counted(bundled) - before == Counter({200: 1}))
    assert_still_serves(bundled)


@pytest.mark.parametrize("sent", [b"", b"POST / HTTP"], ids=["nothing", "half a head"])
def test_a_half_closed_connection_without_a_request_is_closed(bundled: Process, sent: bytes) -> None:
    before = counted(bundled)
    assert half_close(bundled, sent) == []
    assert counted(bundled) == before


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        pytest.param(post_head(b"Content-Length: 8") + b"a [", {499}, id="in the body"),
        pytest.param(request(TEXT), {200, 499}, id="after the body"),
    ],
)
def test_a_client_that_half_closes_its_connection_is_counted_once(
    bundled: Process, sent: bytes, statuses: set[int]
) -> None:
    before = counted(bundled)
    answers = half_close(bundled, sent)
    assert [answer.status for answer in answers] in ([], [200])
    until(lambda: (counted(bundled) - before).total() == 1)
    assert set(counted(bundled) - before) <= statuses
    assert_still_serves(bundled)


def half_close(process: Process, sent: bytes) -> list[Result]:
    """Send this, say that nothing more will come, and read."""
    with connected(process) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        return parse(read_to_the_end(client))


@contextmanager
def many_files(count: int) -> Iterator[None]:
    """This process and the server, whose limit is the same, may have so many files open; or the test is skipped."""
    resource = pytest.importorskip("resource")
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < count:
        pytest.skip(f"the system allows {most} open files, and this takes {count}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(allowed, count), most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))


def test_two_thousand_idle_connections_keep_no_client_from_an_answer(bundled: Process) -> None:
    files = bundled.metric("process_open_fds")
    with many_files(2_500), ExitStack() as stack:
        for _ in range(2_000):
            stack.enter_context(bundled.connect())
        if files:  # which Linux shows
            until(lambda: bundled.metric("process_open_fds") >= files + 2_000)
        assert ask(bundled, last(TEXT)).status == 200
        assert ask(bundled, get(b"/ready")).status == 200
    assert_still_serves(bundled)


# Keys and secrets


@pytest.mark.parametrize("key", [KEY, OTHER_KEY], ids=["the first", "not ASCII"])
def test_each_of_several_keys_is_valid(guarded: Process, key: str) -> None:
    bearer = f"Authorization: Bearer {key}".encode()
    assert ask(guarded, last(TEXT, bearer)).status == 200
    assert ask(guarded, get(b"/info", bearer)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([], id="none"),
        pytest.param([b"Authorization:"], id="empty"),
        pytest.param([b"Authorization: Bearer"], id="no key"),
        pytest.param([b"Authorization: Bearer  " + KEY.encode()], id="two spaces"),
        pytest.param([b"Authorization: Bearer hush-hush-husi"], id="of the same length"),
        pytest.param([b"Authorization: Bearer hush-hush-hus"], id="shorter"),
        pytest.param([b"Authorization: Bearer hush-hush-hush-"], id="longer"),
        pytest.param([b"Authorization: Bearer HUSH-HUSH-HUSH"], id="in capitals"),
        pytest.param([f"Authorization: Bearer {KEY},{OTHER_KEY}".encode()], id="both at once"),
        pytest.param([b"Authorization: Basic " + KEY.encode()], id="another scheme"),
        pytest.param([b"Authorization: " + KEY.encode()], id="no scheme"),
        pytest.param(["Authorization: Bearer öffne-dich-?".encode("latin-1")], id="latin-1"),
        pytest.param([b"Authorization: Bearer \xff\xfe\x80"], id="no text"),
        pytest.param([b"Authorization: Bearer " + b"a" * 60_000], id="60,000 bytes"),
        pytest.param([b"Authorization: Bearer wrong", BEARER], id="a wrong one before the right one"),
    ],
)
@pytest.mark.parametrize("path", [b"/", b"/info", b"/metrics"])
def test_a_wrong_key_opens_nothing(guarded: Process, path: bytes, headers: list[bytes]) -> None:
    data = last(TEXT, *headers) if path == b"/" else get(path, *headers)
    answer = ask(guarded, data)
    assert (answer.status, answer.error_type) == (401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


SECRETS = (KEY, OTHER_KEY, "ffne-dich", HUB_TOKEN, PRIVATE)
PRIVATE_TEXT = f"{PRIVATE} [MASK]".encode()


@pytest.mark.parametrize(
    ("data", "statuses"),
    [
        pytest.param(last(PRIVATE.encode(), BEARER), {422}, id="no mask"),
        pytest.param(last(1_000 * PRIVATE_TEXT, BEARER), {413}, id="too long"),
        pytest.param(last(PRIVATE_TEXT + b"\xff", BEARER), {400}, id="not UTF-8"),
        pytest.param(last(inputs(b'"' + PRIVATE_TEXT), BEARER, JSON), {400}, id="not JSON"),
        pytest.param(last(inputs(b'["' + PRIVATE_TEXT + b'", 1]'), BEARER, JSON), {400}, id="not a text"),
        pytest.param(last(inputs(b'["' + PRIVATE.encode() + b'"]'), BEARER, JSON), {422}, id="no mask in a list"),
        pytest.param(
            last(parameters(b'{"top_k": "' + PRIVATE_TEXT + b'"}'), BEARER, JSON), {400}, id="a text as top_k"
        ),
        pytest.param(last(PRIVATE_TEXT, BEARER, b"X-Request-Timeout: 0.001"), {503, 504}, id="too late"),
        pytest.param(last(PRIVATE_TEXT, b"Authorization: Bearer " + PRIVATE_TEXT), {401}, id="as a key"),
        pytest.param(get(b"/nowhere?" + PRIVATE.encode(), b"X-Text: " + PRIVATE_TEXT), {404}, id="in a query"),
        pytest.param(
            last(parameters(b'{"targets": ["\\nINFO: ' + PRIVATE_TEXT + b'"]}'), BEARER, JSON), {200}, id="target"
        ),
    ],
)
def test_neither_texts_nor_keys_come_back_or_stand_in_the_log(
    guarded: Process, data: bytes, statuses: set[int]
) -> None:
    name = f"secret-{os.urandom(8).hex()}"
    answer = ask(guarded, data.replace(b"Host: x", b"Host: x\r\nX-Request-ID: " + name.encode(), 1))
    assert answer.status in statuses
    guarded.wait_for_line(name)
    for shown in (answer.body.decode(), *map(str, answer.headers.values()), *guarded.log):
        assert not [secret for secret in SECRETS if secret in shown]


def test_neither_texts_nor_keys_stand_in_the_other_routes(guarded: Process) -> None:
    assert ask(guarded, last(PRIVATE_TEXT, BEARER)).status == 200
    for path in (b"/health", b"/ready", b"/info", b"/metrics", b"/nowhere"):
        shown = ask(guarded, get(path, BEARER)).body.decode()
        assert not [secret for secret in SECRETS if secret in shown]


# After all of this


def test_after_all_of_this_nothing_is_in_flight_and_every_line_of_the_log_is_json(
    bundled: Process, guarded: Process
) -> None:
    for process in (bundled, guarded):
        assert "\npipeline_inputs_in_flight 0.0\n" in ask(process, get(b"/metrics", BEARER)).body.decode()
    assert all(isinstance(json.loads(line), dict) for line in guarded.log)
