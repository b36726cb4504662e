"""Around the whole app, what all requests have in common: an id, headers, a line in the log, a count, a trace.

And a failed start in one line. It must never know the routes, the queue or the model.
"""

import asyncio
import logging
import re
import time
import urllib.parse
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline_webserver.telemetry import metrics, traces
from pipeline_webserver.telemetry.logs import ACCESS

logger = logging.getLogger(ACCESS)

SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
# Nobody is to guess a type, nor to keep an answer that was somebody's, unless a route says otherwise.
HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
# Asked every few seconds by machines: in the log only when they have something to tell.
PROBES = {"/health", "/ready", "/metrics"}


@dataclass(frozen=True, slots=True)
class Timing:
    """Where a request's time went in the house, in seconds, and the size of the batch it rode in.

    `queued_at` is in seconds of `time.perf_counter()`.
    """

    queued_at: float
    queue_s: float
    model_s: float
    batch_size: int


class Envelope:
    """`paths` are those counted by name. `startup_error` gives the line that replaces the traceback of a failed start.

    A route may set `error_type` and `timing` of the request's state.
    """

    def __init__(self, app: ASGIApp, paths: Collection[str], startup_error: Callable[[], str | None]) -> None:
        self.app = app
        self.paths = paths
        self.startup_error = startup_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, self._one_line(send))
        elif scope["type"] == "http":
            await self._enveloped(Request(scope), receive, send)
        else:
            await self.app(scope, receive, send)

    def _one_line(self, send: Send) -> Send:
        async def send_one_line(message: Message) -> None:
            line = self.startup_error()
            if message["type"] == "lifespan.startup.failed" and line:
                message = {**message, "message": line}
            await send(message)

        return send_one_line

    async def _enveloped(self, request: Request, receive: Receive, send: Send) -> None:
        theirs = request.headers.get("x-request-id", "")
        request.state.request_id = theirs if SANE_REQUEST_ID.fullmatch(theirs) else uuid.uuid4().hex
        request.state.error_type = ""
        request.state.timing = None
        status = 500  # what is made of an error that nobody foresaw, outside of here
        begun = False
        started = time.perf_counter()

        async def send_enveloped(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request.state.request_id
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self.app(request.scope, receive, send_enveloped)
        except asyncio.CancelledError:
            # How some servers say that the client is gone; uvicorn says so by `http.disconnect`.
            if not begun:
                status, request.state.error_type = 499, "hung_up"
            raise
        except Exception:
            request.state.error_type = "internal"
            raise
        finally:
            self._tell(request, status, started)

    def _tell(self, request: Request, status: int, started: float) -> None:
        ended = time.perf_counter()
        path, error_type, timing = request.scope["path"], request.state.error_type, request.state.timing
        # A path that is not a route has no series of its own, or anyone could make thousands.
        route = path if path in self.paths else "unknown"
        metrics.REQUESTS.labels(route, status, error_type).inc()
        metrics.REQUEST_SECONDS.labels(route).observe(ended - started)
        fields = {
            # Quoted: what a client chose could be lines or fields of the log. Queries may hold secrets.
            "client": urllib.parse.quote(":".join(map(str, request.client or ())), safe=":[]"),
            "method": request.method,
            "path": urllib.parse.quote(path),
            "status": status,
            "error_type": error_type,
            "request_id": request.state.request_id,
            "total_ms": round(1000 * (ended - started), 2),
            **({} if timing is None else milliseconds(timing)),
        }
        level = logging.DEBUG if route in PROBES and status == 200 else logging.INFO
        if logger.isEnabledFor(level):
            logger.log(
                level, "%s", " ".join(f"{k}={v}" for k, v in fields.items() if v != ""), extra={"fields": fields}
            )
        attributes = {
            "http.request.method": request.method,
            "http.route": route,
            "http.response.status_code": status,
            "pipeline.request_id": request.state.request_id,
            **({"error.type": error_type} if error_type else {}),
        }
        spans = {} if timing is None else parts(timing)
        name = f"{request.method} {route}"
        traces.record(request.headers, name, attributes, (started, ended), spans, failed=status >= 500)


def milliseconds(timing: Timing) -> dict[str, float]:
    """For people and for the log."""
    return {
        "queue_ms": round(1000 * timing.queue_s, 2),
        "model_ms": round(1000 * timing.model_s, 2),
        "batch_size": timing.batch_size,
    }


def parts(timing: Timing) -> dict[str, tuple[float, float]]:
    """When each part began and ended, in seconds of `time.perf_counter()`."""
    begun = timing.queued_at + timing.queue_s
    return {"queue": (timing.queued_at, begun), "model": (begun, begun + timing.model_s)}
