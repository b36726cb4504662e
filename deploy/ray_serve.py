"""The same app on Ray Serve: replicas of it on one machine or many, with no code by the operator.

`serve run deploy.ray_serve:app`. Owns the settings of the cluster, and what Ray must know of the app: its limits, its
health, how long its shutdown takes. No module imports it, and it must never know the queue or the model.
"""

import math
from typing import Annotated, Any, Self

import ray
from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from ray import serve
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import config
import server
from config import Settings
from pipeline_webserver.inference.cpus import usable_cores

# Ray replaces an unhealthy replica after three checks, a dead one after one.
HEALTH_CHECK_PERIOD_S = 5.0
# How often Ray checks whether a replica that it stops has answered all its requests.
DRAIN_CHECK_PERIOD_S = 0.5
# For the rest of a shutdown: the lifespan, the pipeline's threads.
TEARDOWN_S = 5.0


class ClusterSettings(BaseSettings):
    """The operator's choices for the cluster. The settings of the app are those of `config.Settings`."""

    model_config = SettingsConfigDict(
        env_prefix=config.CLUSTER_PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    replicas: int = Field(
        default=1, ge=1, description="Replicas, each with a pipeline of its own; with autoscaling, at least as many."
    )
    max_replicas: int | None = Field(
        default=None,
        ge=1,
        description="Replicas at most; by default `PIPELINE_CLUSTER_REPLICAS`. With more than those, Ray autoscales.",
    )
    cpus: float = Field(
        default=1,
        gt=0,
        allow_inf_nan=False,
        description="CPUs that Ray reserves for a replica; `PIPELINE_THREADS=auto` is as many, whole ones, at least "
        "one. Less than one puts several replicas on a core, which is for experiments.",
    )
    gpus: float = Field(
        default=0,
        ge=0,
        allow_inf_nan=False,
        description="GPUs that Ray reserves for a replica; with 0.5, two share one.",
    )
    ongoing_requests: Annotated[float | None, BeforeValidator(config.auto)] = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Requests in flight in a replica that autoscaling aims at; `auto`: a quarter of "
        "`PIPELINE_MAX_BATCH_SIZE`. Higher saves replicas and makes every answer slower.",
    )
    upscale_delay_s: float = Field(
        default=30, ge=0, le=86_400, description="Seconds above that aim before Ray adds a replica."
    )
    downscale_delay_s: float = Field(
        default=600, ge=0, le=86_400, description="Seconds below that aim before Ray removes a replica."
    )

    @model_validator(mode="after")
    def _the_maximum_is_not_under_the_minimum(self) -> Self:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas ({self.max_replicas}) must not be under replicas ({self.replicas})")
        return self

    @model_validator(mode="after")
    def _several_gpus_are_whole(self) -> Self:
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus ({self.gpus}) must be whole when there are several")
        return self


def threads(settings: Settings, cpus: float, cores: int) -> int:
    """Threads of a replica: the setting, or its whole CPUs, at most the cores that its process may use."""
    return settings.threads or max(1, min(math.floor(cpus), cores))


def scaling(settings: Settings, cluster: ClusterSettings) -> dict[str, Any]:
    """The number of replicas, or what Ray's autoscaling decides it by."""
    if cluster.max_replicas in {None, cluster.replicas}:
        return {"num_replicas": cluster.replicas}
    return {
        "autoscaling_config": {
            "min_replicas": cluster.replicas,
            "max_replicas": cluster.max_replicas,
            "target_ongoing_requests": cluster.ongoing_requests or max(1, settings.max_batch_size / 4),
            "upscale_delay_s": cluster.upscale_delay_s,
            "downscale_delay_s": cluster.downscale_delay_s,
        }
    }


def options(settings: Settings, cluster: ClusterSettings) -> dict[str, Any]:
    """The options of the deployment."""
    return {
        **scaling(settings, cluster),
        "ray_actor_options": {"num_cpus": cluster.cpus, "num_gpus": cluster.gpus},
        # The app rejects by itself, with an estimate, so Ray's limits must be above its own (Ray's default of 5 would
        # bound every batch). Twice its own: requests that it rejects, and those for metrics, count for Ray too.
        "max_ongoing_requests": 2 * settings.max_requests,
        "max_queued_requests": 2 * settings.max_requests,
        "backpressure_config": {"retry_after_s": 1},
        "health_check_period_s": HEALTH_CHECK_PERIOD_S,
        "graceful_shutdown_wait_loop_s": DRAIN_CHECK_PERIOD_S,
        # Ray waits until no request is in flight, which takes at most the time-out of a request, and only then shuts
        # the app down, which has a time-out of its own. So every request is answered.
        "graceful_shutdown_timeout_s": settings.request_timeout_s + settings.drain_timeout_s + TEARDOWN_S,
    }


class OneRequestId:
    """Removes our `X-Request-ID`: Ray adds the header to every response by itself, so there would be two."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_without(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)["X-Request-ID"]
            await send(message)

        await self.app(scope, receive, send_without)


async def check(app: Starlette) -> None:
    """Raises the error of an unhealthy `/health`."""
    service: server.Service = app.state.service
    await service.health(Request({"type": "http"}))


@serve.ingress()
class Replica:
    """One process of the app. It brings its settings along: the environment of its machine is not read."""

    app: Starlette  # set by Ray

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def __serve_build_asgi_app__(self) -> Starlette:
        # What Ray has reserved, also where a configuration file of Serve overrides `PIPELINE_CLUSTER_CPUS`.
        cpus: float = ray.get_runtime_context().get_assigned_resources().get("CPU", 0)
        count = threads(self.settings, cpus, usable_cores())
        app = server.create_app(self.settings.model_copy(update={"threads": count}))
        app.add_middleware(OneRequestId)
        return app

    async def check_health(self) -> None:
        """Ray replaces a replica that raises here."""
        await check(self.app)


def application(replica: type) -> serve.Application:
    """Replicas of this class, with the settings of the environment."""
    settings, cluster = config.from_environment(), config.read(ClusterSettings)
    deployment = serve.deployment(replica, name="pipeline", **options(settings, cluster))
    return deployment.bind(settings)


def app(arguments: dict[str, str]) -> serve.Application:
    """What `serve run deploy.ray_serve:app` deploys, with the settings of the environment of that command."""
    if arguments:
        raise SystemExit(f"pipeline-webserver: {', '.join(arguments)}: the settings are in the environment")
    return application(Replica)
