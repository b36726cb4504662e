"""The app is served at the root, behind a prefix, or mounted: each request is the same one everywhere."""

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from config import Settings
from pipeline_webserver.telemetry import metrics
from pipeline_webserver.telemetry.logs import ACCESS
from pipeline_webserver.web.paths import remove_second_prefix, route_path
from server import create_app
from tests.support.fakes import FakeRunner

HTML = {"Accept": "text/html"}


class UvicornWithRootPath:
    """What uvicorn's `--root-path` does to each request."""

    def __init__(self, app: Starlette, prefix: str) -> None:
        self.app = app
        self.prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "root_path": self.prefix, "path": self.prefix + scope["path"]}
        await self.app(scope, receive, send)


def mounted(app: Starlette) -> Starlette:
    return Starlette(routes=[Mount("/api", app)], lifespan=app.router.lifespan_context)


def counted(route: str, status: int, error_type: str = "") -> float:
    return float(metrics.REQUESTS.labels(route, status, error_type)._value.get())


@pytest.mark.parametrize(
    ("path", "prefix", "within"),
    [
        ("/health", "", "/health"),
        ("/api/health", "/api", "/health"),
        ("/api//health", "/api/", "/health"),
        ("/api/", "/api", "/"),
        ("/health", "/api", "/health"),
        ("/apix", "/api", "/apix"),
        ("/a/b/v1/embeddings", "/a/b", "/v1/embeddings"),
    ],
)
def test_the_path_within_the_app_is_without_the_prefix(path: str, prefix: str, within: str) -> None:
    assert route_path({"path": path, "root_path": prefix}) == within


@pytest.mark.parametrize(
    ("path", "prefix", "left"),
    [
        ("/api/api/health", "/api", "/api/health"),
        ("/api/api/static/home.js", "/api", "/api/static/home.js"),
        ("/api/health", "/api", "/api/health"),
        ("/v1/v1/embeddings", "/v1", "/v1/v1/embeddings"),
        ("/v1/v1/v1/embeddings", "/v1", "/v1/v1/embeddings"),
        ("/api/apix", "/api", "/api/apix"),
        ("/health", "", "/health"),
    ],
)
def test_a_prefix_that_the_proxy_did_not_strip_is_removed_once(path: str, prefix: str, left: str) -> None:
    scope = {"path": path, "root_path": prefix}
    remove_second_prefix(scope, {"/", "/health", "/v1/embeddings"})
    assert scope["path"] == left


@pytest.mark.parametrize("way", ["stripped", "not stripped", "mounted", "stripped, deep"])
def test_behind_a_prefix_everything_is_found_and_counted_by_its_own_name(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", ACCESS)
    app = create_app(Settings(), FakeRunner())
    ways: dict[str, tuple[ASGIApp, str]] = {
        "stripped": (UvicornWithRootPath(app, "/api"), ""),
        "not stripped": (UvicornWithRootPath(app, "/api"), "/api"),
        "mounted": (mounted(app), "/api"),
        "stripped, deep": (UvicornWithRootPath(app, "/models/one"), ""),
    }
    served, before = ways[way]
    counts = counted("/", 200), counted("/", 422, "rejected"), counted("/v1/embeddings", 404, "not_served")
    with TestClient(served, follow_redirects=False) as client:
        assert client.post(f"{before}/", content=b"a").json() == "A"
        assert client.post(f"{before}/", content=b"bad").status_code == 422
        # The form of OpenAI's errors is that of the route, too.
        assert client.post(f"{before}/v1/embeddings", json={"input": "a"}).json()["error"]["type"] == "not_served"
        for probe in ("/health", "/ready", "/metrics"):
            assert client.get(before + probe).status_code == 200
        assert client.get(f"{before}/", headers=HTML).status_code == 200
        assert client.get(f"{before}/docs").status_code == 200
        assert client.get(f"{before}/static/home.js").status_code == 200
        prefix = "/models/one" if way == "stripped, deep" else "/api"
        for missing in ("/nowhere", "/static/nothing.js"):
            assert f"with POST to {prefix}/. There are POST {prefix}/, GET" in client.get(before + missing).text
        assert client.get(f"{before}/openapi.json").json()["servers"] == [{"url": prefix}]
    assert (
        counted("/", 200),
        counted("/", 422, "rejected"),
        counted("/v1/embeddings", 404, "not_served"),
    ) == (counts[0] + 2, counts[1] + 1, counts[2] + 1)
    paths = [getattr(record, "fields")["path"] for record in caplog.records if record.name == ACCESS]  # noqa: B009
    assert not any(path.endswith(("/health", "/ready", "/metrics")) for path in paths)


def test_at_the_root_the_document_names_no_server(client: TestClient) -> None:
    assert "servers" not in client.get("/openapi.json").json()
