"""One browser for these tests, and servers in threads of this process, each started when it is first needed."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from config import Settings
from server import create_app
from tests.support.browser import Open, Visit, running_browser
from tests.support.fakes import FakeRunner
from tests.support.process import serving_in_thread
from tests.support.sentences import EMBEDDING, MINILM


class LazyApps(Starlette):
    """Apps by name, each under the path of its name, as behind a reverse proxy; started by their first request."""

    def __init__(self) -> None:
        super().__init__(lifespan=LazyApps._lifespan)
        self.settings_of: dict[str, Settings] = {}
        self._apps: dict[str, Starlette] = {}
        self._started = AsyncExitStack()
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def _lifespan(self) -> AsyncIterator[None]:
        async with self._started:
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        _, name, *rest = scope["path"].split("/", 2)
        path = f"/{rest[0]}" if rest else "/"
        app = await self._app(name)
        await app({**scope, "path": path, "raw_path": path.encode()}, receive, send)

    async def _app(self, name: str) -> Starlette:
        async with self._lock:
            if name not in self._apps:
                app = create_app(self.settings_of[name])
                await self._started.enter_async_context(app.router.lifespan_context(app))
                self._apps[name] = app
        return self._apps[name]


@pytest.fixture(scope="package")
def url_of(model_of: Callable[[str], Path]) -> Iterator[Callable[[str], str]]:
    """The address of a server for a task, under the path of its name."""
    apps = LazyApps()
    with serving_in_thread(apps) as url:

        def get(name: str) -> str:
            model, task = (MINILM, None) if name == EMBEDDING else (model_of(name), name)
            apps.settings_of[name] = Settings(
                model=str(model), task=task, accelerate=False, threads=1, max_new_tokens=20
            )
            return f"{url}/{name}/"

        yield get


@pytest.fixture(scope="package")
def bundled_url() -> Iterator[str]:
    """The address of a server with the bundled model."""
    with serving_in_thread(create_app(Settings(accelerate=False, threads=1))) as url:
        httpx2.get(f"{url}/ready", timeout=60)  # transformers cannot load two models at a time in one process
        yield url


@pytest.fixture(scope="package")
def fake_url() -> Iterator[str]:
    """The address of a server without a model."""
    with serving_in_thread(create_app(Settings(), FakeRunner())) as url:
        yield url


@pytest.fixture(scope="package")
def open_visit() -> Iterator[Open]:
    """Opens a page in a tab of one window, which takes half as long as a new window; or, with options, in its own."""
    with running_browser() as browser:
        permissions = ["clipboard-read", "clipboard-write"]
        window = browser.new_context(permissions=permissions)

        def open_page(**options: Any) -> Visit:
            context = browser.new_context(permissions=permissions, **options) if options else window
            return Visit(context.new_page())

        yield open_page


@pytest.fixture
def visit(open_visit: Open) -> Iterator[Visit]:
    """A page that must not have an error, nor request any other place than the one it came from."""
    opened = open_visit()
    yield opened
    origin = re.match(r"https?://[^/]+/", opened.page.url)
    opened.close()
    assert opened.errors == []
    assert origin
    assert [url for url in opened.urls if not url.startswith((origin[0], "blob:", "data:"))] == []


@pytest.fixture
def visit_with_errors(open_visit: Open) -> Iterator[Visit]:
    """A page on which the test causes errors."""
    opened = open_visit()
    yield opened
    opened.close()
