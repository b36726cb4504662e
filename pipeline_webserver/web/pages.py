"""The web UI and the documentation page: files of `static/`, with headers that let them run nothing but themselves.

They call the public API only, and hold no secret, so they need no API key. It must never know the model.
"""

import os
import re
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

FOLDER = Path(__file__).parent / "static"
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
        "media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    # Browsers store the files, and ask each time whether they have changed: a new version is seen at once.
    "Cache-Control": "no-cache",
}
# By the name alone: the system's own table may call a script a text, and then no browser runs it.
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class PageFiles(StaticFiles):
    """The files of a folder, each with the headers and its right type; an unchanged one is a 304."""

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(PAGE_HEADERS)
        if status_code == response.status_code and (media_type := TYPES.get(Path(full_path).suffix)):
            response.headers["content-type"] = media_type
        return response


FILES = PageFiles(directory=FOLDER)


def wants_page(accept: str) -> bool:
    """Whether an `Accept` header is a browser's: programs and curl do not ask for HTML."""
    for item in accept.lower().split(","):
        media_type, _, options = item.partition(";")
        if media_type.strip() == "text/html":
            return not re.search(r"q\s*=\s*0(\.0*)?\s*$", options)
    return False


async def home(request: Request) -> Response:
    """The web UI. Other clients than browsers get 405, with a hint how the API is used."""
    if not wants_page(request.headers.get("accept", "")):
        raise HTTPException(405, headers={"Allow": "POST", "Vary": "Accept"})
    response = await FILES.get_response("index.html", request.scope)
    response.headers["Vary"] = "Accept"
    return response


async def docs(request: Request) -> Response:
    """The page that makes `/openapi.json` readable."""
    return await FILES.get_response("docs.html", request.scope)


ROUTES: list[BaseRoute] = [Route("/docs", docs), Mount("/static", FILES)]
