"""A headless Chromium for the tests of the web UI, which records errors and every address that a page requests."""

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import playwright.sync_api as playwright
import pytest

TIMEOUT_MS = 120_000  # on a machine that is busy with other work


def chromium() -> str:
    """The path of the browser; the test is skipped where there is none."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("There is no Chromium on this machine: apt-get install chromium")
    return path


@contextmanager
def running_browser() -> Iterator[playwright.Browser]:
    path = chromium()
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])  # root has no sandbox
        yield browser
        browser.close()


@dataclass
class Visit:
    """An open page, the errors on it, and the addresses that it requested."""

    page: playwright.Page
    errors: list[str] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(TIMEOUT_MS)
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.urls.append(request.url))

    def _on_console(self, message: playwright.ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def go(self, url: str) -> "Visit":
        self.page.goto(url)
        self.page.wait_for_selector("#loaded:not([hidden])")
        return self

    def close(self) -> None:
        self.page.close()

    def text(self, selector: str) -> str:
        return self.page.inner_text(selector)

    def texts(self, selector: str) -> list[str]:
        return self.page.locator(selector).all_inner_texts()

    def hidden_text(self, selector: str) -> str:
        """The text of an element that may be folded or for screen readers only."""
        return self.page.text_content(selector) or ""

    def answer(self) -> Any:
        """The answer that the page shows as JSON."""
        return json.loads(self.hidden_text("#json"))

    def wait_for(self, selector: str) -> None:
        self.page.wait_for_selector(selector)

    def wait_for_answer(self) -> None:
        """Wait for the answer or the error."""
        self.page.wait_for_function(
            "() => !document.querySelector('#answer[aria-busy]') && "
            "(document.querySelector('#answer').childElementCount || !document.querySelector('#error').hidden)"
        )

    def run(self, **fields: str) -> None:
        """Fill fields, named by the beginnings of their labels, and press the button."""
        for label, value in fields.items():
            self.page.get_by_label(label.replace("_", " ")).first.fill(value)
        self.page.click("#run")
        self.wait_for_answer()

    def run_example(self, number: int = 0) -> None:
        self.page.click(f"#examples button >> nth={number}")
        self.wait_for_answer()

    def call(self, module: str, body: str, *arguments: Any) -> Any:
        """The result of JavaScript with a `module` of the page as `m`, and `arguments` as `given`."""
        (result,) = self.call_all([(module, body, arguments)])
        return result

    def call_all(self, calls: Sequence[tuple[str, str, Sequence[Any]]]) -> list[Any]:
        """The results of several such calls, in one round trip."""
        functions = ", ".join(
            f"async (given) => {{ const m = await load({json.dumps(module)}); {body} }}" for module, body, _ in calls
        )
        script = f"""async (given) => {{
            const load = (name) => import(new URL(`static/${{name}}`, location.href));
            const functions = [{functions}];
            return Promise.all(functions.map((call, index) => call(given[index])));
        }}"""
        results: list[Any] = self.page.evaluate(script, [list(arguments) for _, _, arguments in calls])
        return results


Open = Callable[..., Visit]


def axe() -> str:
    """The accessibility checker, as a script; a package for Python contains it."""
    spec = importlib.util.find_spec("axe_playwright_python")
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / "axe.min.js").read_text()
