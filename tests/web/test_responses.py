"""From errors to responses: status, type, and a text that says what was wrong."""

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from config import Settings
from pipeline_webserver.model_info import ModelInfo
from pipeline_webserver.web import responses
from server import create_app
from tests.support.asgi import JSON, play, post
from tests.support.fakes import FakeRunner

USAGE = (
    "Send your text with POST to /. There are POST /, GET /health, GET /ready, GET /info, GET /metrics, "
    "GET /openapi.json, GET /docs."
)


@pytest.mark.parametrize(
    ("status", "error_type", "words", "request_"),
    [
        (400, "malformed", "not UTF-8", {"content": b"\xff"}),
        (400, "malformed", "not JSON", {"content": b"{", "headers": JSON}),
        (404, "not_served", "this server runs fake for fill-mask", {"url": "/v1/embeddings", "json": {"input": "a"}}),
        (413, "too_large", "The body has 101 bytes; the limit is 100.", {"content": b"a" * 101}),
        (413, "too_large", "The request has 4 inputs; the limit is 3.", {"json": {"inputs": ["a"] * 4}}),
        (415, "unsupported_media_type", "image/png", {"content": b"a", "headers": {"content-type": "image/png"}}),
        (422, "rejected", "bad is rejected", {"content": b"bad"}),
        (422, "rejected", "inputs[1]: bad is rejected", {"json": {"inputs": ["a", "bad", "poison"]}}),
        (422, "rejected", "Unknown parameter", {"json": {"inputs": "a", "parameters": {"x": 1}}}),
        (500, "inference_failed", "It failed.", {"content": b"poison"}),
        (500, "inference_failed", "inputs[2]: It failed.", {"json": {"inputs": ["a", "b", "poison"]}}),
        (404, "not_found", f"Not Found: POST /nowhere. {USAGE}", {"url": "/nowhere"}),
        (405, "method_not_allowed", f"Method Not Allowed: PUT /. {USAGE}", {"method": "PUT"}),
        (405, "method_not_allowed", f"Method Not Allowed: GET /. {USAGE}", {"method": "GET"}),
    ],
)
def test_each_error_has_its_status_its_type_and_a_text_that_says_what_was_wrong(
    status: int, error_type: str, words: str, request_: dict[str, Any], client: TestClient
) -> None:
    response = client.request(**{"method": "POST", "url": "/", **request_})
    body = response.json()
    message = body["error"]["message"] if request_.get("url") == "/v1/embeddings" else body["error"]
    assert response.status_code == status
    assert body.keys() == {"error", "error_type"}
    assert body["error_type"] == error_type
    assert words in message


def test_the_paths_of_openais_api_have_its_form_of_errors(client: TestClient) -> None:
    body = client.post("/v1/embeddings", json={"input": "a"}).json()
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert (body["error"]["type"], body["error_type"]) == ("not_served", "not_served")


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/completions"])
def test_a_route_of_openais_api_that_is_not_served_is_answered_with_those_that_are(
    path: str, client: TestClient
) -> None:
    response = client.post(path, json={"input": "a", "prompt": "a"})
    assert response.status_code == 404
    assert response.json()["error"]["message"].endswith(f". {USAGE}")


def test_details_of_a_failure_go_to_the_log_under_the_request_id_and_to_clients_only_by_a_setting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def hidden(app: Starlette, runner: FakeRunner) -> None:
        reply = await post(app, b"poison", {"X-Request-ID": "case-7"})
        assert reply.json()["error"] == "It failed."
        (record,) = [record for record in caplog.records if record.name == responses.__name__]
        assert (record.levelname, record.getMessage()) == ("ERROR", "The model failed on request case-7")
        assert record.exc_info is not None
        assert str(record.exc_info[1]) == "the tensors do not fit"

    async def shown(app: Starlette, runner: FakeRunner) -> None:
        assert (await post(app, b"poison")).json()["error"] == "It failed. RuntimeError: the tensors do not fit"

    play(hidden)
    play(shown, show_errors=True)


def test_a_bug_of_ours_is_a_500_that_gives_nothing_away() -> None:
    class Unspeakable(FakeRunner):
        @property
        def info(self) -> ModelInfo:
            versions: dict[str, Any] = {"secret path": object()}  # JSON cannot express this
            return ModelInfo(
                model="fake", name="fake", task="fill-mask", device="", dtype="", threads=1, versions=versions
            )

    with TestClient(create_app(Settings(), Unspeakable()), raise_server_exceptions=False) as client:
        response = client.get("/info")
    assert (response.status_code, response.json()["error_type"]) == (500, "internal")
    assert "secret" not in response.text
    assert response.headers["x-request-id"]
    assert response.headers["cache-control"] == "no-store"


def test_what_is_not_there_is_a_404_that_names_the_routes_to_openais_clients_too(client: TestClient) -> None:
    for path in ("/v1/completions", "/v1/chat/completions"):
        body = client.post(path, json={"prompt": "a"}).json()
        assert body["error"]["message"] == f"Not Found: POST {path}. {USAGE}"


def test_before_the_model_is_loaded_a_404_says_that_the_server_is_starting() -> None:
    client = TestClient(create_app(Settings(), FakeRunner()))  # as behind a server that listens before the start
    response = client.post("/nowhere")
    message = "Not Found: POST /nowhere. The server is starting: the model is not loaded yet."
    assert (response.status_code, response.json()["error"]) == (404, message)
