"""The documentation page: everything that openapi.json has, with calls that run."""

from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from config import Settings
from server import create_app
from tests.e2e.web_ui.snippets import result_of_shell
from tests.support.browser import Visit
from tests.support.fakes import FakeRunner
from tests.support.media import noise, picture, recording
from tests.support.process import serving_in_thread
from tests.support.sentences import EMBEDDING


@pytest.mark.parametrize(
    "name",
    [
        EMBEDDING,
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
    (tmp_path / "FILE").write_bytes(recording(noise(1)) if "speech" in name else picture(1))
    calls = [call for call in visit.texts("#routes pre") if " -d " in call or "@FILE" in call]
    assert len(calls) == sum(route.startswith("POST") for route in routes) + 1  # raw and as JSON
    assert [call for call in calls if "error" in result_of_shell(call, tmp_path)] == []


def test_the_documentation_asks_for_the_api_key(visit_with_errors: Visit) -> None:
    visit = visit_with_errors
    with serving_in_thread(create_app(Settings(api_key="secret"), FakeRunner())) as url:  # type: ignore[arg-type]
        visit.page.goto(f"{url}/docs")
        visit.page.get_by_label("API key").fill("secret")
        visit.page.keyboard.press("Enter")
        visit.wait_for("#schemas:not([hidden])")
        assert visit.page.is_hidden("#key")
        assert f'curl -H "Authorization: Bearer $KEY" {url}/info' in visit.texts("#routes pre")
