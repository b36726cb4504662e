"""What every message has in common: the request's id, its count, and a failed start told in one line.

Pure ASGI. It must never know the routes, the queue or the model.
"""

import re
import uuid
from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import metrics

SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


def count(request: Request, status: int) -> None:
    """Count an answer. A path that is not a route has no series of its own: anyone could make thousands."""
    route = "unknown" if status in {404, 405} else request.url.path
    metrics.REQUESTS.labels(route, status, request.state.error_type).inc()


class Envelope:
    """Around the whole app. `startup_error` gives the line that replaces the traceback of a failed start, if any."""

    def __init__(self, app: ASGIApp, startup_error: Callable[[], str | None]) -> None:
        self.app = app
        self.startup_error = startup_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, self._one_line(send))
        elif scope["type"] == "http":
            await self.app(scope, receive, self._identified(Request(scope), send))
        else:
            await self.app(scope, receive, send)

    def _one_line(self, send: Send) -> Send:
        async def send_one_line(message: Message) -> None:
            line = self.startup_error()
            if message["type"] == "lifespan.startup.failed" and line:
                message = {**message, "message": line}
            await send(message)

        return send_one_line

    def _identified(self, request: Request, send: Send) -> Send:
        theirs = request.headers.get("x-request-id", "")
        request.state.request_id = theirs if SANE_REQUEST_ID.fullmatch(theirs) else uuid.uuid4().hex
        request.state.error_type = ""

        async def send_identified(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-ID"] = request.state.request_id
                count(request, message["status"])
            await send(message)

        return send_identified
