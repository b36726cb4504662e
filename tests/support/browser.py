"""A headless Chromium for the tests of the pages, which tells what it should never have seen."""

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import playwright.sync_api as playwright
import pytest

PATIENCE_MS = 120_000  # a machine that is shared may be slow


def chromium() -> str:
    """Where it is; without one the test is skipped."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("There is no Chromium on this machine: apt-get install chromium")
    return found


@contextmanager
def running_browser() -> Iterator[playwright.Browser]:
    path = chromium()
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])  # root has no sandbox
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page that is open, and what happened on it."""

    page: playwright.Page
    errors: list[str] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.urls.append(request.url))

    def _hear(self, message: playwright.ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def go(self, url: str) -> "Visit":
        self.page.goto(url)
        self.page.wait_for_selector("#loaded:not([hidden])")
        return self

    def text(self, selector: str) -> str:
        return self.page.inner_text(selector)

    def texts(self, selector: str) -> list[str]:
        return self.page.locator(selector).all_inner_texts()

    def wait_for(self, selector: str) -> None:
        self.page.wait_for_selector(selector)

    def answered(self) -> None:
        """Wait for the answer or the error."""
        self.page.wait_for_function(
            "() => !document.querySelector('#answer[aria-busy]') && "
            "(document.querySelector('#answer').childElementCount || !document.querySelector('#trouble').hidden)"
        )

    def run(self, **fields: str) -> None:
        """Fill fields, named by their labels' beginnings, and press the button."""
        for label, value in fields.items():
            self.page.get_by_label(label.replace("_", " ")).first.fill(value)
        self.page.click("#run")
        self.answered()

    def module(self, name: str, body: str, *arguments: Any) -> Any:
        """What JavaScript makes of a module `m` and of `arguments`."""
        script = f"async (given) => {{ const m = await import(new URL('static/{name}', location.href)); {body} }}"
        return self.page.evaluate(script, list(arguments))


Open = Callable[..., Visit]


def axe() -> str:
    """The accessibility checker, as a script; a package for Python brings it along."""
    found = importlib.util.find_spec("axe_playwright_python")
    assert found is not None
    assert found.origin is not None
    return (Path(found.origin).parent / "axe.min.js").read_text()
