"""The app: what is wired to what, its routes, its start and its end; and the command that serves it.

It must never know torch or transformers: what runs the model is behind `ServedRunner`.
"""

import asyncio
import json
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pipeline_webserver import VERSION
from pipeline_webserver.api import inference_api, openai_embeddings, openapi
from pipeline_webserver.api.codec import to_json
from pipeline_webserver.api.inference_api import InferenceRequest
from pipeline_webserver.api.schemas import Facts
from pipeline_webserver.api.tasks import TASKS, Task
from pipeline_webserver.errors import ConfigurationError, Draining, NotServed, Overloaded, Starting, Unavailable
from pipeline_webserver.inference import cpus, inference_thread, loading, model_inputs, pipeline_runner
from pipeline_webserver.model_info import ModelInfo
from pipeline_webserver.neighbours import neighbours_of
from pipeline_webserver.scheduling.batch_policy import BatchPolicy
from pipeline_webserver.scheduling.continuous import ContinuousBatcher
from pipeline_webserver.scheduling.runner import Runner
from pipeline_webserver.scheduling.serving_loop import ServingLoop
from pipeline_webserver.scheduling.step_policy import StepPolicy
from pipeline_webserver.scheduling.step_runner import StepRunner
from pipeline_webserver.telemetry import exposition, logs, metrics
from pipeline_webserver.web import pages
from pipeline_webserver.web.auth import ApiKeyGuard
from pipeline_webserver.web.body_limits import BodyReader
from pipeline_webserver.web.command_line import parse_arguments
from pipeline_webserver.web.headers import request_timeout_s
from pipeline_webserver.web.middleware import middleware_stack
from pipeline_webserver.web.pacing import RetryPacer
from pipeline_webserver.web.responses import ErrorHandlers, JSONResponse
from pipeline_webserver.web.results import results_of
from pipeline_webserver.web.slow_clients import guard_against_slow_clients, raise_open_file_limit
from pipeline_webserver.web.timing import server_timing
from pipeline_webserver.web.uvicorn_process import UvicornProcess, graceful_shutdown
from pipeline_webserver.workers import find_workers

with neighbours_of(__file__, "batching", "config"):
    from batching import Batcher
    from config import Settings, from_environment, settings_help

logger = logging.getLogger(__name__)
AnyRequest = TypeVar("AnyRequest", bound=InferenceRequest)

# The settings that `/info` publishes: what a client can run into.
LIMITS = [name for name in Settings.model_fields if name.startswith("max_")]
LIMITS += ["batch_wait_ms", "request_timeout_s", "truncate"]


class ServedRunner(Runner, Protocol):
    """What the app needs of the pipeline, loaded by `start`; `close` returns whether its threads have ended."""

    @property
    def info(self) -> ModelInfo: ...
    @property
    def max_batch_tokens(self) -> int: ...
    @property
    def steps(self) -> StepRunner | None: ...
    async def start(self) -> None: ...
    def close(self) -> bool: ...


