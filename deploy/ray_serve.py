"""The same app on Ray Serve, an existing engine: replicas of it on one machine or many, with no code by the operator.

`serve run deploy.ray_serve:app`. Owns the settings of the cluster, and what Ray has to know of the app: its limits, its
health, how long it may take to end. Nobody imports it, and it must never know the queue or the model.
"""

import math
from typing import Annotated, Any, Self

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

# An unhealthy replica is replaced after three checks, one that died after one.
HEALTH_CHECK_PERIOD_S = 5.0
# How often Ray looks whether a replica that is to end has answered everyone.
DRAIN_CHECK_PERIOD_S = 0.5
# For what is left of an ending: the lifespan, the pipeline's thread.
CLOSING_S = 5.0


class ClusterSettings(BaseSettings):
    """What the operator chose of the cluster. The settings of the app are those of `config.Settings`."""

    model_config = SettingsConfigDict(
        env_prefix=config.CLUSTER_PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    replicas: int = Field(default=1, ge=1, description="Replicas, each with a pipeline of its own; the fewest of them.")
    max_replicas: int | None = Field(
        default=None,
        ge=1,
        description="Most replicas; by default as many as the fewest. With more, Ray adds and removes replicas.",
    )
    cpus: float = Field(
        default=1,
        gt=0,
        allow_inf_nan=False,
        description="CPUs that Ray counts for a replica; `PIPELINE_THREADS=auto` is as many whole ones, at least one. "
        "Less than one puts several replicas on a core, which is for trying things.",
    )
    gpus: float = Field(
        default=0, ge=0, allow_inf_nan=False, description="GPUs that Ray gives to a replica; a half is shared by two."
    )
    ongoing_requests: Annotated[float | None, BeforeValidator(config.auto)] = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Requests under way in a replica that the number of replicas aims at; `auto`: a quarter of "
        "`PIPELINE_MAX_BATCH_SIZE`. Higher saves replicas and makes every answer slower.",
    )
    upscale_delay_s: float = Field(
        default=30, ge=0, le=86_400, description="Seconds that it must be more before there is another replica."
    )
    downscale_delay_s: float = Field(
        default=600, ge=0, le=86_400, description="Seconds that it must be less before there is one fewer."
    )

    @model_validator(mode="after")
    def _the_most_are_not_fewer_than_the_fewest(self) -> Self:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas ({self.max_replicas}) must not be under replicas ({self.replicas})")
        return self

    @model_validator(mode="after")
    def _several_gpus_are_whole(self) -> Self:
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus ({self.gpus}) must be whole when there are several")
        return self


def threads(settings: Settings, cpus: float, usable_cores: int) -> int:
    """Threads of a replica: those that were asked for, or its CPUs, whole ones, of those that its process may use."""
    return settings.threads or max(1, min(math.floor(cpus), usable_cores))


def scaling(settings: Settings, cluster: ClusterSettings) -> dict[str, Any]:
    """How many replicas: a number, or what Ray decides it by."""
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
    """What Ray has to know."""
    return {
        **scaling(settings, cluster),
        "ray_actor_options": {"num_cpus": cluster.cpus, "num_gpus": cluster.gpus},
        # The house refuses by itself, with a forecast; Ray's limits are above its own (5 by default, which no batch
        # could be larger than). Twice: those who are refused, or only ask for the metrics, need a place, too.
        "max_ongoing_requests": 2 * settings.max_requests,
        "max_queued_requests": 2 * settings.max_requests,
        "backpressure_config": {"retry_after_s": 1},
        "health_check_period_s": HEALTH_CHECK_PERIOD_S,
        "graceful_shutdown_wait_loop_s": DRAIN_CHECK_PERIOD_S,
        # Ray waits until nobody is in, and only then tells the app, which has its own time for it. Nobody is in for
        # longer than a request may take, so all of them are answered, and not cut off.
        "graceful_shutdown_timeout_s": settings.request_timeout_s + settings.drain_timeout_s + CLOSING_S,
    }


class OneRequestId:
    """Ray puts the `X-Request-ID` of the request on every answer by itself, so that there would be two."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_without(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)["X-Request-ID"]
            await send(message)

        await self.app(scope, receive, send_without)


async def check(app: Starlette) -> None:
    """Raises what `/health` is red for."""
    service: server.Service = app.state.service
    await service.health(Request({"type": "http"}))


@serve.ingress()
class Replica:
    """One process of the app. The settings travel with it: the environment of the machine it runs on is not asked."""

    app: Starlette  # Ray's

    def __init__(self, settings: Settings, cpus: float) -> None:
        self.settings = settings
        self.cpus = cpus

    def __serve_build_asgi_app__(self) -> Starlette:
        chosen = threads(self.settings, self.cpus, config.usable_cores())
        app = server.create_app(self.settings.model_copy(update={"threads": chosen}))
        app.add_middleware(OneRequestId)
        return app

    async def check_health(self) -> None:
        """Ray replaces a replica that raises here."""
        await check(self.app)


def application(replica: type) -> serve.Application:
    """Replicas of this class, with the settings of the environment."""
    settings, cluster = config.from_environment(), config.read(ClusterSettings)
    deployment = serve.deployment(replica, name="pipeline", **options(settings, cluster))
    return deployment.bind(settings, cluster.cpus)


def app(arguments: dict[str, str]) -> serve.Application:
    """What `serve run deploy.ray_serve:app` runs, with the settings of the environment it is called in."""
    if arguments:
        raise SystemExit(f"pipeline-webserver: {', '.join(arguments)}: the settings are in the environment")
    return application(Replica)
