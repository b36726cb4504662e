"""A stand-in for the Hugging Face Hub on 127.0.0.1: just what loading a public model asks of it."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.support.process import serving_in_thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def hub_app(models: dict[str, Path], asked: list[str]) -> Starlette:
    """A hub with these models, by id; every path that is asked for is noted."""

    def not_found(code: str) -> Response:
        return JSONResponse({"error": code}, 404, {"X-Error-Code": code})

    async def resolve(request: Request) -> Response:
        asked.append(request.url.path)
        folder = models.get(request.path_params["model"])
        if folder is None:
            return not_found("RepoNotFound")
        path = folder / request.path_params["file"]
        if not path.is_file():
            return not_found("EntryNotFound")
        content = path.read_bytes()
        etag = hashlib.sha256(content).hexdigest()
        return Response(content, headers={"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    async def info(request: Request) -> Response:
        asked.append(request.url.path)
        folder = models.get(request.path_params["model"])
        if folder is None:
            return not_found("RepoNotFound")
        files = sorted(folder.iterdir())
        if "/tree/" in request.url.path:
            return JSONResponse(
                [{"type": "file", "path": file.name, "size": file.stat().st_size, "oid": COMMIT} for file in files]
            )
        siblings = [{"rfilename": file.name} for file in files]
        return JSONResponse({"id": request.path_params["model"], "sha": COMMIT, "siblings": siblings, "tags": []})

    return Starlette(
        routes=[
            Route("/{model:path}/resolve/{revision}/{file:path}", resolve),
            Route("/api/models/{model:path}/revision/{revision}", info),
            Route("/api/models/{model:path}/tree/{revision}{rest:path}", info),
            Route("/api/models/{model:path}", info),
        ]
    )


@contextmanager
def running_hub(models: dict[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """Its address, and the paths it is asked for, while it runs."""
    asked: list[str] = []
    with serving_in_thread(hub_app(models, asked)) as url:
        yield url, asked
