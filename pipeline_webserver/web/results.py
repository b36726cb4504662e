"""From the entries of a request to its outputs, its error, its deadline or its client's disconnect, which comes first.

It must never know routes, statuses, or what the outputs are.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from pipeline_webserver.errors import DeadlineExceeded, PipelineServerError, Refused
from pipeline_webserver.scheduling.entry import TOO_LATE, Entry, Result
from pipeline_webserver.web.timing import Timing, timing_of


@dataclass(frozen=True, slots=True)
class Results:
    """The outputs of a request, in the order of its inputs, and where the time went."""

    outputs: list[Any]
    timing: Timing


async def results_of(entries: Sequence[Entry], request: Request) -> Results:
    """Wait for all results, or for the first error; the timing is stored in `request.state.timing` for the log.

    Raises that error, which names its input where there are several, `DeadlineExceeded` or `ClientDisconnect`.
    """
    try:
        async with _until_deadline_or_disconnect(entries[0].deadline, request.receive):
            results, error = await _until_first_error(entries)
    finally:
        for entry in entries:
            entry.cancelled = True
    timing = request.state.timing = timing_of(entries[0].submitted_at, results)
    if error is not None:
        raise error
    return Results([result.output for result in results], timing)


async def _until_first_error(entries: Sequence[Entry]) -> tuple[list[Result], PipelineServerError | None]:
    """Results in order, up to the first error, for which the others need not be waited for."""
    results: list[Result] = []
    for index, entry in enumerate(entries):
        result = await entry.response_queue.get()
        results.append(result)
        if result.error is not None:
            return results, result.error if len(entries) == 1 else _numbered(result.error, index)
    return results, None


def _numbered(error: PipelineServerError, index: int) -> PipelineServerError:
    """The error of one of several inputs; one of the server as a whole stays as it is."""
    if isinstance(error, Refused):
        return error
    numbered = type(error)(f"inputs[{index}]: {error}")
    numbered.__cause__ = error.__cause__
    return numbered


@asynccontextmanager
async def _until_deadline_or_disconnect(deadline: float, receive: Receive) -> AsyncIterator[None]:
    """Raises `DeadlineExceeded` at this time of `loop.time()`, and `ClientDisconnect` as soon as the client is gone."""

    async def watch() -> None:
        await client_disconnected(receive)
        if not timeout.expired():
            timeout.reschedule(loop.time())

    loop = asyncio.get_running_loop()
    timeout = asyncio.timeout_at(deadline)
    watcher = loop.create_task(watch())
    try:
        async with timeout:
            yield
    except TimeoutError:
        if watcher.done():
            watcher.result()  # raises what went wrong in the server underneath, if something did
            raise ClientDisconnect from None
        raise DeadlineExceeded(TOO_LATE) from None
    finally:
        watcher.cancel()


async def client_disconnected(receive: Receive) -> None:
    """Return when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
