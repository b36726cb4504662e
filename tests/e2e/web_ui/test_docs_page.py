"""The documentation page: everything that openapi.json has, with calls that run."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from config import Settings
from server import create_app
from tests.e2e.web_ui.snippets import result_of_shell
from tests.support.browser import Visit
from tests.support.compare import assert_same
from tests.support.fakes import FakeRunner
from tests.support.media import noise, picture, recording
from tests.support.process import serving_in_thread
from tests.support.sentences import EMBEDDING


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(EMBEDDING, marks=pytest.mark.extended),
        pytest.param("image-classification", marks=pytest.mark.extended),
        pytest.param("fill-mask", marks=pytest.mark.extended),
        pytest.param("automatic-speech-recognition", marks=pytest.mark.extended),
    ],
)
def test_the_documentation_shows_every_route_and_schema_and_its_calls_run(
    name: str, visit: Visit, url_of: Callable[[str], str], tmp_path: Path
) -> None:
    visit.page.goto(f"{url_of(name)}docs")
    visit.wait_for("#schemas:not([hidden])")
    openapi = httpx2.get(f"{url_of(name)}openapi.json").json()
    routes = [f"{method.upper()} {path}" for path, methods in openapi["paths"].items() for method in methods]
    assert visit.texts("#routes h2") == routes
    assert visit.texts("#schemas h3") == list(openapi["components"]["schemas"])
    assert visit.text("h1") == openapi["info"]["title"]
    visit.page.set_viewport_size({"width": 390, "height": 800})
    visit.page.click("#routes summary")
    assert visit.page.evaluate("() => document.documentElement.scrollWidth") == 390
    (tmp_path / "FILE").write_bytes(recording(noise(1)) if "speech" in name else picture(1))
    calls = [call for call in visit.texts("#routes pre") if " -d " in call or "@FILE" in call]
    assert len(calls) == sum(route.startswith("POST") for route in routes) + 1  # raw and as JSON
    assert [call for call in calls if "error" in result_of_shell(call, tmp_path)] == []


def test_every_call_can_be_sent_from_the_documentation(visit: Visit, url_of: Callable[[str], str]) -> None:
    url = url_of(EMBEDDING)
    visit.page.goto(f"{url}docs")
    visit.wait_for("#schemas:not([hidden])")
    forms = visit.page.locator("#routes form")
    assert forms.count() == visit.page.locator("#routes h2").count()
    for form in forms.all():
        form.locator("xpath=../summary").click()
        form.get_by_label("X-Request-ID").fill("the-id")
        form.get_by_role("button", name="Send").click()
        form.locator(".result pre").wait_for()
        assert re.fullmatch(r"200 OK in [\d.]+ m?s", form.locator("[role=status]").inner_text())
        assert form.locator("dd").all_inner_texts()[-1] == "the-id"
    body = forms.first.get_by_label("Body, application/json")
    assert json.loads(body.input_value()) == {"inputs": "a text"}
    body.fill('{"inputs": ["a", "b"]}')
    body.press("Control+Enter")
    answer = httpx2.post(url, json={"inputs": ["a", "b"]}, timeout=60).json()
    result = forms.first.locator(".result pre")
    result.wait_for()
    assert_same(json.loads(result.inner_text()), answer)
    forms.first.get_by_label("Form of the body").select_option("text/plain")
    assert body.is_hidden()
    forms.first.get_by_label("Body, text/plain").fill("a text of mine")
    forms.first.get_by_label("X-Request-Timeout").fill("never")
    forms.first.get_by_role("button", name="Send").click()
    visit.page.wait_for_function("() => /^400 Bad Request/.test(document.querySelector('#routes .status').textContent)")
    visit.errors.clear()  # the browser's own, of the status


@pytest.mark.extended
def test_a_file_can_be_sent_from_the_documentation_as_it_is_and_in_json(
    visit: Visit, url_of: Callable[[str], str], tmp_path: Path
) -> None:
    url = url_of("image-classification")
    (tmp_path / "a.png").write_bytes(picture(1))
    labels = httpx2.post(url, content=picture(1), headers={"content-type": "image/png"}, timeout=60).json()
    visit.page.goto(f"{url}docs")
    visit.wait_for("#schemas:not([hidden])")
    form = visit.page.locator("#routes form").first
    form.locator("xpath=../summary").click()
    for choice, label in [("application/json", "A file in place of the inputs"), ("a file", "Body, a file")]:
        form.get_by_label("Form of the body").select_option(choice)
        form.get_by_role("button", name="Send").focus()
        form.get_by_label(label).set_input_files(str(tmp_path / "a.png"))
        visit.page.keyboard.press("Enter")
        form.locator(".result pre").wait_for()
        assert json.loads(form.locator(".result pre").inner_text()) == labels
        form.locator(".result").evaluate("node => node.replaceChildren()")


@pytest.mark.extended
def test_the_documentation_asks_for_the_api_key(visit_with_errors: Visit) -> None:
    visit = visit_with_errors
    with serving_in_thread(create_app(Settings(api_key="secret"), FakeRunner())) as url:  # type: ignore[arg-type]
        visit.page.goto(f"{url}/docs")
        visit.page.get_by_label("API key").fill("secret")
        visit.page.keyboard.press("Enter")
        visit.wait_for("#schemas:not([hidden])")
        assert visit.page.is_hidden("#key")
        form = visit.page.locator("form[aria-label='GET /info']")
        form.locator("xpath=../summary").click()
        for key, status in [("wrong", "401 Unauthorized"), ("secret", "200 OK")]:
            form.get_by_label("API key").fill(key)
            form.get_by_role("button", name="Send").click()
            form.get_by_text(status).wait_for()
        assert '"model": "fake"' in form.locator("pre").inner_text()
        visit.page.get_by_role("link", name="openapi.json").click()
        assert '"openapi": "3.1.0"' in visit.text("dialog[open] pre")
        assert f'curl -H "Authorization: Bearer $KEY" {url}/info' in visit.texts("#routes pre")
