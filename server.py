"""The ASGI app: its routes, its start and its end.

It must never know torch or transformers: what runs the model is behind `ServedRunner`.
"""

import asyncio
import hashlib
import hmac
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Protocol, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

import config
from batching import Batcher, Runner
from config import Settings
from pipeline_webserver import errors
from pipeline_webserver.api import about, inference_api, openai_embeddings
from pipeline_webserver.api.tasks import TASKS, Task
from pipeline_webserver.inference import inference_thread, loading
from pipeline_webserver.inference.preprocessing.base import Limits
from pipeline_webserver.scheduling.batch_policy import Policy
from pipeline_webserver.telemetry import logs
from pipeline_webserver.web import pages
from pipeline_webserver.web.middleware import Envelope
from pipeline_webserver.web.responses import Failures, Json
from pipeline_webserver.web.results import answers_of, error_of, server_timing, timing_of
from pipeline_webserver.web.slow_clients import allow_many_connections, watch_connections
from pipeline_webserver.web.uvicorn_process import Bodies, leave_at_once, on_termination, workers

logger = logging.getLogger(__name__)
AnyWork = TypeVar("AnyWork", bound=inference_api.Work)

# The header by which a client says how many seconds it waits.
PATIENCE = "X-Request-Timeout"


class ServedRunner(Runner, Protocol):
    """What the app needs of the pipeline's thread."""

    @property
    def task(self) -> str: ...
    @property
    def max_batch_tokens(self) -> int: ...
    async def start(self) -> None: ...
    def describe(self) -> dict[str, object]: ...
    def close(self) -> bool: ...


def digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def pipeline_runner(s: Settings) -> ServedRunner:
    """The pipeline that the settings name, not loaded yet."""
    load = partial(loading.load, s.model, s.task, s.revision, s.device, s.dtype, tuple(TASKS))
    limits = Limits(s.truncate, s.max_new_tokens, s.max_image_pixels, s.max_audio_s)
    threads = s.threads or max(1, config.usable_cores() // workers())
    return inference_thread.PipelineThread(
        load, threads=threads, limits=limits, max_batch_tokens=s.max_batch_tokens, speed_up=s.accelerate
    )


def patience_s(request: Request, most_s: float) -> float:
    """The seconds that a request may take: the server's, or fewer if its client says so. Raises `Malformed`."""
    asked = request.headers.get(PATIENCE)
    if asked is None:
        return most_s
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", asked) or float(asked) == 0:
        raise errors.Malformed(f"The header {PATIENCE} is a number of seconds over 0, like 2.5.")
    return min(float(asked), most_s)


class Service:
    """The routes, and what they share."""

    def __init__(self, settings: Settings, runner: ServedRunner) -> None:
        self.settings = settings
        self.runner = runner
        self.bodies: Bodies
        self.task: Task
        self.startup_error: str | None = None
        self._batcher: Batcher | None = None
        self._drain: asyncio.Task[None] | None = None
        self._failed = False

    @property
    def batcher(self) -> Batcher:
        """Raises `Starting`. uvicorn listens only after that; other servers may not."""
        if self._batcher is None:
            raise errors.Starting("The server is starting: the model is not loaded yet.")
        return self._batcher

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        with on_termination(self.begin_drain, self.settings.drain_timeout_s) as uvicorn_server:
            try:
                await self.runner.start()
                self._start_batching(uvicorn_server)
                yield
                self.begin_drain()
                if self._drain is not None:
                    await self._drain
            except errors.ConfigurationError as error:
                self.startup_error = str(error)
                raise
            finally:
                closed = self.runner.close()
                if uvicorn_server is not None and (self._failed or not closed):
                    leave_at_once(int(self._failed))

    def _start_batching(self, uvicorn_server: uvicorn.Server | None) -> None:
        s = self.settings

        def give_up() -> None:
            assert uvicorn_server is not None, "nobody else can be told to end"
            self._failed = uvicorn_server.should_exit = True

        self.task = TASKS[self.runner.task]
        self.bodies = Bodies(s.max_body_bytes or self.task.max_body_bytes)
        policy = Policy(s.max_batch_size, self.runner.max_batch_tokens, s.batch_wait_ms / 1000)
        last_resort = give_up if s.exit_on_failure and uvicorn_server is not None else None
        if s.exit_on_failure and last_resort is None:
            logger.warning(
                "PIPELINE_EXIT_ON_FAILURE has no effect: it is for uvicorn, in the main thread of a process."
            )
        self._batcher = Batcher(self.runner, policy, s.max_requests, s.request_timeout_s, give_up=last_resort)
        self._batcher.start()
        if uvicorn_server is not None:
            allow_many_connections()
            watch_connections(uvicorn_server)
        told = (self.runner.describe()[key] for key in ("task", "model", "device", "threads"))
        logger.info("Serving %s with %s on %s, threads: %d", *told)

    def begin_drain(self) -> None:
        """Let nobody in and answer who is in, for the time that the settings allow. While loading, nobody is in."""
        if self._drain is None and self._batcher is not None:
            loop, timeout_s = asyncio.get_running_loop(), self.settings.drain_timeout_s
            self.bodies.drain(loop.time() + timeout_s)
            self._drain = loop.create_task(self._batcher.drain(timeout_s), name="drain")

    # Routes

    async def infer(self, request: Request) -> Response:
        """Run the pipeline on the body."""

        def parse(body: bytes) -> inference_api.Work:
            content_type = request.headers.get("content-type", "")
            return inference_api.parse(body, content_type, self.task, self.settings.max_inputs)

        def render(work: inference_api.Work, outputs: list[Any], tokens: int) -> bytes:
            return inference_api.render(work, outputs, self.task)

        return await self._answer(request, parse, render)

    async def embeddings(self, request: Request) -> Response:
        """Run the pipeline on the body in OpenAI's form."""
        assert self.batcher, "it raises while nothing is loaded"
        described = self.runner.describe()
        if not described.get("embedding"):
            raise errors.NotServed(
                "Embeddings are for the task feature-extraction and models with a sentence-transformers configuration; "
                f"this server runs {described['model']} for {self.runner.task}."
            )

        def parse(body: bytes) -> openai_embeddings.EmbeddingsWork:
            return openai_embeddings.parse(body, self.settings.max_inputs)

        def render(work: openai_embeddings.EmbeddingsWork, outputs: list[Any], tokens: int) -> bytes:
            return openai_embeddings.render(work, outputs, tokens, str(described["model"]))

        return await self._answer(request, parse, render)

    async def _answer(
        self, request: Request, parse: Callable[[bytes], AnyWork], render: Callable[[AnyWork, list[Any], int], bytes]
    ) -> Response:
        """Run what the body asks for; `render` is given the outputs, and how many tokens the inputs have."""
        batcher, arrived = self.batcher, time.perf_counter()
        deadline = asyncio.get_running_loop().time() + patience_s(request, self.settings.request_timeout_s)
        async with self.bodies.of(request, deadline) as body:
            work = parse(body)
            entries = batcher.submit(work.inputs, work.parameters, deadline)
            answers = await answers_of(entries, request.receive)
        timing = request.state.timing = timing_of(entries, answers)
        if error := error_of(answers, len(entries)):
            raise error
        assert timing is not None, "an answer without an error is the model's"
        outputs = [answer.output for answer in answers]
        content = render(work, outputs, sum(entry.prepared.tokens for entry in entries))
        total_s = time.perf_counter() - arrived
        return Json(content, headers={"Server-Timing": server_timing(timing, total_s)})

    async def health(self, request: Request) -> Response:
        """200 while the process can serve, or is about to."""
        if self._batcher is not None and (trouble := self._batcher.trouble):
            raise errors.Unavailable(trouble)
        return Json(b'{"status":"ok"}')

    async def ready(self, request: Request) -> Response:
        """200 while new requests are taken."""
        if self.batcher.draining:
            raise errors.Draining("The server is shutting down.")
        return await self.health(request)

    async def info(self, request: Request) -> Response:
        """The model and the limits."""
        assert self.batcher, "it raises while nothing is loaded"
        measured = {"max_batch_tokens": self.runner.max_batch_tokens, "max_body_bytes": self.bodies.most_bytes}
        return Json(inference_api.to_json(about.info(self.settings, self.runner.describe(), **measured)))

    async def openapi(self, request: Request) -> Response:
        """The OpenAPI document of what is loaded."""
        assert self.batcher, "it raises while nothing is loaded"
        return Json(inference_api.to_json(about.api(self.settings, self.runner.task, self.runner.describe())))

    async def metrics(self, request: Request) -> Response:
        """Prometheus text."""
        text, media_type = about.metrics()
        return Response(text, media_type=media_type)

    # Around the routes

    def guarded(self, endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """The same endpoint, for clients with the API key, if there is one."""
        wanted = [digest(key.get_secret_value().encode()) for key in self.settings.api_key]
        if not wanted:
            return endpoint

        async def with_key(request: Request) -> Response:
            scheme, _, key = request.headers.get("authorization", "").partition(" ")
            given = digest(key.encode("latin-1"))  # of one length, whatever that of the keys
            matching = sum(hmac.compare_digest(given, one) for one in wanted)  # all of them, whichever it is
            if not matching or scheme.lower() != "bearer":
                raise errors.Unauthorized("The API key is missing or wrong; send it as 'Authorization: Bearer KEY'.")
            return await endpoint(request)

        return with_key


def create_app(settings: Settings | None = None, runner: ServedRunner | None = None) -> Starlette:
    """The app. Settings come from the environment unless given; nothing is loaded before the lifespan starts."""
    settings = settings or config.from_environment()
    logs.configure(settings.log_format)
    service = Service(settings, runner or pipeline_runner(settings))
    routes: list[BaseRoute] = [
        Route("/", service.guarded(service.infer), methods=["POST"]),
        Route("/", pages.home),
        Route("/v1/embeddings", service.guarded(service.embeddings), methods=["POST"]),
        Route("/health", service.health),
        Route("/ready", service.ready),
        Route("/info", service.guarded(service.info)),
        Route("/metrics", service.guarded(service.metrics)),
        Route("/openapi.json", service.guarded(service.openapi)),
        *pages.ROUTES,
    ]
    paths = {route.path for route in routes if isinstance(route, Route)}
    middleware = [Middleware(Envelope, paths=paths, startup_error=lambda: service.startup_error)]
    if settings.cors_origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["Authorization", "Content-Type", "X-Request-ID", PATIENCE],
                expose_headers=["X-Request-ID", "Server-Timing", "Retry-After"],
            )
        )
    app = Starlette(
        routes=routes,
        middleware=middleware,
        lifespan=service.lifespan,
        exception_handlers=Failures(show_errors=settings.show_errors).handlers,
    )
    app.router.redirect_slashes = False
    app.state.service = service
    return app


app = create_app()
