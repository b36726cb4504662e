"""The HTTP contract, with a fake model and full control; time is virtual where it matters."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.testclient import TestClient

import server
from config import Settings, settings_help
from pipeline_webserver import VERSION
from pipeline_webserver.web.headers import TIMEOUT_HEADER
from server import create_app
from tests.support.asgi import Reply, completed, get, play, post, release, serving
from tests.support.clock import run
from tests.support.fakes import FakeRunner


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(Settings(max_inputs=3, max_body_bytes=100), FakeRunner())) as opened:
        yield opened


# Answers


def test_raw_text_is_answered_with_what_the_pipeline_returns(client: TestClient) -> None:
    response = client.post("/", content=b"test [MASK]", headers={"content-type": "application/x-www-form-urlencoded"})
    assert (response.status_code, response.json()) == (200, "TEST [MASK]")
    assert response.headers["content-type"] == "application/json"


def test_the_json_form_takes_one_text_or_a_list(client: TestClient) -> None:
    assert client.post("/", json={"inputs": "a"}).json() == "A"
    assert client.post("/", json={"inputs": ["a", "b", "c"]}).json() == ["A", "B", "C"]


def test_the_name_of_the_settings_is_the_models_wherever_the_model_is_named() -> None:
    with TestClient(create_app(Settings(name="Our model"), FakeRunner())) as client:
        info = client.get("/info").json()
        assert (info["name"], info["model"]) == ("Our model", "fake")
        assert client.get("/openapi.json").json()["info"]["title"] == "fill-mask with Our model"


def test_info_has_the_model_the_limits_and_the_version(client: TestClient) -> None:
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
        "max_cache_tokens": None,
        "max_image_pixels": 25_000_000,
        "max_audio_s": 60.0,
        "request_timeout_s": 30.0,
        "truncate": False,
    }


def test_metrics_are_prometheus_text(client: TestClient) -> None:
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    assert "# TYPE pipeline_requests_total counter\n" in response.text


def test_the_openapi_document_is_of_the_task_and_the_model(client: TestClient) -> None:
    assert client.get("/openapi.json").json()["info"]["title"] == "fill-mask with fake"


# Overload and deadlines


def test_a_full_server_is_a_503_that_says_when_to_retry_and_costs_no_health() -> None:
    async def steps(app: Starlette, runner: FakeRunner) -> None:
        first = asyncio.create_task(post(app, b"a"))
        await asyncio.sleep(0.5)
        rejected = await post(app, b"b")
        assert (rejected.status, rejected.json()["error_type"]) == (503, "overloaded")
        assert rejected.json()["error"] == "The server is full: 1 of 1 inputs are in flight."
        assert rejected.headers["retry-after"] == "1"
        assert [(await get(app, path)).status for path in ("/health", "/ready")] == [200, 200]
        release(runner)
        assert (await first).json() == "A"

    play(steps, held=True, max_requests=1, max_inputs=1)


def test_at_its_deadline_a_request_is_a_504_and_an_input_whose_batch_has_not_begun_is_dropped() -> None:
    def dropped() -> float:
        return completed("cancelled") + completed("expired")

    async def steps(app: Starlette, runner: FakeRunner) -> None:
        before = dropped()
        loop = asyncio.get_running_loop()
        begun, waiting = asyncio.create_task(post(app, b"begun")), asyncio.create_task(later(1, post(app, b"waiting")))
        assert (await begun).json()["error_type"] == "deadline_exceeded"
        assert ((await begun).status, loop.time()) == (504, 5)
        assert ((await waiting).status, loop.time()) == (504, 6)
        release(runner)
        await asyncio.sleep(1)
        assert (await post(app, b"next")).json() == "NEXT"
        assert [texts for _, texts in runner.batches] == [["begun"], ["next"]]
        assert dropped() == before + 1

    play(steps, held=True, request_timeout_s=5)


async def later(seconds: float, coroutine: Awaitable[Reply]) -> Reply:
    await asyncio.sleep(seconds)
    return await coroutine


def test_a_request_that_would_miss_its_deadline_is_rejected_at_once() -> None:
    async def main() -> None:
        async with serving(FakeRunner(model_s=1), max_batch_size=1, batch_wait_ms=0) as app:
            app.state.service.loaded().batcher.clock = asyncio.get_running_loop().time
            assert (await post(app, b"a")).status == 200
            backlog = [asyncio.create_task(post(app, b"b")) for _ in range(9)]
            await asyncio.sleep(0.5)
            rejected = await post(app, b"c", {TIMEOUT_HEADER: "5"})
            assert (rejected.status, rejected.json()["error_type"]) == (503, "overloaded")
            assert rejected.headers["retry-after"] == "7"
            assert asyncio.get_running_loop().time() == 1.5
            assert [(await task).status for task in backlog] == [200] * 9

    run(main())


# Health, start and shutdown


@pytest.mark.parametrize(
    ("fault", "words"), [("broken", "The model is broken."), ("bug", "The server loop died of a bug.")]
)
def test_a_dead_loop_turns_health_and_readiness_red_and_answers_every_request(fault: str, words: str) -> None:
    async def steps(app: Starlette, runner: FakeRunner) -> None:
        running = [asyncio.create_task(post(app, text)) for text in (fault.encode(), b"a")]
        await asyncio.sleep(0.5)
        queued = asyncio.create_task(post(app, b"b"))
        await asyncio.sleep(0.5)
        release(runner)
        for task in (*running, queued):
            assert ((await task).status, (await task).json()["error_type"]) == (503, "unavailable")
            assert words in (await task).json()["error"]
        for path in ("/health", "/ready"):
            assert ((await get(app, path)).status, (await get(app, path)).json()["error_type"]) == (503, "unavailable")
        assert (await post(app, b"c")).status == 503

    play(steps, held=True)


def test_a_stuck_model_turns_health_red_until_it_goes_on() -> None:
    async def steps(app: Starlette, runner: FakeRunner) -> None:
        assert (await post(app, b"a")).status == 504
        await asyncio.sleep(1)
        assert (await get(app, "/health")).status == 503
        assert (await post(app, b"b")).json()["error"] == "The model has been busy with one pass for 6 s."
        release(runner)
        await asyncio.sleep(1)
        assert (await get(app, "/health")).status == 200

    play(steps, held=True, request_timeout_s=5)


def test_shutdown_answers_every_request_in_flight() -> None:
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


def test_before_the_model_is_loaded_no_request_is_admitted_and_nothing_is_wrong() -> None:
    async def main() -> None:
        app = create_app(Settings(), FakeRunner())  # as behind a server that listens before the app has started
        replies = [await post(app, b"a"), await post(app, b"{}", path="/v1/embeddings")]
        replies += [await get(app, path) for path in ("/ready", "/info", "/openapi.json")]
        for reply in replies:
            assert (reply.status, reply.json()["error_type"], reply.headers["retry-after"]) == (503, "starting", "1")
        assert (await get(app, "/health")).status == 200
        async with app.router.lifespan_context(app):
            assert (await post(app, b"a")).json() == "A"
            assert (await get(app, "/ready")).status == 200

    run(main())


def test_without_uvicorn_to_end_an_exit_on_failure_is_warned_about_and_the_server_stays_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def steps(app: Starlette, runner: FakeRunner) -> None:
        assert (await post(app, b"broken")).status == 503
        assert (await get(app, "/health")).status == 503

    play(steps, exit_on_failure=True)
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.getMessage().startswith("PIPELINE_EXIT_ON_FAILURE has no effect")


# The API key


def test_with_an_api_key_every_route_but_the_probes_wants_it() -> None:
    keys: Any = ("hush", "hush-as-well")
    with TestClient(create_app(Settings(api_key=keys), FakeRunner())) as client:
        for path in ("/health", "/ready"):
            assert client.get(path).status_code == 200
        for key in ("", "Bearer wrong", "Bearer hüsh"):
            headers = [(b"Authorization", key.encode())]
            responses = [client.post(path, content=b"a", headers=headers) for path in ("/", "/v1/embeddings")]
            responses += [client.get(path, headers=headers) for path in ("/info", "/metrics", "/openapi.json")]
            for response in responses:
                assert (response.status_code, response.json()["error_type"]) == (401, "unauthorized")
                assert response.headers["www-authenticate"] == "Bearer"
        for key in ("Bearer hush", "bearer hush", "Bearer hush-as-well"):
            assert client.post("/", content=b"a", headers={"Authorization": key}).json() == "A"
            assert client.get("/metrics", headers={"Authorization": key}).status_code == 200
        assert "hush" not in client.get("/info", headers={"Authorization": "Bearer hush"}).text


# The command, and the app of `uvicorn server:app`


def uvicorn_run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[Callable[[], Starlette], dict[str, Any]]:
    """What the command runs uvicorn with: a factory of the app, and options."""
    calls: list[tuple[Callable[[], Starlette], dict[str, Any]]] = []
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: calls.append((app, options)))
    server.main(arguments)
    ((factory, options),) = calls
    return factory, options


def test_the_command_serves_its_model_and_task_at_its_host_and_port_in_one_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PIPELINE_MODEL", "of/the-environment")
    monkeypatch.setenv("PIPELINE_MAX_INPUTS", "7")
    factory, options = uvicorn_run(
        monkeypatch, "--model", "a/b", "--task", "fill-mask", "--host", "0.0.0.0", "--port", "80"
    )
    assert options == {"factory": True, "host": "0.0.0.0", "port": 80, "workers": 1}
    settings: Settings = factory().state.service.settings
    assert (settings.model, settings.task, settings.max_inputs) == ("a/b", "fill-mask", 7)


def test_without_options_the_command_takes_the_model_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_MODEL", "of/the-environment")
    factory, options = uvicorn_run(monkeypatch)
    assert (options["host"], options["port"]) == ("127.0.0.1", 8000)
    assert factory().state.service.settings.model == "of/the-environment"


def test_help_lists_every_setting_and_reads_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIPELINE_THREADS", "wrong")
    with pytest.raises(SystemExit) as stop:
        server.main(["--help"])
    assert stop.value.code == 0
    assert settings_help() in capsys.readouterr().out


def test_a_wrong_setting_stops_the_command_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_THREADS", "wrong")
    with pytest.raises(SystemExit, match=r"^pipeline-webserver: PIPELINE_THREADS: Input should be a valid integer"):
        server.main(["--port", "0"])


def test_a_checked_start_prints_what_info_would_say_and_exits_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    runner, settings = FakeRunner(), Settings(max_inputs=3)
    assert asyncio.run(server.check(settings, runner)) == 0
    printed = json.loads(capsys.readouterr().out)
    with TestClient(create_app(settings, FakeRunner())) as client:
        assert printed == client.get("/info").json()
    assert runner.closed


def test_a_checked_start_that_fails_prints_the_line_and_exits_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIPELINE_MODEL", "./not-there")
    with pytest.raises(SystemExit) as stop:
        server.main(["--check"])
    assert stop.value.code == 1
    assert capsys.readouterr() == (
        "",
        "pipeline-webserver: the folder 'not-there' does not exist; check PIPELINE_MODEL\n",
    )


def test_the_app_is_created_once_when_it_is_first_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(vars(server), "app", raising=False)
    monkeypatch.setenv("PIPELINE_MAX_INPUTS", "7")
    app = server.app
    assert app.state.service.settings.max_inputs == 7
    assert server.app is app


def test_the_module_has_no_other_attribute_that_is_made_up() -> None:
    with pytest.raises(AttributeError, match="module 'server' has no attribute 'ap'"):
        _ = server.ap  # type: ignore[attr-defined]
