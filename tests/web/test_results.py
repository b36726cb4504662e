"""A request ends with its outputs, its first error, its deadline or its client's disconnect, which comes first."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from pipeline_webserver.errors import DeadlineExceeded, InferenceFailed, Overloaded, PipelineServerError, Rejected
from pipeline_webserver.scheduling.entry import Entry, Result
from pipeline_webserver.web.results import Results, results_of
from pipeline_webserver.web.timing import Timing
from tests.support.asgi import JSON, completed, play, post, release
from tests.support.clock import run
from tests.support.fakes import FakeRunner, failure

DEADLINE = 5.0


def make_entries(count: int) -> list[Entry]:
    return [Entry(f"input {index}", {}, 0, index, 0.0, DEADLINE, 7.0) for index in range(count)]


def request(receive: Callable[[], Awaitable[Message]] | None = None) -> Request:
    async def stay() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    return Request({"type": "http", "headers": []}, receive or stay)


async def complete(entries: list[Entry], results: list[Result]) -> Results:
    for entry, result in zip(entries, results, strict=False):
        entry.response_queue.put_nowait(result)
    return await results_of(entries, request())


def error_of(results: list[Result], inputs: int) -> PipelineServerError:
    """The error that ends a request with so many inputs, of which only these results arrive."""

    async def main() -> PipelineServerError:
        with pytest.raises(PipelineServerError) as caught:
            await complete(make_entries(inputs), results)
        assert asyncio.get_running_loop().time() < DEADLINE or isinstance(caught.value, DeadlineExceeded)
        return caught.value

    return run(main())


def test_outputs_come_in_the_order_of_the_inputs_with_the_times_of_the_slowest_and_the_largest_batch() -> None:
    async def main() -> None:
        entries = make_entries(3)
        results = [Result("a", None, 1, 2, 4), Result("b", None, 3, 1, 8), Result("c", None, 0, 1, 2)]
        assert await complete(entries, results) == Results(["a", "b", "c"], Timing(7.0, 3, 1, 8))
        assert all(entry.cancelled for entry in entries)

    run(main())


def test_the_first_error_ends_the_request_without_waiting_for_other_inputs_and_names_its_input() -> None:
    assert str(error_of([Result("a"), Result(error=Rejected("no"))], 3)) == "inputs[1]: no"
    numbered = error_of([Result(error=failure())], 2)
    assert (type(numbered), str(numbered)) == (InferenceFailed, "inputs[0]: It failed.")
    assert isinstance(numbered.__cause__, RuntimeError)


def test_an_error_of_the_only_input_or_of_the_server_names_none() -> None:
    alone, refused = Rejected("no"), Overloaded("The server is full.", 7)
    assert error_of([Result(error=alone)], 1) is alone
    assert error_of([Result(error=refused)], 2) is refused


def test_at_the_deadline_it_is_exceeded_and_every_entry_is_cancelled() -> None:
    async def main() -> None:
        entries = make_entries(2)
        with pytest.raises(DeadlineExceeded, match="There was no answer in time"):
            await complete(entries, [Result("a")])
        assert asyncio.get_running_loop().time() == DEADLINE
        assert all(entry.cancelled for entry in entries)

    run(main())


def test_a_fault_of_the_server_underneath_is_raised_instead_of_the_deadline_that_it_leads_to() -> None:
    async def fail() -> Message:
        raise ZeroDivisionError

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await results_of(make_entries(1), request(fail))

    run(main())


def test_a_disconnect_ends_the_request_at_once_and_cancels_every_entry() -> None:
    async def disconnect() -> Message:
        await asyncio.sleep(2)
        return {"type": "http.disconnect"}

    async def main() -> None:
        entries = make_entries(2)
        with pytest.raises(ClientDisconnect):
            await results_of(entries, request(disconnect))
        assert asyncio.get_running_loop().time() == 2
        assert all(entry.cancelled for entry in entries)

    run(main())


# Through the app


def test_a_list_is_answered_at_its_first_error_without_waiting_for_the_model() -> None:
    async def steps(app: Starlette, runner: FakeRunner) -> None:
        reply = await post(app, b'{"inputs": ["bad", "a", "b"]}', JSON)
        assert (reply.status, reply.json()["error"]) == (422, "inputs[0]: bad is rejected")
        release(runner)

    play(steps, held=True)


def test_the_inputs_of_a_client_that_disconnects_are_dropped_and_counted() -> None:
    async def steps(app: Starlette, runner: FakeRunner) -> None:
        before = completed("cancelled")
        first = asyncio.create_task(post(app, b"first"))
        await asyncio.sleep(0.5)
        disconnect = asyncio.Event()
        gone = asyncio.create_task(post(app, b'{"inputs": ["gone", "too"]}', JSON, disconnect=disconnect))
        await asyncio.sleep(0.5)
        disconnect.set()
        assert (await gone).status == 499  # for the log; the client does not get it
        release(runner)
        assert (await first).json() == "FIRST"
        assert (await post(app, b"next")).json() == "NEXT"
        assert [texts for _, texts in runner.batches] == [["first"], ["next"]]
        assert completed("cancelled") == before + 2

    play(steps, held=True)


def test_a_client_that_disconnects_in_the_same_turn_of_the_loop_as_its_deadline_has_disconnected() -> None:
    async def steps(app: Starlette, runner: FakeRunner) -> None:
        disconnect = asyncio.Event()
        asyncio.get_running_loop().call_later(30 - 1e-10, disconnect.set)
        assert (await post(app, b"first", disconnect=disconnect)).status == 499
        release(runner)
        assert (await post(app, b"next")).json() == "NEXT"

    play(steps, held=True)


def test_a_client_that_disconnects_while_it_sends_leaves_nothing_behind() -> None:
    async def steps(app: Starlette, runner: FakeRunner) -> None:
        gone = asyncio.Event()
        gone.set()
        assert (await post(app, [], disconnect=gone)).status == 499

    assert play(steps).batches == []
