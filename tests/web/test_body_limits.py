"""Bodies are read within limits of size, memory and time."""

import asyncio

from starlette.applications import Starlette
from starlette.testclient import TestClient

from pipeline_webserver.web.body_limits import MAX_BUFFERED_BODIES
from pipeline_webserver.web.headers import TIMEOUT_HEADER
from tests.support.asgi import play, post, serving
from tests.support.clock import run
from tests.support.fakes import FakeRunner


def test_a_body_that_declares_too_much_is_rejected_with_both_numbers(client: TestClient) -> None:
    response = client.post("/", content=b"a" * 101)
    assert (response.status_code, response.json()["error"]) == (413, "The body has 101 bytes; the limit is 100.")


def test_a_declared_length_of_any_number_of_digits_is_rejected() -> None:
    async def steps(app: Starlette, runner: FakeRunner) -> None:
        assert (await post(app, b"a", {"Content-Length": "9" * 5000})).status == 413

    play(steps)


def test_a_body_that_grows_over_the_limit_is_rejected_without_a_declared_length() -> None:
    async def steps(app: Starlette, runner: FakeRunner) -> None:
        assert (await post(app, [b"a" * 50, b"a" * 50])).status == 200
        reply = await post(app, [b"a" * 50, b"a" * 51, b"never read"])
        assert (reply.status, reply.json()["error"]) == (413, "The body has at least 101 bytes; the limit is 100.")

    play(steps, max_body_bytes=100)


def test_a_body_that_does_not_arrive_in_time_is_a_408() -> None:
    async def steps(app: Starlette, runner: FakeRunner) -> None:
        reply = await post(app, [b"the beginning"], stall=True)
        assert (reply.status, reply.json()["error"]) == (408, "The body did not arrive in time.")
        assert asyncio.get_running_loop().time() == 5

    play(steps, request_timeout_s=5)


def test_too_many_bytes_in_flight_at_once_are_rejected_until_there_are_fewer() -> None:
    async def steps(app: Starlette, runner: FakeRunner) -> None:
        slow = [asyncio.create_task(post(app, [b"a" * 100], stall=True)) for _ in range(MAX_BUFFERED_BODIES)]
        await asyncio.sleep(1)
        rejected = await post(app, b"a")
        assert (rejected.status, rejected.json()["error_type"]) == (503, "overloaded")
        assert [(await task).status for task in slow] == [408] * MAX_BUFFERED_BODIES
        assert (await post(app, b"a")).status == 200

    play(steps, max_body_bytes=100)


def test_a_body_that_is_still_arriving_when_the_drain_is_over_is_rejected_as_draining() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with serving(FakeRunner(), drain_timeout_s=3) as app:
            sending = asyncio.create_task(post(app, [b"the beginning"], stall=True))
            hurried = asyncio.create_task(post(app, [b"the beginning"], {TIMEOUT_HEADER: "2"}, stall=True))
            await asyncio.sleep(1)
        assert ((await hurried).status, loop.time()) == (503, 2)
        assert ((await sending).status, (await sending).json()["error_type"], loop.time()) == (503, "draining", 4)

    run(main())
