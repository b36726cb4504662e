"""The HTTP contract, with a fake model and full control; time is virtual where it matters."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from config import Settings
from pipeline_webserver import VERSION
from pipeline_webserver.errors import ConfigurationError
from pipeline_webserver.telemetry import metrics
from pipeline_webserver.telemetry.logs import ACCESS
from server import PATIENCE, create_app
from tests.support.asgi import Reply, get, post, serving
from tests.support.clock import run
from tests.support.fakes import FakeRunner

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(Settings(max_inputs=3, max_body_bytes=100), FakeRunner())) as opened:
        yield opened


def play(
    steps: Callable[[Starlette, FakeRunner], Awaitable[None]], *, held: bool = False, **settings: Any
) -> FakeRunner:
    """Play some steps on a virtual clock, perhaps with the model held by its gate."""

    async def main() -> FakeRunner:
        runner = FakeRunner(gate=asyncio.Event() if held else None)
        async with serving(runner, **settings) as app:
            await steps(app, runner)
        assert runner.closed
        return runner

    return run(main())


def release(runner: FakeRunner) -> None:
    assert runner.gate is not None
    runner.gate.set()


def skipped(reason: str) -> float:
    return float(metrics.INPUTS.labels(reason)._value.get())


# Answers


def test_raw_text_is_answered_with_what_the_pipeline_returns(client: TestClient) -> None:
    response = client.post("/", content=b"test [MASK]", headers={"content-type": "application/x-www-form-urlencoded"})
    assert (response.status_code, response.json()) == (200, "TEST [MASK]")
    assert response.headers["content-type"] == "application/json"


def test_the_json_form_takes_one_text_or_a_list(client: TestClient) -> None:
    assert client.post("/", json={"inputs": "a"}).json() == "A"
    assert client.post("/", json={"inputs": ["a", "b", "c"]}).json() == ["A", "B", "C"]


def test_an_answer_from_the_model_carries_its_timing(client: TestClient) -> None:
    number = r"\d+\.\d\d"
    timing = client.post("/", json={"inputs": ["a", "b", "c"]}).headers["server-timing"]
    assert re.fullmatch(rf'queue;dur={number}, model;dur={number}, total;dur={number}, batch;desc="3"', timing)
    assert "server-timing" not in client.get("/health").headers


@pytest.mark.parametrize("path", ["/", "/health", "/nowhere"])
def test_every_response_carries_a_request_id_and_a_sane_one_is_kept(path: str, client: TestClient) -> None:
    assert client.post(path, content=b"a", headers={"X-Request-ID": "abc-1:2"}).headers["x-request-id"] == "abc-1:2"
    assert re.fullmatch(r"[0-9a-f]{32}", client.post(path, content=b"a").headers["x-request-id"])
    for insane in ("", "a b", "x" * 129, 'a"b'):
        made = client.post(path, content=b"a", headers={"X-Request-ID": insane}).headers["x-request-id"]
        assert re.fullmatch(r"[0-9a-f]{32}", made)


def test_info_tells_the_model_the_limits_and_the_version(client: TestClient) -> None:
    info = client.get("/info").json()
    assert info["model"] == "fake"
    assert info["version"] == VERSION
    assert info["limits"] == {
        "max_batch_size": 32,
        "max_batch_tokens": 512,
        "batch_wait_ms": 1.0,
        "max_requests": 512,
        "max_inputs": 3,
        "max_body_bytes": 100,
        "max_new_tokens": 256,
        "max_image_pixels": 25_000_000,
        "max_audio_s": 60.0,
        "request_timeout_s": 30.0,
        "truncate": False,
    }


def test_metrics_are_prometheus_text_that_counts_answers_by_route_status_and_error_type(client: TestClient) -> None:
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


def test_a_query_that_is_not_utf_8_does_no_harm() -> None:
    async def steps(app: Starlette, runner: FakeRunner) -> None:
        assert (await post(app, b"a", query=b"\xff")).json() == "A"

    play(steps)


def test_a_list_is_answered_at_its_first_error_without_waiting_for_the_model() -> None:
    async def steps(app: Starlette, runner: FakeRunner) -> None:
        reply = await post(app, b'{"inputs": ["bad", "a", "b"]}', JSON)
        assert (reply.status, reply.json()["error"]) == (422, "inputs[0]: bad is refused")
        release(runner)

    play(steps, held=True)


def test_a_body_that_does_not_arrive_in_time_is_a_408() -> None:
    async def steps(app: Starlette, runner: FakeRunner) -> None:
        reply = await post(app, [b"the beginning"], stall=True)
        assert (reply.status, reply.json()["error"]) == (408, "The body did not arrive in time.")
        assert asyncio.get_running_loop().time() == 5

    play(steps, request_timeout_s=5)


# Errors


@pytest.mark.parametrize(
    ("status", "error_type", "words", "request_"),
    [
        (400, "malformed", "not UTF-8", {"content": b"\xff"}),
        (400, "malformed", "not JSON", {"content": b"{", "headers": JSON}),
        (413, "too_large", "The body has 101 bytes; the limit is 100.", {"content": b"a" * 101}),
        (413, "too_large", "The request has 4 inputs; the limit is 3.", {"json": {"inputs": ["a"] * 4}}),
        (415, "unsupported_media_type", "image/png", {"content": b"a", "headers": {"content-type": "image/png"}}),
        (422, "rejected", "bad is refused", {"content": b"bad"}),
        (422, "rejected", "inputs[1]: bad is refused", {"json": {"inputs": ["a", "bad", "poison"]}}),
        (422, "rejected", "Unknown parameter", {"json": {"inputs": "a", "parameters": {"x": 1}}}),
        (500, "inference_failed", "It failed.", {"content": b"poison"}),
        (500, "inference_failed", "inputs[2]: It failed.", {"json": {"inputs": ["a", "b", "poison"]}}),
        (404, "not_found", "Not Found: POST /nowhere", {"url": "/nowhere"}),
        (405, "method_not_allowed", "Method Not Allowed: PUT /", {"method": "PUT"}),
    ],
)
def test_each_error_has_its_status_its_type_and_a_text_that_says_what_was_wrong(
    status: int, error_type: str, words: str, request_: dict[str, Any], client: TestClient
) -> None:
    response = client.request(**{"method": "POST", "url": "/", **request_})
    assert response.status_code == status
    assert response.json().keys() == {"error", "error_type"}
    assert response.json()["error_type"] == error_type
    assert words in response.json()["error"]


def test_a_body_that_grows_over_the_limit_is_refused_without_a_declared_length() -> None:
    async def steps(app: Starlette, runner: FakeRunner) -> None:
        assert (await post(app, [b"a" * 50, b"a" * 50])).status == 200
        reply = await post(app, [b"a" * 50, b"a" * 51, b"never read"])
        assert (reply.status, reply.json()["error"]) == (413, "The body has at least 101 bytes; the limit is 100.")

    play(steps, max_body_bytes=100)


def test_details_of_a_failure_go_to_the_log_under_the_request_id_and_to_clients_only_if_asked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def hidden(app: Starlette, runner: FakeRunner) -> None:
        reply = await post(app, b"poison", {"X-Request-ID": "case-7"})
        assert reply.json()["error"] == "It failed."
        (record,) = [record for record in caplog.records if record.name == "failures" and record.levelname == "ERROR"]
        assert record.getMessage() == "The model failed on request case-7"
        assert record.exc_info is not None
        assert str(record.exc_info[1]) == "the tensors do not fit"

    async def shown(app: Starlette, runner: FakeRunner) -> None:
        assert (await post(app, b"poison")).json()["error"] == "It failed. RuntimeError: the tensors do not fit"

    play(hidden)
    play(shown, show_errors=True)


def test_a_bug_of_ours_is_a_500_that_gives_nothing_away() -> None:
    class Unspeakable(FakeRunner):
        def describe(self) -> dict[str, object]:
            return {**super().describe(), "secret path": object()}  # JSON cannot say this

    with TestClient(create_app(Settings(), Unspeakable()), raise_server_exceptions=False) as client:
        response = client.get("/info")
    assert (response.status_code, response.json()["error_type"]) == (500, "internal")
    assert "secret" not in response.text
    assert response.headers["x-request-id"]


# Overload, deadline, hang-up


def test_a_full_house_is_a_503_that_says_when_to_come_back_and_costs_no_health() -> None:
    async def steps(app: Starlette, runner: FakeRunner) -> None:
        first = asyncio.create_task(post(app, b"a"))
        await asyncio.sleep(0.5)
        refused = await post(app, b"b")
        assert (refused.status, refused.json()["error_type"]) == (503, "overloaded")
        assert refused.json()["error"] == "The server is full: 1 of 1 places are taken."
        assert refused.headers["retry-after"] == "1"
        assert [(await get(app, path)).status for path in ("/health", "/ready")] == [200, 200]
        release(runner)
        assert (await first).json() == "A"

    play(steps, held=True, max_requests=1, max_inputs=1)


def test_at_its_deadline_a_request_is_a_504_and_its_work_is_skipped_if_it_has_not_begun() -> None:
    async def steps(app: Starlette, runner: FakeRunner) -> None:
        before = skipped("abandoned") + skipped("expired")
        loop = asyncio.get_running_loop()
        begun, waiting = asyncio.create_task(post(app, b"begun")), asyncio.create_task(later(1, post(app, b"waiting")))
        assert (await begun).json()["error_type"] == "deadline_exceeded"
        assert ((await begun).status, loop.time()) == (504, 5)
        assert ((await waiting).status, loop.time()) == (504, 6)
        release(runner)
        await asyncio.sleep(1)
        assert (await post(app, b"next")).json() == "NEXT"
        assert [texts for _, texts in runner.batches] == [["begun"], ["next"]]
        assert skipped("abandoned") + skipped("expired") == before + 1

    play(steps, held=True, request_timeout_s=5)


async def later(seconds: float, coroutine: Awaitable[Reply]) -> Reply:
    await asyncio.sleep(seconds)
    return await coroutine


def test_the_work_of_a_client_that_hangs_up_is_skipped_and_counted() -> None:
    async def steps(app: Starlette, runner: FakeRunner) -> None:
        before = skipped("abandoned")
        first = asyncio.create_task(post(app, b"first"))
        await asyncio.sleep(0.5)
        hang_up = asyncio.Event()
        gone = asyncio.create_task(post(app, b'{"inputs": ["gone", "too"]}', JSON, hang_up=hang_up))
        await asyncio.sleep(0.5)
        hang_up.set()
        assert (await gone).status == 499  # for the log; nobody reads it
        release(runner)
        assert (await first).json() == "FIRST"
        assert (await post(app, b"next")).json() == "NEXT"
        assert [texts for _, texts in runner.batches] == [["first"], ["next"]]
        assert skipped("abandoned") == before + 2

    play(steps, held=True)


def test_a_client_that_hangs_up_in_the_same_turn_of_the_loop_as_its_deadline_has_hung_up() -> None:
    async def steps(app: Starlette, runner: FakeRunner) -> None:
        hang_up = asyncio.Event()
        asyncio.get_running_loop().call_later(30 - 1e-10, hang_up.set)
        assert (await post(app, b"first", hang_up=hang_up)).status == 499
        release(runner)
        assert (await post(app, b"next")).json() == "NEXT"

    play(steps, held=True)


def test_a_client_that_hangs_up_while_it_sends_leaves_nothing_behind() -> None:
    async def steps(app: Starlette, runner: FakeRunner) -> None:
        gone = asyncio.Event()
        gone.set()
        assert (await post(app, [], hang_up=gone)).status == 499

    assert play(steps).batches == []


def test_a_request_that_the_server_underneath_cancels_is_counted_as_hung_up_and_its_work_is_skipped() -> None:
    async def steps(app: Starlette, runner: FakeRunner) -> None:
        counted = metrics.REQUESTS.labels("/", 499, "hung_up")._value
        before, before_skipped = counted.get(), skipped("abandoned")
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
        assert (counted.get(), skipped("abandoned")) == (before + 1, before_skipped + 1)

    play(steps, held=True)


# Health, shutdown


@pytest.mark.parametrize(
    ("fault", "words"), [("broken", "The model is broken."), ("bug", "The server loop died of a bug.")]
)
def test_a_dead_loop_turns_health_and_readiness_red_and_answers_everyone(fault: str, words: str) -> None:
    async def steps(app: Starlette, runner: FakeRunner) -> None:
        inside = [asyncio.create_task(post(app, text)) for text in (fault.encode(), b"a")]
        await asyncio.sleep(0.5)
        queued = asyncio.create_task(post(app, b"b"))
        await asyncio.sleep(0.5)
        release(runner)
        for task in (*inside, queued):
            assert ((await task).status, (await task).json()["error_type"]) == (503, "unavailable")
            assert words in (await task).json()["error"]
        for path in ("/health", "/ready"):
            assert ((await get(app, path)).status, (await get(app, path)).json()["error_type"]) == (503, "unavailable")
        assert (await post(app, b"c")).status == 503

    play(steps, held=True)


def test_a_stuck_model_turns_health_red_until_it_comes_back() -> None:
    async def steps(app: Starlette, runner: FakeRunner) -> None:
        assert (await post(app, b"a")).status == 504
        await asyncio.sleep(1)
        assert (await get(app, "/health")).status == 503
        assert (await post(app, b"b")).json()["error"] == "The model has been busy with one pass for 6 s."
        release(runner)
        await asyncio.sleep(1)
        assert (await get(app, "/health")).status == 200

    play(steps, held=True, request_timeout_s=5)


def test_shutdown_answers_everyone_who_is_in() -> None:
    async def main() -> None:
        runner = FakeRunner(model_s=2)
        async with serving(runner, max_batch_size=1) as app:
            tasks = [asyncio.create_task(post(app, text)) for text in (b"a", b"b", b"c")]
            await asyncio.sleep(1)
        assert [(await task).json() for task in tasks] == ["A", "B", "C"]
        assert asyncio.get_running_loop().time() == 6
        assert ((await post(app, b"d")).status, (await get(app, "/ready")).json()["error_type"]) == (503, "draining")
        assert (await get(app, "/health")).status == 200  # a liveness probe must not kill a server that is draining

    run(main())


def test_a_shutdown_that_takes_too_long_answers_the_rest_with_draining() -> None:
    async def main() -> list[int]:
        async with serving(FakeRunner(model_s=2), max_batch_size=1, drain_timeout_s=3) as app:
            tasks = [asyncio.create_task(post(app, text)) for text in (b"a", b"b", b"c")]
            await asyncio.sleep(0.5)
        return [(await task).status for task in tasks]

    assert run(main()) == [200, 503, 503]


def test_a_start_that_fails_is_told_in_one_line() -> None:
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


def test_before_the_model_is_loaded_nobody_is_let_in_and_nothing_is_wrong() -> None:
    async def main() -> None:
        app = create_app(Settings(), FakeRunner())  # as behind a server that listens before the app has started
        for reply in (await post(app, b"a"), await get(app, "/ready")):
            assert (reply.status, reply.json()["error_type"], reply.headers["retry-after"]) == (503, "starting", "1")
        assert (await get(app, "/health")).status == 200
        async with app.router.lifespan_context(app):
            assert (await post(app, b"a")).json() == "A"
            assert (await get(app, "/ready")).status == 200

    run(main())


def test_a_body_that_is_still_being_sent_when_the_drain_is_over_is_told_so() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with serving(FakeRunner(), drain_timeout_s=3) as app:
            sending = asyncio.create_task(post(app, [b"the beginning"], stall=True))
            hurried = asyncio.create_task(post(app, [b"the beginning"], {PATIENCE: "2"}, stall=True))
            await asyncio.sleep(1)
        assert ((await hurried).status, loop.time()) == (503, 2)
        assert ((await sending).status, (await sending).json()["error_type"], loop.time()) == (503, "draining", 4)

    run(main())


# What the client asks for


def test_a_client_may_ask_for_a_shorter_deadline_and_for_no_longer_one() -> None:
    async def steps(app: Starlette, runner: FakeRunner) -> None:
        loop = asyncio.get_running_loop()
        asked = {"0.5": 0.5, "2": 2, "1000": 5, "": None}
        tasks = {text: asyncio.create_task(timed(app, {PATIENCE: text} if text else {})) for text in asked}
        assert {text: await task for text, task in tasks.items()} == {"0.5": 0.5, "2": 2, "1000": 5, "": 5}
        assert loop.time() == 5

    async def timed(app: Starlette, headers: dict[str, str]) -> float:
        assert (await post(app, b"a", headers)).status == 504
        return asyncio.get_running_loop().time()

    play(steps, held=True, request_timeout_s=5)


@pytest.mark.parametrize("asked", ["soon", "-1", "0", "0.0", "1e3", "inf", "nan", "1" * 10])
def test_a_deadline_that_is_no_number_of_seconds_is_malformed(asked: str, client: TestClient) -> None:
    response = client.post("/", content=b"a", headers={PATIENCE: asked})
    assert (response.status_code, response.json()["error_type"]) == (400, "malformed")
    assert response.json()["error"] == "The header X-Request-Timeout is a number of seconds over 0, like 2.5."


def test_who_could_not_be_answered_in_time_is_refused_at_once() -> None:
    async def main() -> None:
        async with serving(FakeRunner(model_s=1), max_batch_size=1, batch_wait_ms=0) as app:
            app.state.service.batcher.clock = asyncio.get_running_loop().time
            assert (await post(app, b"a")).status == 200
            backlog = [asyncio.create_task(post(app, b"b")) for _ in range(9)]
            await asyncio.sleep(0.5)
            refused = await post(app, b"c", {PATIENCE: "5"})
            assert (refused.status, refused.json()["error_type"]) == (503, "overloaded")
            assert refused.headers["retry-after"] == "7"
            assert asyncio.get_running_loop().time() == 1.5
            assert [(await task).status for task in backlog] == [200] * 9

    run(main())


# The log


def access_lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [getattr(record, "fields") for record in caplog.records if record.name == ACCESS]  # noqa: B009


def test_each_request_is_a_line_with_its_id_its_outcome_and_its_times(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", ACCESS)
    with TestClient(create_app(Settings(), FakeRunner())) as client:
        client.post("/", json={"inputs": ["a", "b"]}, headers={"X-Request-ID": "abc"})
        client.post("/?key=secret", content=b"bad")
        client.get("/a%0Ab")
        client.get("/health")
    answered, refused, unknown = access_lines(caplog)
    assert {key: answered[key] for key in ("method", "path", "status", "request_id", "error_type", "batch_size")} == {
        "method": "POST",
        "path": "/",
        "status": 200,
        "request_id": "abc",
        "error_type": "",
        "batch_size": 2,
    }
    assert answered["total_ms"] >= answered["queue_ms"] + answered["model_ms"] >= 0
    assert (refused["path"], refused["status"], refused["error_type"]) == ("/", 422, "rejected")
    assert "batch_size" not in refused
    assert unknown["path"] == "/a%0Ab"
    assert "secret" not in caplog.text


def test_probes_are_in_the_log_only_when_they_have_something_to_tell(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", ACCESS)

    async def steps(app: Starlette, runner: FakeRunner) -> None:
        await get(app, "/ready")
        asyncio.get_running_loop().call_soon(release, runner)
        await post(app, b"broken")
        await get(app, "/ready")

    play(steps, held=True)
    assert [(line["path"], line["status"]) for line in access_lines(caplog)] == [("/", 503), ("/ready", 503)]


def test_answers_are_not_to_be_guessed_at_nor_kept(client: TestClient) -> None:
    for response in (client.post("/", content=b"a"), client.post("/", content=b"bad"), client.get("/nowhere")):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store"


def test_too_much_that_is_being_sent_at_once_is_refused_until_it_is_less() -> None:
    async def steps(app: Starlette, runner: FakeRunner) -> None:
        slow = [asyncio.create_task(post(app, [b"a" * 100], stall=True)) for _ in range(64)]
        await asyncio.sleep(1)
        refused = await post(app, b"a")
        assert (refused.status, refused.json()["error_type"]) == (503, "overloaded")
        assert [(await task).status for task in slow] == [408] * 64
        assert (await post(app, b"a")).status == 200

    play(steps, max_body_bytes=100)


# API key, CORS


def test_with_an_api_key_every_route_but_the_probes_wants_it() -> None:
    keys: Any = ("hush", "hush-as-well")
    with TestClient(create_app(Settings(api_key=keys), FakeRunner())) as client:
        for path in ("/health", "/ready"):
            assert client.get(path).status_code == 200
        for key in ("", "hush", "Bearer", "Bearer wrong", "Basic hush", "Bearer hush2", "Bearer hüsh"):
            headers = [(b"Authorization", key.encode())]
            for response in (client.post("/", content=b"a", headers=headers), client.get("/info", headers=headers)):
                assert (response.status_code, response.json()["error_type"]) == (401, "unauthorized")
                assert response.headers["www-authenticate"] == "Bearer"
        for key in ("Bearer hush", "bearer hush", "Bearer hush-as-well"):
            assert client.post("/", content=b"a", headers={"Authorization": key}).json() == "A"
            assert client.get("/metrics", headers={"Authorization": key}).status_code == 200
        assert "hush" not in client.get("/info", headers={"Authorization": "Bearer hush"}).text


def test_only_the_origins_that_were_set_may_call_from_a_browser() -> None:
    ours, theirs = {"Origin": "https://a.example"}, {"Origin": "https://b.example"}
    with TestClient(create_app(Settings(cors_origins=("https://a.example",)), FakeRunner())) as client:
        response = client.post("/", content=b"a", headers=ours)
        assert response.headers["access-control-allow-origin"] == "https://a.example"
        assert "Server-Timing" in response.headers["access-control-expose-headers"]
        assert "access-control-allow-origin" not in client.post("/", content=b"a", headers=theirs).headers
        preflight = {**ours, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
        assert client.options("/", headers=preflight).status_code == 200
        assert client.options("/", headers=preflight).headers["x-request-id"]


def test_without_origins_no_page_may_call(client: TestClient) -> None:
    response = client.post("/", content=b"a", headers={"Origin": "https://a.example"})
    assert "access-control-allow-origin" not in response.headers
