"""The pages for browsers load nothing from elsewhere, and need no key."""

import re
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from config import Settings
from page import FOLDER
from server import create_app
from tests.fakes import FakeRunner


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(create_app(Settings.model_validate({"api_key": "secret"}), FakeRunner())) as client:
        yield client


PAGES = sorted(path.name for path in FOLDER.glob("*.html"))
FILES = sorted(path.name for path in FOLDER.iterdir())


def test_the_documentation_is_a_page_with_a_strict_policy_and_needs_no_key(client: TestClient) -> None:
    answer = client.get("/docs")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';")
    assert "unsafe" not in policy


@pytest.mark.parametrize("name", FILES)
def test_each_file_is_served_with_its_type_and_the_policy(name: str, client: TestClient) -> None:
    answer = client.get(f"/static/{name}")
    assert answer.content == (FOLDER / name).read_bytes()
    kind = {"html": "text/html", "js": "text/javascript", "css": "text/css"}[name.rpartition(".")[2]]
    assert answer.headers["content-type"].startswith(kind)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("path", ["/static/none.js", "/static/../server.py", "/static/%2e%2e/server.py", "/static/"])
def test_nothing_but_those_files_is_served(path: str, client: TestClient) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_loaded_from_elsewhere_nor_run_inline(name: str) -> None:
    text = (FOLDER / name).read_text()
    assert not re.findall(r"""(?:src|href|from|url\()\s*=?\s*["']?(?:https?:)?//""", text)
    if name in PAGES:
        assert not re.findall(r"<script(?![^>]*src=)|<style|\son\w+=|\sstyle=", text)
    assert "innerHTML" not in text
