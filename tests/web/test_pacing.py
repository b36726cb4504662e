"""A client that retries at once is held before its next refusal; all others never are."""

import asyncio

import pytest
from starlette.applications import Starlette
from starlette.datastructures import Address

from pipeline_webserver.scheduling.latency_model import LatencyModel
from pipeline_webserver.telemetry import metrics
from pipeline_webserver.web import pacing
from pipeline_webserver.web.pacing import RetryPacer
from tests.support.asgi import play, post, release
from tests.support.clock import run
from tests.support.fakes import FakeRunner

CLIENT, OTHER = Address("10.0.0.1", 4000), Address("10.0.0.1", 4001)


def held() -> float:
    return float(metrics.HELD._value.get())


async def seconds_of(pacer: RetryPacer, client: Address | None, hold_s: float = 0.5) -> float:
    loop = asyncio.get_running_loop()
    started = loop.time()
    await pacer.hold(client, hold_s)
    return loop.time() - started


def test_only_a_client_that_was_refused_and_did_not_wait_is_held_for_a_second_at_most() -> None:
    async def main() -> None:
        pacer, before = RetryPacer(), held()
        assert await seconds_of(pacer, CLIENT) == 0
        pacer.remember(CLIENT, retry_after_s=10)
        assert await seconds_of(pacer, OTHER) == 0
        assert await seconds_of(pacer, CLIENT) == 0.5
        assert await seconds_of(pacer, CLIENT, hold_s=60) == 1
        assert held() == before + 2
        await asyncio.sleep(10)
        assert await seconds_of(pacer, CLIENT) == 0

    run(main())


@pytest.mark.parametrize("client", [None, Address("10.0.0.1", 0)])
def test_connections_that_cannot_be_told_apart_are_not_held(client: Address | None) -> None:
    async def main() -> None:
        pacer = RetryPacer()
        pacer.remember(client, retry_after_s=10)
        assert await seconds_of(pacer, client) == 0

    run(main())


def test_the_number_of_requests_that_are_held_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        pacer = RetryPacer()
        for client in (CLIENT, OTHER):
            pacer.remember(client, retry_after_s=10)
        first = asyncio.create_task(seconds_of(pacer, CLIENT))
        await asyncio.sleep(0.1)
        assert await seconds_of(pacer, OTHER) == 0
        assert await first == 0.5
        assert await seconds_of(pacer, OTHER) == 0.5

    monkeypatch.setattr(pacing, "MAX_HELD", 1)
    run(main())


def test_the_number_of_connections_that_are_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        pacer = RetryPacer()
        for client in (CLIENT, OTHER):
            pacer.remember(client, retry_after_s=10)
        assert [await seconds_of(pacer, client) for client in (CLIENT, OTHER)] == [0, 0.5]

    monkeypatch.setattr(pacing, "MAX_REMEMBERED", 1)
    run(main())


def test_a_held_request_is_no_longer_held_once_its_client_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        pacer = RetryPacer()
        pacer.remember(CLIENT, retry_after_s=10)
        task = asyncio.create_task(pacer.hold(CLIENT, 1))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await seconds_of(pacer, CLIENT) == 0.5

    monkeypatch.setattr(pacing, "MAX_HELD", 1)
    run(main())


def test_a_full_server_refuses_from_the_head_and_a_retry_at_once_is_admitted_once_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def steps(app: Starlette, runner: FakeRunner) -> None:
        loop = asyncio.get_running_loop()
        running = asyncio.create_task(post(app, b"running"))
        await asyncio.sleep(0.1)
        started = loop.time()
        refused = await post(app, [b"never whole"], stall=True)
        assert (refused.status, loop.time()) == (503, started)
        loop.call_later(0.4, release, runner)
        retried = await post(app, b"retried")
        assert (retried.status, retried.json(), loop.time()) == (200, "RETRIED", started + 0.6)
        assert (await running).status == 200

    monkeypatch.setattr(LatencyModel, "estimate_s", lambda model, count: 0.6 if count else 0.0)
    play(steps, held=True, max_requests=1, max_inputs=1, batch_wait_ms=0)


def test_a_retry_that_is_refused_again_counts_once_and_keeps_its_deadline() -> None:
    async def steps(app: Starlette, runner: FakeRunner) -> None:
        loop = asyncio.get_running_loop()
        first = asyncio.create_task(post(app, b"a"))
        await asyncio.sleep(0.5)
        rejected = metrics.REJECTED.labels("queue_full")
        before, started = rejected._value.get(), loop.time()
        for _ in range(3):
            assert (await post(app, b"b", {"X-Request-Timeout": "0.5"})).json()["error_type"] == "overloaded"
        assert rejected._value.get() == before + 3
        assert loop.time() <= started + 2 * 0.05  # a tenth of its time-out each
        release(runner)
        assert (await first).status == 200

    play(steps, held=True, max_requests=1, max_inputs=1)
