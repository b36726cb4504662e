"""The ASGI app: routes, lifespan, the race of answer and hang-up, the table from errors to statuses.

It must never know torch or transformers: what runs the model is behind `ServedRunner`.
"""

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol

import prometheus_client
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive

import config
import errors
import loading
import logs
import pipeline_thread
import protocol
from asgi import Envelope, hang_up, leave_at_once, on_termination, read_body
from batching import TOO_LATE, Answer, Batcher, Policy, Runner
from batching import Request as Entry
from config import VERSION, Settings

logger = logging.getLogger(__name__)

STATUS: dict[type[errors.PipelineServerError], tuple[int, str]] = {
    errors.Malformed: (400, "malformed"),
    errors.Unauthorized: (401, "unauthorized"),
    errors.TooLarge: (413, "too_large"),
    errors.UnsupportedMediaType: (415, "unsupported_media_type"),
    errors.Rejected: (422, "rejected"),
    errors.InferenceFailed: (500, "inference_failed"),
    errors.Overloaded: (503, "overloaded"),
    errors.Draining: (503, "draining"),
    errors.Unavailable: (503, "unavailable"),
    errors.DeadlineExceeded: (504, "deadline_exceeded"),
}
# The settings that `/info` tells: what a client can run into.
LIMITS = (
    "max_batch_size",
    "batch_wait_ms",
    "max_requests",
    "max_inputs",
    "max_body_bytes",
    "request_timeout_s",
    "truncate",
)


class Json(Response):
    media_type = "application/json"


class ServedRunner(Runner, Protocol):
    """What the app needs of the pipeline's thread."""

    @property
    def task(self) -> str: ...
    @property
    def max_batch_tokens(self) -> int: ...
    async def start(self) -> None: ...
    def describe(self) -> dict[str, object]: ...
    def close(self) -> bool: ...


def pipeline_runner(s: Settings) -> ServedRunner:
    """The pipeline that the settings name, not loaded yet."""
    load = partial(loading.load, s.model, s.task, s.revision, s.device, s.dtype, tuple(protocol.TASKS))
    threads = s.threads or config.usable_cores()
    return pipeline_thread.PipelineThread(
        load, threads=threads, truncate=s.truncate, max_batch_tokens=s.max_batch_tokens, speed_up=s.accelerate
    )


# Waiting and answering


async def answers_of(entries: list[Entry], receive: Receive) -> list[Answer]:
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


def server_timing(answers: list[Answer], total_s: float) -> str:
    """The `Server-Timing` header, in milliseconds: of several inputs, the slowest and the largest batch."""
    queue_s, model_s = max(answer.queue_s for answer in answers), max(answer.model_s for answer in answers)
    times = {"queue": queue_s, "model": model_s, "total": total_s}
    durations = ", ".join(f"{name};dur={1000 * seconds:.2f}" for name, seconds in times.items())
    return f'{durations}, batch;desc="{max(answer.batch_size for answer in answers)}"'


def error_of(answers: list[Answer], inputs: int) -> errors.PipelineServerError | None:
    """The error that ends the answers, if one does; it says which input it is when there are several."""
    error = answers[-1].error
    if error is None or inputs == 1 or isinstance(error, errors.Refused):
        return error
    numbered = type(error)(f"inputs[{len(answers) - 1}]: {error}")
    numbered.__cause__ = error.__cause__
    return numbered


# The app


