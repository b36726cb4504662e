"""The deployment of the cluster around a fake model, which the word "broken" breaks for good."""

from ray import serve
from starlette.applications import Starlette

import cluster
import server
from tests.fakes import FakeRunner


class FaultyReplica(cluster.Replica):
    def __serve_build_asgi_app__(self) -> Starlette:
        return server.create_app(self.settings, FakeRunner())


def app(arguments: dict[str, str]) -> serve.Application:
    return cluster.application(FaultyReplica)
