"""A client without sockets: it speaks ASGI to the app, on any event loop, and disconnects when a test says so."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.types import Message

from config import Settings
from pipeline_webserver.telemetry import metrics
from server import create_app
from tests.support.clock import run
from tests.support.fakes import FakeRunner

JSON = {"content-type": "application/json"}


@dataclass
class Reply:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    def json(self) -> Any:
        return json.loads(self.body)


@asynccontextmanager
async def serving(runner: FakeRunner, **settings: Any) -> AsyncIterator[Starlette]:
    """The app with a fake runner, between its start and its shutdown."""
    app = create_app(Settings(**settings), runner)
    async with app.router.lifespan_context(app):
        yield app


def play(
    steps: Callable[[Starlette, FakeRunner], Awaitable[None]], *, held: bool = False, **settings: Any
) -> FakeRunner:
    """Play steps on a virtual clock; `held` holds the model until `release`."""

    async def main() -> FakeRunner:
        runner = FakeRunner(gate=asyncio.Event() if held else None)
        async with serving(runner, **settings) as app:
            await steps(app, runner)
        assert runner.closed
        return runner

    return run(main())


def release(runner: FakeRunner) -> None:
    """Let the model of `play` go on, in this batch and in all others."""
    assert runner.gate is not None
    runner.gate.set()


def completed(outcome: str) -> float:
    """How many inputs have this outcome by now."""
    return float(metrics.INPUTS.labels(outcome)._value.get())


async def post(
    app: Starlette,
    body: bytes | list[bytes],
    headers: Mapping[str, str] | None = None,
    *,
    method: str = "POST",
    path: str = "/",
    query: bytes = b"",
    disconnect: asyncio.Event | None = None,
    stall: bool = False,
) -> Reply:
    """One request, its body in one piece or in several, or never whole with `stall`.

    The client disconnects when `disconnect` is set, by default after its response.
    """
    chunks = [body] if isinstance(body, bytes) else list(body)
    reply = Reply()
    done = asyncio.Event()

    async def receive() -> Message:
        if chunks:
            return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks) or stall}
        await (disconnect or done).wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            reply.status = message["status"]
            reply.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            reply.body += message.get("body", b"")
            done.set()

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 1),
    }
    await app(scope, receive, send)
    return reply


async def get(app: Starlette, path: str, headers: Mapping[str, str] | None = None) -> Reply:
    return await post(app, b"", headers, method="GET", path=path)