class Service:
    """The routes, and what they share."""

    def __init__(self, settings: Settings, runner: ServedRunner) -> None:
        self.settings = settings
        self.runner = runner
        self.batcher: Batcher
        self.task: protocol.Task
        self.startup_error: str | None = None
        self._serving = False
        self._drain: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        with on_termination(self.begin_drain, self.settings.drain_timeout_s) as on_uvicorn:
            try:
                await self.runner.start()
                self._start_batching()
                yield
                self.begin_drain()
                if self._drain is not None:
                    await self._drain
            except errors.ConfigurationError as error:
                self.startup_error = str(error)
                raise
            finally:
                if not self.runner.close() and on_uvicorn:
                    leave_at_once()

    def _start_batching(self) -> None:
        s = self.settings
        self.task = protocol.TASKS[self.runner.task]
        policy = Policy(s.max_batch_size, self.runner.max_batch_tokens, s.batch_wait_ms / 1000)
        self.batcher = Batcher(self.runner, policy, s.max_requests, s.request_timeout_s)
        self.batcher.start()
        self._serving = True
        told = (self.runner.describe()[key] for key in ("task", "model", "device", "threads"))
        logger.info("Serving %s with %s on %s, threads: %d", *told)

    def begin_drain(self) -> None:
        """Let nobody in and answer who is in, for the time that the settings allow. While loading, nobody is in."""
        if self._drain is None and self._serving:
            drain = self.batcher.drain(self.settings.drain_timeout_s)
            self._drain = asyncio.get_running_loop().create_task(drain, name="drain")

    # Routes

    async def infer(self, request: Request) -> Response:
        """Run the pipeline on the body."""
        arrived = time.perf_counter()
        deadline = asyncio.get_running_loop().time() + self.settings.request_timeout_s
        body = await read_body(request, self.settings.max_body_bytes, deadline)
        work = protocol.parse(body, request.headers.get("content-type", ""), self.task, self.settings.max_inputs)
        entries = self.batcher.submit(work.inputs, work.parameters, deadline)
        answers = await answers_of(entries, request.receive)
        if error := error_of(answers, len(entries)):
            raise error
        content = protocol.render(work, [answer.output for answer in answers], self.task)
        total_s = time.perf_counter() - arrived
        return Json(content, headers={"Server-Timing": server_timing(answers, total_s)})

    async def health(self, request: Request) -> Response:
        """200 while the process can serve."""
        if trouble := self.batcher.trouble:
            raise errors.Unavailable(trouble)
        return Json(b'{"status":"ok"}')

    async def ready(self, request: Request) -> Response:
        """200 while new requests are taken."""
        if self.batcher.draining:
            raise errors.Draining("The server is shutting down.")
        return await self.health(request)

    async def info(self, request: Request) -> Response:
        """The model and the limits."""
        s = self.settings
        described = self.runner.describe()
        limits = {name: getattr(s, name) for name in LIMITS} | {"max_batch_tokens": self.runner.max_batch_tokens}
        return Json(protocol.to_json({**described, "limits": limits, "version": VERSION}))

    async def metrics(self, request: Request) -> Response:
        """Prometheus text."""
        return Response(prometheus_client.generate_latest(), media_type=prometheus_client.CONTENT_TYPE_LATEST)

    # Around the routes

    def guarded(self, endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """The same endpoint, for clients with the API key, if there is one."""
        if self.settings.api_key is None:
            return endpoint
        wanted = self.settings.api_key.get_secret_value().encode()

        async def with_key(request: Request) -> Response:
            scheme, _, key = request.headers.get("authorization", "").partition(" ")
            if not (hmac.compare_digest(key.encode("latin-1"), wanted) and scheme.lower() == "bearer"):
                raise errors.Unauthorized("The API key is missing or wrong; send it as 'Authorization: Bearer KEY'.")
            return await endpoint(request)

        return with_key

    async def on_error(self, request: Request, error: Exception) -> Response:
        """Our errors, as the table says."""
        assert isinstance(error, errors.PipelineServerError)
        status, error_type = STATUS[type(error)]
        message, headers = str(error), {}
        if isinstance(error, errors.InferenceFailed):
            logger.error(
                "The model failed on request %s",
                request.state.request_id,
                exc_info=error.__cause__,
                extra={"request_id": request.state.request_id},
            )
            if self.settings.show_errors:
                message += f" {type(error.__cause__).__name__}: {error.__cause__}"
        if isinstance(error, errors.Refused):
            headers["Retry-After"] = str(error.retry_after_s)
        if isinstance(error, errors.Unauthorized):
            headers["WWW-Authenticate"] = "Bearer"
        return self._error(request, status, error_type, message, headers)

    async def on_http_error(self, request: Request, error: Exception) -> Response:
        """A path or method that is not there."""
        assert isinstance(error, HTTPException)
        error_type = error.detail.lower().replace(" ", "_")
        message = f"{error.detail}: {request.method} {request.scope['path']}. Send your text with POST to /."
        return self._error(request, error.status_code, error_type, message, dict(error.headers or {}))

    async def on_bug(self, request: Request, error: Exception) -> Response:
        """An error of ours that nobody foresaw; the traceback goes to the log."""
        headers = {"X-Request-ID": request.state.request_id}  # this answer is made outside the envelope
        return self._error(request, 500, "internal", "The server made an error; its log has the details.", headers)

    async def on_hang_up(self, request: Request, error: Exception) -> Response:
        """Nobody reads this answer; its status is for the metrics."""
        return self._error(request, 499, "hung_up", "The client hung up.", {})

    def _error(self, request: Request, status: int, error_type: str, message: str, headers: dict[str, str]) -> Response:
        request.state.error_type = error_type
        return Json(protocol.to_json({"error": message, "error_type": error_type}), status, headers)


def create_app(settings: Settings | None = None, runner: ServedRunner | None = None) -> Starlette:
    """The app. Settings come from the environment unless given; nothing is loaded before the lifespan starts."""
    settings = settings or config.from_environment()
    logs.configure(settings.log_format)
    service = Service(settings, runner or pipeline_runner(settings))
    routes = [
        Route("/", service.guarded(service.infer), methods=["POST"]),
        Route("/health", service.health),
        Route("/ready", service.ready),
        Route("/info", service.guarded(service.info)),
        Route("/metrics", service.guarded(service.metrics)),
    ]
    paths = {route.path for route in routes}
    middleware = [Middleware(Envelope, paths=paths, startup_error=lambda: service.startup_error)]
    if settings.cors_origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["Authorization", "Content-Type", "X-Request-ID"],
                expose_headers=["X-Request-ID", "Server-Timing", "Retry-After"],
            )
        )
    app = Starlette(
        routes=routes,
        middleware=middleware,
        lifespan=service.lifespan,
        exception_handlers={
            errors.PipelineServerError: service.on_error,
            HTTPException: service.on_http_error,
            ClientDisconnect: service.on_hang_up,
            Exception: service.on_bug,
        },
    )
    app.router.redirect_slashes = False
    return app


app = create_app()
