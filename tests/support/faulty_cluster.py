"""The deployment of the cluster around a fake model, which the word "broken" breaks for good."""

from ray import serve
from starlette.applications import Starlette

import server
from deploy import ray_serve
from tests.support.fakes import FakeRunner


class FaultyReplica(ray_serve.Replica):
    def __serve_build_asgi_app__(self) -> Starlette:
        return server.create_app(self.settings, FakeRunner())


def app(arguments: dict[str, str]) -> serve.Application:
    return ray_serve.application(FaultyReplica)