def build_runner(s: Settings) -> ServedRunner:
    """The pipeline that the settings name, not loaded yet."""
    architectures = {name: task.architectures for name, task in TASKS.items()}
    extras = {name: task.extra for name, task in TASKS.items()}
    preprocessors = {name: (task.preprocessor, task.extra) for name, task in TASKS.items()}
    load = partial(loading.load, s.model, s.task, s.revision, s.device, s.dtype, architectures, extras)
    limits = model_inputs.Limits(s.truncate, s.max_new_tokens, s.max_image_pixels, s.max_audio_s)
    workers = find_workers()
    threads = s.threads or max(1, cpus.usable_cores() // (workers.count if workers else 1))
    open_runner = partial(
        pipeline_runner.open_runner,
        load,
        preprocessors,
        limits,
        s.max_batch_tokens,
        s.accelerate,
        allow_untrained=s.allow_untrained,
    )
    return inference_thread.InferenceThread(open_runner, threads, s.max_cache_tokens)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the routes work with, once the model is loaded."""

    info: ModelInfo
    task: Task
    body_reader: BodyReader
    batcher: ServingLoop


def max_body_bytes(settings: Settings, task: Task) -> int:
    return settings.max_body_bytes or task.max_body_bytes


def model_info(settings: Settings, runner: ServedRunner) -> ModelInfo:
    """What is known of the model of a runner that has started, by the name that the settings give it."""
    return replace(runner.info, name=settings.name) if settings.name else runner.info


def info_of(settings: Settings, runner: ServedRunner) -> dict[str, object]:
    """What `/info` says of a runner that has started: the model and the limits."""
    info = model_info(settings, runner)
    body_bytes = max_body_bytes(settings, TASKS[info.task])
    cache_tokens = runner.steps.max_cache_tokens if runner.steps else None
    measured = {
        "max_batch_tokens": runner.max_batch_tokens,
        "max_body_bytes": body_bytes,
        "max_cache_tokens": cache_tokens,
    }
    limits = {name: getattr(settings, name) for name in LIMITS} | measured
    return openapi.info(info, limits, VERSION)


class Service:
    """The routes, and what they share."""

    def __init__(self, settings: Settings, runner: ServedRunner) -> None:
        self.settings = settings
        self.runner = runner
        self.startup_error: str | None = None
        self._loaded: Loaded | None = None
        self._drain: asyncio.Task[None] | None = None
        self._retries = RetryPacer()

    def loaded(self) -> Loaded:
        """Raises `Starting` before the model is loaded. uvicorn listens only after that; other servers may not."""
        if self._loaded is None:
            raise Starting("The server is starting: the model is not loaded yet.")
        return self._loaded

    # Start and end

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        with graceful_shutdown(self.begin_drain, self.settings.drain_timeout_s) as process:
            try:
                metrics.set_state("starting")
                await self.runner.start()
                self._start(process)
                yield
                self.begin_drain()
                if self._drain is not None:
                    await self._drain
            except ConfigurationError as error:
                self.startup_error = str(error)
                raise
            finally:
                threads_ended = self.runner.close()
                if process is not None:
                    process.close(threads_ended=threads_ended)

    def _start(self, process: UvicornProcess | None) -> None:
        s, info = self.settings, model_info(self.settings, self.runner)
        task = TASKS[info.task]
        body_reader = BodyReader(max_body_bytes(s, task))
        on_fatal = process.fail if process is not None and s.exit_on_failure else None
        if s.exit_on_failure and process is None:
            logger.warning("PIPELINE_EXIT_ON_FAILURE has no effect: it needs uvicorn, in the main thread of a process.")
        batcher = self._batcher(on_fatal)
        batcher.start()
        self._loaded = Loaded(info, task, body_reader, batcher)
        if process is not None:
            raise_open_file_limit()
            guard_against_slow_clients(process.server)
        logger.info("Serving %s with %s on %s, threads: %d", info.task, info.model, info.device, info.threads)

    def _batcher(self, on_fatal: Callable[[], None] | None) -> ServingLoop:
        """The loop that suits the model: step by step where it generates, else batch by batch."""
        s, tokens, steps = self.settings, self.runner.max_batch_tokens, self.runner.steps
        if steps is None:
            policy = BatchPolicy(s.max_batch_size, tokens, s.batch_wait_ms / 1000)
            return Batcher(self.runner, policy, s.max_requests, s.request_timeout_s, on_fatal=on_fatal)
        step_policy = StepPolicy(tokens, s.max_batch_size, steps.fixed_cost_tokens, steps.max_cache_tokens)
        return ContinuousBatcher(steps, step_policy, s.max_requests, s.request_timeout_s, on_fatal=on_fatal)

    def begin_drain(self) -> None:
        """Admit no further inputs, and complete those in flight; while the model is loading there are none."""
        if self._drain is None and self._loaded is not None:
            loop, timeout_s = asyncio.get_running_loop(), self.settings.drain_timeout_s
            self._loaded.body_reader.drain(loop.time() + timeout_s)
            self._drain = loop.create_task(self._loaded.batcher.drain(timeout_s), name="drain")

    # Routes

    async def infer(self, request: Request) -> Response:
        """Run the pipeline on the body."""
        task, content_type = self.loaded().task, request.headers.get("content-type", "")
        return await self._answer(
            request,
            lambda body: inference_api.parse(body, content_type, task, self.settings.max_inputs),
            lambda parsed, outputs, tokens: inference_api.render(parsed, outputs, task),
        )

    async def embeddings(self, request: Request) -> Response:
        """Run the pipeline on the body of OpenAI's API."""
        info = self.loaded().info
        if info.embedding is None:
            raise NotServed(openai_embeddings.why_not_served(info))
        return await self._answer(
            request,
            lambda body: openai_embeddings.parse(body, self.settings.max_inputs),
            lambda parsed, outputs, tokens: openai_embeddings.render(parsed, outputs, tokens, info.name),
        )

    async def _answer(
        self,
        request: Request,
        parse: Callable[[bytes], AnyRequest],
        render: Callable[[AnyRequest, list[Any], int], bytes],
    ) -> Response:
        """Run what the body asks for; `render` takes the outputs, and the number of tokens of all inputs."""
        loaded, arrived = self.loaded(), time.perf_counter()
        timeout_s = request_timeout_s(request.headers, self.settings.request_timeout_s)
        deadline = asyncio.get_running_loop().time() + timeout_s
        await self._admit_head(request, loaded.batcher, timeout_s, deadline)
        async with loaded.body_reader.read(request, deadline) as body:
            parsed = parse(body)
            entries = loaded.batcher.submit(parsed.inputs, parsed.parameters, deadline)
            results = await results_of(entries, request)
        content = render(parsed, results.outputs, sum(entry.prepared.tokens for entry in entries))
        total_s = time.perf_counter() - arrived
        return JSONResponse(content, headers={"Server-Timing": server_timing(results.timing, total_s)})

    async def _admit_head(self, request: Request, batcher: ServingLoop, timeout_s: float, deadline: float) -> None:
        """Refuse from the head of a request, before its body is read. A client that came back at once waits for that.

        Raises as `Batcher.submit`.
        """
        if not batcher.would_admit(deadline):
            await self._retries.hold(request.client, min(batcher.admission.backlog_s, timeout_s / 10))
        try:
            batcher.check_admits(deadline)
        except Overloaded as refusal:
            self._retries.remember(request.client, refusal.retry_after_s)
            raise

    async def health(self, request: Request) -> Response:
        """200 while the process can serve, or is about to."""
        if self._loaded is not None and (reason := self._loaded.batcher.unhealthy_reason):
            raise Unavailable(reason)
        return JSONResponse(b'{"status":"ok"}')

    async def ready(self, request: Request) -> Response:
        """200 while new requests are admitted."""
        if self.loaded().batcher.draining:
            raise Draining("The server is shutting down.")
        return await self.health(request)

    async def info(self, request: Request) -> Response:
        """The model and the limits."""
        self.loaded()
        return JSONResponse(to_json(info_of(self.settings, self.runner)))

    async def openapi(self, request: Request) -> Response:
        """The OpenAPI document of what is loaded."""
        facts = self._facts(self.loaded())
        # Clients resolve its paths against the root of the host, if nothing else is said.
        prefix: str = request.state.prefix
        servers = {"servers": [{"url": prefix}]} if prefix else {}
        return JSONResponse(to_json(openapi.document(facts) | servers))

    def _facts(self, loaded: Loaded) -> Facts:
        s, info = self.settings, loaded.info
        return Facts(info.task, loaded.task, info, VERSION, s.max_inputs, s.max_new_tokens, bool(s.api_key))

    def usage(self, prefix: str) -> str:
        """What a client that asks for what is not there is told to do."""
        if self._loaded is None:
            return "The server is starting: the model is not loaded yet."
        return openapi.usage(self._facts(self._loaded), prefix)

    async def metrics(self, request: Request) -> Response:
        """Prometheus text, of all workers."""
        return Response(exposition.latest(), media_type=exposition.CONTENT_TYPE)


def routes_of(service: Service) -> list[BaseRoute]:
    """All routes. Where there are API keys, only the probes and the pages are open without one."""
    guard = ApiKeyGuard(key.get_secret_value() for key in service.settings.api_key)
    return [
        Route("/", guard.protect(service.infer), methods=["POST"]),
        Route("/", pages.home),
        Route("/v1/embeddings", guard.protect(service.embeddings), methods=["POST"]),
        Route("/health", service.health),
        Route("/ready", service.ready),
        Route("/info", guard.protect(service.info)),
        Route("/metrics", guard.protect(service.metrics)),
        Route("/openapi.json", guard.protect(service.openapi)),
        *pages.ROUTES,
    ]


def create_app(settings: Settings | None = None, runner: ServedRunner | None = None) -> Starlette:
    """The app, by default with the settings of the environment. Nothing is loaded before its lifespan starts."""
    settings = settings or from_environment()
    logs.configure(settings.log_format)
    service = Service(settings, runner or build_runner(settings))
    routes = routes_of(service)
    paths = {route.path for route in routes if isinstance(route, Route)}
    app = Starlette(
        routes=routes,
        middleware=middleware_stack(paths, settings.cors_origins, lambda: service.startup_error),
        lifespan=service.lifespan,
        exception_handlers=ErrorHandlers(show_errors=settings.show_errors, usage=service.usage).by_type,
    )
    app.router.redirect_slashes = False
    app.state.service = service
    return app


async def check(settings: Settings, runner: ServedRunner | None = None) -> int:
    """All of a start but the listening: load, check, warm up, time. Prints what `/info` would say.

    Returns the process's exit status.
    """
    logs.configure(settings.log_format)
    runner = runner or build_runner(settings)
    try:
        await runner.start()
    except ConfigurationError as error:
        sys.stderr.write(f"pipeline-webserver: {error}\n")
        return 1
    finally:
        runner.close()
    sys.stdout.write(json.dumps(info_of(settings, runner), indent=2) + "\n")
    return 0


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `pipeline-webserver`: serve by uvicorn, until a signal ends it; or only check the start."""
    options = parse_arguments(arguments, settings_help())
    chosen = {name: getattr(options, name) for name in ("model", "task") if getattr(options, name) is not None}
    settings = from_environment(**chosen)
    if options.check:
        raise SystemExit(asyncio.run(check(settings)))
    # A factory: the app takes over uvicorn's logging, which must be set up before. WEB_CONCURRENCY has no effect.
    uvicorn.run(partial(create_app, settings), factory=True, host=options.host, port=options.port, workers=1)


if TYPE_CHECKING:
    app: Starlette
else:

    def __getattr__(name: str) -> Starlette:
        """`app`, made when it is first used: so that an import does nothing, and the command makes its own."""
        if name != "app":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()["app"] = created = create_app()
        return created
