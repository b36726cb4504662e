"""Around the whole app, what all requests have in common: an id and headers; a log line, a count and a trace.

Also a failed start in one line. It must never know the routes, the queue or the model.
"""

import asyncio
import logging
import time
import urllib.parse
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline_webserver.api.error_table import CLIENT_DISCONNECTED, INTERNAL
from pipeline_webserver.telemetry import metrics, traces
from pipeline_webserver.telemetry.logs import ACCESS
from pipeline_webserver.web.headers import HEADERS, REQUEST_ID_HEADER, TIMEOUT_HEADER, request_id
from pipeline_webserver.web.paths import remove_second_prefix, route_path
from pipeline_webserver.web.timing import log_fields, spans

logger = logging.getLogger(ACCESS)

# Requested by machines every few seconds: traced, and in the log from INFO on, only when they fail.
PROBES = {"/health", "/ready", "/metrics"}


def middleware_stack(
    paths: Collection[str], cors_origins: Sequence[str], startup_error: Callable[[], str | None]
) -> list[Middleware]:
    """All middlewares, from the outermost to the innermost."""
    stack = [
        Middleware(RequestContextMiddleware, startup_error=startup_error),
        Middleware(RequestLogMiddleware, paths=paths),
    ]
    if cors_origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", REQUEST_ID_HEADER, TIMEOUT_HEADER],
            expose_headers=[REQUEST_ID_HEADER, "Server-Timing", "Retry-After"],
        )
        stack.append(cors)
    return stack


class RequestContextMiddleware:
    """Gives each request an id, in `request.state.request_id`, and each response that id and the default headers.

    `request.state.prefix` is what the app is served under; the scope's own changes within mounts of the app.
    `startup_error` returns the line that replaces the traceback of a failed start.
    """

    def __init__(self, app: ASGIApp, startup_error: Callable[[], str | None]) -> None:
        self.app = app
        self.startup_error = startup_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            send = self._with_startup_error(send)
        elif scope["type"] == "http":
            request = Request(scope)
            request.state.request_id = request_id(request.headers)
            request.state.prefix = scope.get("root_path", "").rstrip("/")
            send = _with_headers(send, request.state.request_id)
        await self.app(scope, receive, send)

    def _with_startup_error(self, send: Send) -> Send:
        async def send_one_line(message: Message) -> None:
            line = self.startup_error()
            if message["type"] == "lifespan.startup.failed" and line:
                message = {**message, "message": line}
            await send(message)

        return send_one_line


def _with_headers(send: Send, request_id: str) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers[REQUEST_ID_HEADER] = request_id
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return send_with_headers


@dataclass(slots=True)
class Exchange:
    """A request and what became of it; times are in seconds of `time.perf_counter()`.

    `status` is that of a bug until a response starts: Starlette makes the response to a bug outside of the middlewares.
    """

    request: Request
    route: str
    started: float
    ended: float = 0.0
    status: int = INTERNAL.status
    responded: bool = False

    @property
    def error_type(self) -> str:
        error_type: str = self.request.state.error_type
        return error_type

    @property
    def failed(self) -> bool:
        """Whether it is the server's fault."""
        return self.status >= 500

    @property
    def is_quiet(self) -> bool:
        """Whether it is a probe that succeeded."""
        return self.route in PROBES and self.status == 200


class RequestLogMiddleware:
    """A log line, a count and a trace for each request; `paths` are those that the metrics have by name.

    A route may set `error_type` and `timing` of the request's state. Needs `RequestContextMiddleware` around it.
    """

    def __init__(self, app: ASGIApp, paths: Collection[str]) -> None:
        self.app = app
        self.paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        request.state.error_type, request.state.timing = "", None
        remove_second_prefix(scope, self.paths)
        # A path that is not a route has no series of its own, or a client could make thousands.
        path = route_path(scope)
        exchange = Exchange(request, path if path in self.paths else "unknown", time.perf_counter())
        try:
            await self.app(scope, receive, _with_status(send, exchange))
        except asyncio.CancelledError:
            # How some servers report a disconnect; uvicorn reports it by `http.disconnect`.
            if not exchange.responded:
                exchange.status = CLIENT_DISCONNECTED.status
                request.state.error_type = CLIENT_DISCONNECTED.error_type
            raise
        except Exception:
            request.state.error_type = INTERNAL.error_type
            raise
        finally:
            exchange.ended = time.perf_counter()
            _report(exchange)


def _with_status(send: Send, exchange: Exchange) -> Send:
    async def send_with_status(message: Message) -> None:
        if message["type"] == "http.response.start":
            exchange.status, exchange.responded = message["status"], True
            traces.annotate(_attributes(exchange), failed=exchange.failed)
        await send(message)

    return send_with_status


def _report(exchange: Exchange) -> None:
    metrics.REQUESTS.labels(exchange.route, exchange.status, exchange.error_type).inc()
    metrics.REQUEST_SECONDS.labels(exchange.route, exchange.status).observe(exchange.ended - exchange.started)
    level = logging.DEBUG if exchange.is_quiet else logging.INFO
    if logger.isEnabledFor(level):
        fields = _fields(exchange)
        line = " ".join(f"{name}={value}" for name, value in fields.items() if value != "")
        logger.log(level, "%s", line, extra={"fields": fields})
    if not exchange.is_quiet:
        _trace(exchange)


def _client(request: Request) -> str:
    """Address and port; a client of a socket in the file system (`--uds`) has none."""
    if request.client is None:
        return "unix" if (request.scope.get("server") or ("", 0))[1] is None else "unknown"
    return f"{request.client.host}:{request.client.port}"


def _fields(exchange: Exchange) -> dict[str, object]:
    request = exchange.request
    return {
        # Quoted: what a client sends could be lines or fields of the log. Queries may hold secrets.
        "client": urllib.parse.quote(_client(request), safe=":[]"),
        "method": request.method,
        "path": urllib.parse.quote(request.scope["path"]),
        "status": exchange.status,
        "error_type": exchange.error_type,
        "request_id": request.state.request_id,
        "total_ms": round(1000 * (exchange.ended - exchange.started), 2),
        **log_fields(request.state.timing),
    }


def _attributes(exchange: Exchange) -> traces.Attributes:
    request = exchange.request
    return {
        "http.request.method": request.method,
        "http.route": exchange.route,
        "http.response.status_code": exchange.status,
        "pipeline.request_id": request.state.request_id,
        **({"error.type": exchange.error_type} if exchange.error_type else {}),
    }


def _trace(exchange: Exchange) -> None:
    request = exchange.request
    traces.record(
        request.headers,
        f"{request.method} {exchange.route}",
        _attributes(exchange),
        (exchange.started, exchange.ended),
        spans(request.state.timing),
        failed=exchange.failed,
    )
