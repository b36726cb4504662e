"""From requests in the house to one answer: whoever comes first of the answers, the deadline and the client's leaving.

It must never know routes, statuses, or what the answers hold.
"""

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from pipeline_webserver import errors
from pipeline_webserver.scheduling.admission import TOO_LATE, Answer, Request
from pipeline_webserver.web.middleware import Timing
from pipeline_webserver.web.uvicorn_process import hang_up


async def answers_of(entries: list[Request], receive: Receive) -> list[Answer]:
    """The answers up to the first error, unless the client hangs up or the deadline comes first.

    Raises `ClientDisconnect` or `DeadlineExceeded`.
    """

    async def watch() -> None:
        await hang_up(receive)
        if not patience.expired():
            patience.reschedule(loop.time())  # nobody is there any more to wait

    loop = asyncio.get_running_loop()
    watching = loop.create_task(watch())
    answers: list[Answer] = []
    try:
        async with asyncio.timeout_at(entries[0].deadline) as patience:
            for entry in entries:
                answers.append(await entry.response.get())
                if answers[-1].error is not None:
                    break  # the answer is this error: nobody waits for the others any more
        return answers
    except TimeoutError:
        if watching.done():
            watching.result()  # a fault of the server underneath, if there was one
            raise ClientDisconnect from None
        raise errors.DeadlineExceeded(TOO_LATE) from None
    finally:
        watching.cancel()
        for entry in entries:
            entry.abandoned = True


def timing_of(entries: list[Request], answers: list[Answer]) -> Timing | None:
    """Of several inputs, the slowest and the largest batch; None if the model saw none of them."""
    slowest = max(answers, key=lambda answer: answer.queue_s + answer.model_s)
    largest = max(answer.batch_size for answer in answers)
    return Timing(entries[0].measured_from, slowest.queue_s, slowest.model_s, largest) if largest else None


def server_timing(timing: Timing, total_s: float) -> str:
    """The `Server-Timing` header, in milliseconds."""
    times = {"queue": timing.queue_s, "model": timing.model_s, "total": total_s}
    durations = ", ".join(f"{name};dur={1000 * seconds:.2f}" for name, seconds in times.items())
    return f'{durations}, batch;desc="{timing.batch_size}"'


def error_of(answers: list[Answer], inputs: int) -> errors.PipelineServerError | None:
    """The error that ends the answers, if one does; it says which input it is when there are several."""
    error = answers[-1].error
    if error is None or inputs == 1 or isinstance(error, errors.Refused):
        return error
    numbered = type(error)(f"inputs[{len(answers) - 1}]: {error}")
    numbered.__cause__ = error.__cause__
    return numbered
