"""The naive servers, which this server is compared with: what the guide of `transformers` leads to, and no more.

Owns two ASGI apps, `unbatched` and `batched`, whose pipeline is named by `BENCHMARK_MODEL` and `BENCHMARK_TASK`. Both
run the pipeline on the event loop; since a queue that is not empty is read without a pause, responses leave only when
all arrivals are done. It must never know anything of this server, and must not be improved.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from benchmarks import weights

GATHER_S = 0.001

Waiting = tuple[str, asyncio.Queue[object]]
Loop = Callable[[Any, asyncio.Queue[Waiting]], Coroutine[Any, Any, None]]


async def one_by_one(pipe: Any, arrivals: asyncio.Queue[Waiting]) -> None:
    """One request after the other."""
    while True:
        text, response = await arrivals.get()
        response.put_nowait(pipe(text))


async def in_batches(pipe: Any, arrivals: asyncio.Queue[Waiting]) -> None:
    """All that have gathered, in one batch, padded to the longest."""
    while True:
        batch = await gather(arrivals)
        texts = [text for text, _ in batch]
        # For some tasks, the result of a list of one is not a list.
        outputs = pipe(texts, batch_size=len(texts)) if len(texts) > 1 else [pipe(texts[0])]
        for (_, response), output in zip(batch, outputs, strict=True):
            response.put_nowait(output)


async def gather(arrivals: asyncio.Queue[Waiting]) -> list[Waiting]:
    """The first, and all that follow without a pause; each arrival restarts the wait, without a bound."""
    batch = [await arrivals.get()]
    with suppress(TimeoutError):
        while True:
            async with asyncio.timeout(GATHER_S):
                batch.append(await arrivals.get())
    return batch


def pipeline() -> Any:
    return weights.load(Path(os.environ["BENCHMARK_MODEL"]), os.environ["BENCHMARK_TASK"])


def create_app(serve: Loop, load: Callable[[], Any] = pipeline) -> Starlette:
    arrivals: asyncio.Queue[Waiting] = asyncio.Queue()

    async def infer(request: Request) -> JSONResponse:
        response: asyncio.Queue[object] = asyncio.Queue()
        await arrivals.put(((await request.body()).decode(), response))
        return JSONResponse(await response.get())

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(serve(load(), arrivals))
        yield
        task.cancel()
        await asyncio.wait({task})

    return Starlette(routes=[Route("/", infer, methods=["POST"])], lifespan=lifespan)


unbatched = create_app(one_by_one)
batched = create_app(in_batches)
