"""What all requests have in common: a line in the log, a count; the browser origins that may call; a failed start."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from config import Settings
from pipeline_webserver.errors import ConfigurationError
from pipeline_webserver.telemetry import metrics
from pipeline_webserver.telemetry.logs import ACCESS
from server import create_app
from tests.support.asgi import completed, get, play, post, release
from tests.support.clock import run
from tests.support.fakes import FakeRunner


@pytest.fixture(autouse=True)
def access_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where uvicorn's own access log was never set up, whatever other tests of this process have served."""
    for name in (ACCESS, "uvicorn.access"):
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])
        monkeypatch.setattr(logging.getLogger(name), "propagate", name == ACCESS)


# Metrics


def test_metrics_count_responses_by_route_status_and_error_type(client: TestClient) -> None:
    line = 'pipeline_requests_total{error_type="rejected",route="/",status="422"}'

    def count() -> float:
        found = re.search(rf"^{re.escape(line)} (.*)$", client.get("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    before = count()
    client.post("/", content=b"bad")
    assert count() == before + 1


def test_a_path_that_does_not_exist_makes_no_series_of_its_own() -> None:
    app = create_app(Settings(cors_origins=("*",)), FakeRunner())
    with TestClient(app) as client:
        preflight = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
        assert client.get("/made-up").status_code == 404
        assert client.get("/health///").status_code == 404
        assert client.options("/made-up", headers=preflight).status_code == 200
        routes = set(re.findall(r'pipeline_requests_total\{.*route="([^"]*)"', client.get("/metrics").text))
    assert "unknown" in routes
    assert routes <= {"unknown", *(route.path for route in app.routes if isinstance(route, Route))}


def test_a_request_that_the_server_underneath_cancels_is_counted_as_a_disconnect_and_its_inputs_are_dropped() -> None:
    async def steps(app: Starlette, runner: FakeRunner) -> None:
        counted = metrics.REQUESTS.labels("/", 499, "client_disconnected")._value
        before, before_cancelled = counted.get(), completed("cancelled")
        first = asyncio.create_task(post(app, b"first"))
        await asyncio.sleep(0.5)
        gone = asyncio.create_task(post(app, b"gone"))
        await asyncio.sleep(0.5)
        gone.cancel()
        release(runner)
        assert (await first).json() == "FIRST"
        assert (await post(app, b"next")).json() == "NEXT"
        assert [texts for _, texts in runner.batches] == [["first"], ["next"]]
        assert gone.cancelled()
        assert (counted.get(), completed("cancelled")) == (before + 1, before_cancelled + 1)

    play(steps, held=True)


# The log


def access_lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [getattr(record, "fields") for record in caplog.records if record.name == ACCESS]  # noqa: B009


def test_each_request_is_a_line_with_its_id_its_outcome_and_its_times(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", ACCESS)
    with TestClient(create_app(Settings(), FakeRunner())) as client:
        client.post("/", json={"inputs": ["a", "b"]}, headers={"X-Request-ID": "abc"})
        client.post("/?key=secret", content=b"bad")
        client.post("/", content=b"poison")
        client.get("/a%0Ab")
        client.get("/health")
    answered, rejected, failed, unknown = access_lines(caplog)
    assert {key: answered[key] for key in ("method", "path", "status", "request_id", "error_type", "batch_size")} == {
        "method": "POST",
        "path": "/",
        "status": 200,
        "request_id": "abc",
        "error_type": "",
        "batch_size": 2,
    }
    assert answered["total_ms"] >= answered["queue_ms"] + answered["model_ms"] >= 0
    assert (rejected["path"], rejected["status"], rejected["error_type"]) == ("/", 422, "rejected")
    assert "batch_size" not in rejected
    assert (failed["status"], failed["error_type"], failed["batch_size"]) == (500, "inference_failed", 1)
    assert unknown["path"] == "/a%0Ab"
    assert "secret" not in caplog.text


def test_probes_are_in_the_log_only_when_they_fail(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", ACCESS)

    async def steps(app: Starlette, runner: FakeRunner) -> None:
        await get(app, "/ready")
        asyncio.get_running_loop().call_soon(release, runner)
        await post(app, b"broken")
        await get(app, "/ready")

    play(steps, held=True)
    assert [(line["path"], line["status"]) for line in access_lines(caplog)] == [("/", 503), ("/ready", 503)]


@pytest.mark.parametrize(
    ("client", "server", "shown"),
    [
        (("127.0.0.1", 5), ("127.0.0.1", 80), "127.0.0.1:5"),
        (("::1", 5), ("::1", 80), "::1:5"),
        (None, ("/run/server.sock", None), "unix"),
        (None, ("127.0.0.1", 80), "unknown"),
        (None, None, "unknown"),
    ],
)
def test_the_client_of_a_socket_in_the_file_system_is_shown_as_one(
    client: tuple[str, int] | None, server: tuple[str, int | None] | None, shown: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", ACCESS)
    app = create_app(Settings(), FakeRunner())

    async def from_there(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "client": client, "server": server}, receive, send)

    with TestClient(from_there) as test_client:
        test_client.get("/info")
    (line,) = access_lines(caplog)
    assert line["client"] == shown


def test_the_latency_of_refusals_is_apart_from_that_of_answers(client: TestClient) -> None:
    def count(status: int) -> float:
        text = client.get("/metrics").text
        found = re.search(rf'^pipeline_request_seconds_count{{route="/",status="{status}"}} (.*)$', text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    before = count(200), count(422)
    client.post("/", content=b"bad")
    client.post("/", content=b"bad")
    client.post("/", content=b"a")
    assert (count(200), count(422)) == (before[0] + 1, before[1] + 2)


def test_a_query_that_is_not_utf_8_does_no_harm() -> None:
    async def steps(app: Starlette, runner: FakeRunner) -> None:
        assert (await post(app, b"a", query=b"\xff")).json() == "A"

    play(steps)


# CORS


def test_only_the_origins_in_the_settings_may_call_from_a_browser() -> None:
    ours, others = {"Origin": "https://a.example"}, {"Origin": "https://b.example"}
    with TestClient(create_app(Settings(cors_origins=("https://a.example",)), FakeRunner())) as client:
        response = client.post("/", content=b"a", headers=ours)
        assert response.headers["access-control-allow-origin"] == "https://a.example"
        assert "Server-Timing" in response.headers["access-control-expose-headers"]
        assert "access-control-allow-origin" not in client.post("/", content=b"a", headers=others).headers
        preflight = {**ours, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
        assert client.options("/", headers=preflight).status_code == 200
        assert client.options("/", headers=preflight).headers["x-request-id"]


def test_without_origins_no_page_may_call(client: TestClient) -> None:
    response = client.post("/", content=b"a", headers={"Origin": "https://a.example"})
    assert "access-control-allow-origin" not in response.headers


# The start


def test_a_start_that_fails_is_reported_in_one_line() -> None:
    class Unloadable(FakeRunner):
        async def start(self) -> None:
            raise ConfigurationError("there is no such model; check PIPELINE_MODEL")

    async def main() -> list[Any]:
        sent: list[Any] = []
        runner = Unloadable()
        started: AsyncIterator[Any] = aiter_of({"type": "lifespan.startup"})

        async def send(message: Any) -> None:
            sent.append(message)

        with pytest.raises(ConfigurationError):
            await create_app(Settings(), runner)({"type": "lifespan", "state": {}}, started.__anext__, send)
        assert runner.closed
        return sent

    line = "there is no such model; check PIPELINE_MODEL"
    assert run(main()) == [{"type": "lifespan.startup.failed", "message": line}]


async def aiter_of(message: Any) -> AsyncIterator[Any]:
    yield message
