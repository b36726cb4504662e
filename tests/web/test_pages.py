"""How the web UI and the documentation page are served, without a browser."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from config import Settings
from pipeline_webserver.api.tasks import TASKS
from pipeline_webserver.web.pages import FOLDER, TYPES, wants_page
from server import create_app
from tests.support.fakes import FakeRunner

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
CODE = sorted(FOLDER.glob("*.*s"))


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(Settings(api_key=(SecretStr("secret"),)), FakeRunner())) as opened:
        yield opened


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (BROWSER["accept"], True),
        ("TEXT/HTML", True),
        ("application/json, text/html;q=0.5", True),
        ("text/html;q=0", False),
        ("text/html; q=0.0, */*", False),
        ("*/*", False),
        ("application/json", False),
        ("text/htmlx", False),
        ("", False),
    ],
)
def test_a_client_that_accepts_html_wants_the_page(accept: str, wanted: bool) -> None:
    assert wants_page(accept) is wanted


def test_a_browser_gets_the_web_ui_and_any_other_client_a_hint(client: TestClient) -> None:
    page = client.get("/", headers=BROWSER)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.content == (FOLDER / "index.html").read_bytes()
    program = client.get("/")
    assert (program.status_code, program.headers["allow"]) == (405, "POST")
    assert program.json()["error_type"] == "method_not_allowed"
    assert re.match(r"Method Not Allowed: GET /\. Send .* with POST to /\.", program.json()["error"])
    assert page.headers["vary"] == program.headers["vary"] == "Accept"


@pytest.mark.parametrize("path", ["/", *(f"/static/{file.name}" for file in sorted(FOLDER.iterdir()))])
def test_a_file_has_its_type_and_a_strict_policy_and_is_sent_once(path: str, client: TestClient) -> None:
    first = client.get(path, headers=BROWSER)
    assert first.status_code == 200
    assert first.headers["content-type"] == TYPES[Path(path).suffix or ".html"]
    assert first.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; ")
    assert "unsafe" not in first.headers["content-security-policy"]
    assert (first.headers["x-content-type-options"], first.headers["cache-control"]) == ("nosniff", "no-cache")
    again = client.get(path, headers={**BROWSER, "if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["cache-control"] == "no-cache"


def test_the_pages_need_no_key_and_the_api_does(client: TestClient) -> None:
    assert client.get("/docs").status_code == 200
    assert client.get("/info").status_code == 401
    assert client.get("/info").headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["", "/", "/nothing.js", "/../pages.py", "/%2e%2e/pages.py", "/%00", "/..%5cpages.py"])
def test_nothing_but_the_files_is_served(path: str, client: TestClient) -> None:
    response = client.get(f"/static{path}")
    assert (response.status_code, response.json()["error_type"]) == (404, "not_found")


def test_files_cannot_be_written(client: TestClient) -> None:
    response = client.put("/static/home.js", content=b"x")
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")


def faults_of_code(file: Path) -> list[str]:
    text = file.read_text()
    opening = re.match(r"/\* (.*?) \*/", text, re.DOTALL)
    checks = {
        "an opening paragraph": opening is not None and len(opening[1].split()) > 10,
        "what it must never know": opening is not None and "must never" in " ".join(opening[1].split()),
        "no address of another place": set(re.findall(r"https?://[^\"'`\s]+", text)) <= {"http://www.w3.org/2000/svg"},
        "no HTML in strings": "innerHTML" not in text,
        "only imports of files that exist": all(
            (FOLDER / name).exists() for name in re.findall(r' from "\./(.*)";', text)
        ),
    }
    return [what for what, holds in checks.items() if not holds]


def test_every_script_and_style_opens_with_what_it_owns_and_loads_nothing_from_elsewhere() -> None:
    assert len(CODE) > 10
    assert {file.name: faults for file in CODE if (faults := faults_of_code(file))} == {}


def test_a_task_has_its_place_in_one_script() -> None:
    naming = {file.name for file in CODE for task in TASKS if f'"{task}"' in file.read_text()}
    assert naming == {"tasks.js"}
