"""The OpenAPI document of a server is true: it allows what is accepted, and nothing else; the answers are in it."""

import base64
from typing import Any

import pytest
import schemathesis
import schemathesis.engine
from hypothesis import strategies
from jsonschema import Draft202012Validator
from schemathesis.engine import events
from schemathesis.schemas import BaseSchema
from starlette.routing import Route

from config import Settings
from pipeline_webserver.api.openapi import document
from pipeline_webserver.api.schemas import MEDIA_TYPES
from pipeline_webserver.api.tasks import TASKS, InputKind
from server import create_app
from tests.api.test_openapi import EMBEDDINGS, operations
from tests.support.fakes import FakeRunner
from tests.support.media import file_of, noise, picture, pixels, recording
from tests.support.process import Process, serving_in_thread
from tests.support.sentences import EMBEDDING

EXAMPLES = 15  # of requests that hypothesis makes up for a route, beside those that schemathesis enumerates
TIMEOUT_S = 60.0  # on a machine that is busy with other work
FILES: dict[InputKind, list[bytes]] = {
    "image": [picture(1), file_of(pixels(2), "JPEG")],
    "audio": [recording(noise(1)), recording(noise(2), kind="FLAC", subtype=None)],
}


def test_every_route_is_in_it_and_each_has_a_name_and_a_tag() -> None:
    routes = {
        f"{method} {route.path}"
        for route in create_app(Settings(), FakeRunner()).routes
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD"
    } - {"GET /"}  # the web UI is for people
    documented = operations(document(EMBEDDINGS))
    assert set(documented) == routes
    assert len({one["operationId"] for one in documented.values()}) == len(documented)
    assert {tag for one in documented.values() for tag in one["tags"]} == {"inference", "operation"}


@pytest.mark.parametrize("name", [*TASKS, EMBEDDING])
def test_each_example_is_answered_as_the_document_says(name: str, every_task: Process) -> None:
    url = f"{every_task.url}/{name}"
    got = every_task.get(f"/{name}/openapi.json").raise_for_status().json()
    for path in got["paths"]:
        for kind, content in got["paths"][path].get("post", {}).get("requestBody", {"content": {}})["content"].items():
            if "example" not in content:
                assert content["schema"] == {"type": "string", "format": "binary"}
                continue
            body = {"json" if kind == "application/json" else "content": content["example"]}
            answer = every_task.client.post(f"{url}{path}", headers={"content-type": kind}, **body)
            assert answer.status_code == 200, answer.text
            answered = got["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
            Draft202012Validator({**answered, "components": got["components"]}).validate(answer.json())


def input_kind_of(name: str) -> InputKind:
    return TASKS["feature-extraction" if name == EMBEDDING else name].input_kind


def configured(schema: BaseSchema, url: str, input_kind: InputKind) -> BaseSchema:
    schema.config.update(base_url=url, request_timeout=TIMEOUT_S)
    schema.config.generation.update(max_examples=EXAMPLES, deterministic=True, database="none")
    # Over a limit is 413 here, also where it is the number of inputs.
    schema.config.checks.negative_data_rejection.expected_statuses.append("413")

    @schema.hook("map_case")
    def beyond_json_schema(context: Any, case: Any) -> Any:
        """What a valid request has to be besides, and JSON Schema cannot say."""
        if case.meta.generation.mode.is_positive:
            if isinstance(case.body, dict) and "inputs" in case.body:
                inputs = case.body["inputs"]
                several = inputs if isinstance(inputs, list) else [inputs]
                made = [real(one, input_kind) for one in several]
                case.body = {**case.body, "inputs": made if isinstance(inputs, list) else made[0]}
            # With a time-out of a millisecond the answer is 503 or 504, and rightly so.
            if "X-Request-Timeout" in case.headers:
                case.headers["X-Request-Timeout"] = "30"
        return case

    return schema


def real(value: Any, input_kind: InputKind) -> Any:
    """A file that can be read instead of any base64, and a table with a word and columns of one length."""
    if input_kind in FILES:
        return base64.b64encode(FILES[input_kind][len(value) % 2]).decode()
    if input_kind == "table":
        rows = min(map(len, value["table"].values()))
        table = {"name": ["a"] * rows} | {name: cells[:rows] for name, cells in value["table"].items()}
        return {**value, "table": table}
    return value


# Of files as they are, too, some that can be read.
for kind, files in FILES.items():
    for name in MEDIA_TYPES[kind]:
        schemathesis.openapi.media_type(name, strategies.sampled_from(files))
CHOSEN = ["text-classification", "zero-shot-classification", "feature-extraction", "table-question-answering"]
# One server stands for all others with the routes that need no model.
MODEL_FREE = ["/health", "/ready", "/info", "/metrics", "/openapi.json", "/docs"]


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("fill-mask", ["/"]),
        (EMBEDDING, ["/v1/embeddings"]),
        *(pytest.param(name, ["/"], marks=pytest.mark.extended) for name in [*CHOSEN, "image-classification"]),
    ],
)
def test_generated_requests_are_answered_as_the_document_says(name: str, paths: list[str], every_task: Process) -> None:
    """All of schemathesis' checks and phases, on what the document allows and on what it does not."""
    assert generated(every_task, name, paths) >= {200, 400, 405, 422}


@pytest.mark.extended
def test_generated_requests_that_need_no_model_are_answered_as_the_document_says(every_task: Process) -> None:
    assert generated(every_task, "fill-mask", MODEL_FREE) >= {200, 405}


def generated(every_task: Process, name: str, paths: list[str]) -> set[int]:
    """The statuses of the answers, which are all as the document says."""
    url = f"{every_task.url}/{name}"
    api = configured(schemathesis.openapi.from_url(f"{url}/openapi.json"), url, input_kind_of(name))
    statuses, wrong = tried(api.include(path=paths))
    assert wrong == []
    return statuses


def test_routes_that_want_a_key_are_closed_without_one_and_with_a_wrong_one() -> None:
    settings = Settings(api_key="secret")  # type: ignore[arg-type]
    with serving_in_thread(create_app(settings, FakeRunner())) as url:
        key = {"Authorization": "Bearer secret"}
        read = schemathesis.openapi.from_url(f"{url}/openapi.json", headers=key)
        api = configured(read, url, "text").include(path=["/metrics", "/openapi.json"])
        assert tried(api) == ({401, 405}, [])
        api.config.update(headers=key)
        assert tried(api) == ({200, 401, 405}, [])


def tried(api: BaseSchema) -> tuple[set[int], list[str]]:
    """The statuses that there were, and what was wrong."""
    statuses, wrong = set(), []
    for event in schemathesis.engine.from_schema(api).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            wrong.append(str(event))
        if isinstance(event, events.ScenarioFinished):
            answers = [one.response for one in event.recorder.interactions.values()]
            statuses |= {answer.status_code for answer in answers if answer is not None}
            failures = [one.failure_info for many in event.recorder.checks.values() for one in many]
            wrong += [f"{one.failure}\n{one.code_sample}" for one in failures if one is not None]
    return statuses, wrong
