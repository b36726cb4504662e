"""The pages for browsers: files of `static/`, and headers by which they load and run nothing but themselves.

They talk to the public API only, and hold no secret, so they need no API key. It must never know the model.
"""

from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

FOLDER = Path(__file__).parent / "static"
POLICY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
        "media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
}


class Strict:
    """The same app, its answers with the policy."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_strictly(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(POLICY)
            await send(message)

        await self.app(scope, receive, send_strictly)


def wants_page(request: Request) -> bool:
    """Whether it is a browser that asks: programs and curl do not say that they want HTML."""
    return "text/html" in request.headers.get("accept", "")


def page(name: str) -> Response:
    return FileResponse(FOLDER / name, headers=POLICY)


async def docs(request: Request) -> Response:
    """The page that makes `/openapi.json` readable."""
    return page("docs.html")


ROUTES: list[BaseRoute] = [Route("/docs", docs), Mount("/static", Strict(StaticFiles(directory=FOLDER)))]
