"""A server for every task in one process, each under the path of its name: a start takes seconds, most of them imports.

`EVERY_TASK` is a folder with a model for each name that is served.
"""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from config import Settings
from pipeline_webserver.api.tasks import TASKS
from server import create_app

FOLDERS = sorted(Path(os.environ["EVERY_TASK"]).iterdir())


def served(folder: Path) -> Starlette:
    task = folder.name if folder.name in TASKS else None
    return create_app(Settings(model=str(folder), task=task, accelerate=False, threads=1, max_new_tokens=20))


APPS = {folder.name: served(folder) for folder in FOLDERS}


@asynccontextmanager
async def lifespan(outer: Starlette) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for inner in APPS.values():
            await stack.enter_async_context(inner.router.lifespan_context(inner))
        yield


outer = Starlette(lifespan=lifespan)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await outer(scope, receive, send)
        return
    _, name, *rest = scope["path"].split("/", 2)
    path = "/" + (rest[0] if rest else "")
    await APPS[name]({**scope, "path": path, "raw_path": path.encode()}, receive, send)
