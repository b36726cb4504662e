"""The request id, the default headers, and the time-out that a client asks for."""

import asyncio
import re

import pytest
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.testclient import TestClient

from pipeline_webserver.errors import Malformed
from pipeline_webserver.web.headers import TIMEOUT_HEADER, request_id, request_timeout_s
from tests.support.asgi import play, post
from tests.support.fakes import FakeRunner


@pytest.mark.parametrize("path", ["/", "/health", "/nowhere"])
def test_every_response_carries_a_request_id_and_a_sane_one_is_kept(path: str, client: TestClient) -> None:
    assert client.post(path, content=b"a", headers={"X-Request-ID": "abc-1:2"}).headers["x-request-id"] == "abc-1:2"
    assert re.fullmatch(r"[0-9a-f]{32}", client.post(path, content=b"a").headers["x-request-id"])


@pytest.mark.parametrize("insane", ["", "a b", "x" * 129, 'a"b', "a\nb"])
def test_an_insane_request_id_is_replaced(insane: str) -> None:
    assert re.fullmatch(r"[0-9a-f]{32}", request_id(Headers({"X-Request-ID": insane})))


def test_responses_are_neither_sniffed_nor_stored(client: TestClient) -> None:
    for response in (client.post("/", content=b"a"), client.post("/", content=b"bad"), client.get("/nowhere")):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("value", "timeout_s"), [("0.5", 0.5), ("2", 2), ("000000002.5", 2.5), ("0.000000001", 1e-9), ("1000", 5)]
)
def test_a_client_may_ask_for_a_shorter_time_out_and_for_no_longer_one(value: str, timeout_s: float) -> None:
    assert request_timeout_s(Headers({TIMEOUT_HEADER: value}), 5) == timeout_s
    assert request_timeout_s(Headers(), 5) == 5


def test_the_time_out_that_a_client_asks_for_is_its_deadline() -> None:
    async def steps(app: Starlette, runner: FakeRunner) -> None:
        timeouts = {"0.5": 0.5, "2": 2, "1000": 5, "": 5}
        tasks = {text: asyncio.create_task(timed(app, {TIMEOUT_HEADER: text} if text else {})) for text in timeouts}
        assert {text: await task for text, task in tasks.items()} == timeouts
        assert asyncio.get_running_loop().time() == 5

    async def timed(app: Starlette, headers: dict[str, str]) -> float:
        assert (await post(app, b"a", headers)).status == 504
        return asyncio.get_running_loop().time()

    play(steps, held=True, request_timeout_s=5)


@pytest.mark.parametrize(
    "value", ["soon", "", "-1", "+1", "0", "0.0", "1.", ".5", "1e3", "inf", "nan", "1" * 10, " 1", "1\n", "²", "1_0"]
)
def test_a_time_out_that_is_no_number_of_seconds_is_malformed(value: str) -> None:
    with pytest.raises(Malformed, match=r"^The header X-Request-Timeout is a number of seconds over 0, like 2\.5\.$"):
        request_timeout_s(Headers({TIMEOUT_HEADER: value}), 5)


def test_a_malformed_time_out_is_a_400(client: TestClient) -> None:
    response = client.post("/", content=b"a", headers={TIMEOUT_HEADER: "soon"})
    assert (response.status_code, response.json()["error_type"]) == (400, "malformed")
