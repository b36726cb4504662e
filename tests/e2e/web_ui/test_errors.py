"""What goes wrong is said in plain words, and what is not of the page does not run."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config import Settings
from server import create_app
from tests.e2e.web_ui.snippets import printed_by, result_of_shell
from tests.support.browser import Visit
from tests.support.compare import assert_same
from tests.support.fakes import FakeRunner
from tests.support.media import picture
from tests.support.process import serving_in_thread

WITH_KEY: dict[str, Any] = {"api_key": "secret"}


def test_an_error_is_explained_in_plain_words(visit_with_errors: Visit, bundled_url: str) -> None:
    visit = visit_with_errors.go(bundled_url)
    visit.run(Text="no mask here")
    assert visit.texts("#error p") == [
        "The model cannot process this input.",
        "No mask_token ([MASK]) found on the input",
    ]
    assert visit.page.get_attribute("#error", "role") == "alert"
    assert all("422" in error for error in visit.errors)
    visit.run(Text="a [MASK]")
    assert visit.page.is_hidden("#error")


def test_a_burst_does_not_repeat_what_the_form_says(visit_with_errors: Visit, fake_url: str) -> None:
    visit = visit_with_errors.go(fake_url)
    visit.run(Text="bad")
    assert visit.texts("#error p") == ["The model cannot process this input.", "bad is rejected"]
    visit.page.click("#burst-run")
    visit.page.wait_for_function("() => document.querySelector('#burst-status').textContent === 'bad 1 is rejected'")


def test_a_file_that_is_no_image_has_an_error_and_no_preview(
    visit: Visit, url_of: Callable[[str], str], tmp_path: Path
) -> None:
    visit.go(url_of("image-classification"))
    for name, why in [
        ("notes.txt", "notes.txt is not an image, but text/plain."),
        ("scan.tiff", "This browser cannot show scan.tiff; the server may still read it."),
    ]:
        (tmp_path / name).write_text("some notes")
        visit.page.set_input_files("input[type=file]", str(tmp_path / name))
        visit.page.wait_for_function("(why) => document.querySelector('.preview').textContent === why", arg=why)
        assert visit.page.locator(".preview img").count() == 0
    visit.page.set_input_files("input[type=file]", str(tmp_path / "notes.txt"))
    visit.wait_for(".preview .error")
    visit.page.click("#run")
    assert visit.text("#error") == "Choose an image first."
    (tmp_path / "picture.png").write_bytes(picture(1))
    visit.page.set_input_files("input[type=file]", str(tmp_path / "picture.png"))
    visit.wait_for(".preview img")
    assert visit.page.locator(".preview .error").count() == 0


@pytest.mark.extended
def test_a_server_that_cannot_be_reached_is_explained_in_plain_words(visit_with_errors: Visit, fake_url: str) -> None:
    visit = visit_with_errors.go(fake_url)
    visit.page.route("**", lambda route: route.abort())
    visit.run()
    assert visit.text("#error") == "The server cannot be reached. Is it running, and is this device online?"
    visit.page.wait_for_function("() => document.querySelector('#metrics-error').textContent")
    assert visit.text("#metrics-error") == "The metrics cannot be read."  # and not the same once more


@pytest.mark.extended
def test_a_server_at_capacity_says_when_to_try_again(visit_with_errors: Visit) -> None:
    visit = visit_with_errors
    settings = Settings(max_requests=1, max_inputs=1, drain_timeout_s=0.1)
    with serving_in_thread(create_app(settings, FakeRunner(gate=asyncio.Event()))) as url:
        visit.go(url)
        visit.page.evaluate("() => { fetch('.', {method: 'POST', body: 'held'}); }")
        visit.page.wait_for_function(
            "async () => /^pipeline_inputs_in_flight 1/m.test(await (await fetch('metrics')).text())", polling=100
        )
        visit.run()
        first, *_, last = visit.texts("#error p")
        assert first == "The server is at capacity."
        assert re.fullmatch(r"Try again in \d+ s\.", last)
        visit.page.goto("about:blank")  # the client disconnects


@pytest.mark.extended
def test_the_web_ui_asks_for_an_api_key_and_keeps_it_in_its_tab(
    visit_with_errors: Visit, model_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    visit, task = visit_with_errors, "text-classification"
    settings = Settings(**WITH_KEY, model=str(model_of(task)), task=task, accelerate=False, threads=1)
    with serving_in_thread(create_app(settings)) as url:
        visit.page.goto(url)
        visit.wait_for("#key:not([hidden])")
        visit.page.get_by_label("API key").fill("wrong")
        visit.page.keyboard.press("Enter")
        visit.wait_for("#start-error:not([hidden])")
        assert "missing or wrong" in visit.text("#start-error")
        visit.page.get_by_role("link", name="info", exact=True).click()  # with the wrong key
        visit.page.wait_for_function("() => document.activeElement.id === 'key-field'")
        visit.page.get_by_label("API key").fill("secret")
        visit.page.keyboard.press("Enter")
        visit.wait_for("#loaded:not([hidden])")
        assert visit.page.is_hidden("#key")
        visit.run(Text="a test")
        assert "secret" not in visit.text("body")
        monkeypatch.setenv("KEY", "secret")
        assert_same(result_of_shell(visit.hidden_text("#snippet"), tmp_path), visit.answer())
        for name, words in [("info", '"text-classification"'), ("metrics", "# HELP pipeline_request_seconds ")]:
            visit.page.get_by_role("link", name=name, exact=True).click()
            assert words in visit.text("dialog[open] pre")
            visit.page.keyboard.press("Escape")
            visit.page.wait_for_selector("dialog", state="detached")
        visit.page.click("#tab-Python")
        (labels,) = printed_by(visit.hidden_text("#snippet"), monkeypatch)
        assert [item.label for item in labels] == visit.texts(".answer .name")
        visit.go(url)  # without asking again
        assert visit.page.evaluate("() => [localStorage.length, document.cookie]") == [0, ""]


@pytest.mark.extended
def test_an_answer_of_an_unexpected_shape_is_shown_as_json(visit_with_errors: Visit, fake_url: str) -> None:
    visit = visit_with_errors.go(fake_url)
    visit.run(Text="a text")
    assert visit.text(".answer") == "The web UI cannot display this answer; it is below, as JSON."
    assert visit.answer() == "A TEXT"


def test_the_policy_stops_scripts_that_are_not_of_the_page(visit_with_errors: Visit, fake_url: str) -> None:
    visit = visit_with_errors.go(fake_url)
    visit.page.evaluate(
        """() => { const script = document.createElement("script"); script.textContent = "window.ran = true";
                   document.body.append(script); }"""
    )
    assert visit.page.evaluate("() => window.ran === undefined")
    assert any("Content Security Policy" in error for error in visit.errors)
