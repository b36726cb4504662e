"""The OpenAPI document is valid and true: what it allows is taken, what it does not is refused, answers are in it."""

import base64
from typing import Any

import httpx2
import pytest
import schemathesis
import schemathesis.engine
from hypothesis import strategies
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from schemathesis.engine import events
from schemathesis.schemas import BaseSchema
from starlette.routing import Route

from config import Settings
from pipeline_webserver import VERSION
from pipeline_webserver.api.openapi import FAILURES, document
from pipeline_webserver.api.schemas import MEDIA_TYPES, Facts
from pipeline_webserver.api.tasks import TASKS, Kind
from pipeline_webserver.web.responses import STATUS
from server import create_app
from tests.support.fakes import FakeRunner
from tests.support.media import file_of, noise, picture, pixels, recording
from tests.support.process import Process, serving_in_thread
from tests.support.sentences import EMBEDDING

EXAMPLES = 15  # of requests that hypothesis makes up for a route, beside those that schemathesis enumerates
FILES: dict[Kind, list[bytes]] = {
    "image": [picture(1), file_of(pixels(2), "JPEG")],
    "audio": [recording(noise(1)), recording(noise(2), kind="FLAC", subtype=None)],
}


def facts_of(task: str, *, has_key: bool = False, **more: Any) -> Facts:
    described = {"model": "m", "vocabulary": 8192, "max_tokens": 128, "embedding": None}
    of_masks = {"mask_token": "[MASK]", "max_top_k": 4096} if task == "fill-mask" else {}
    return Facts(task, TASKS[task], {**described, **of_masks, **more}, VERSION, 32, 256, has_key)


EMBEDDINGS = facts_of("feature-extraction", has_key=True, embedding={"prompts": ["query"]})


def operations(got: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By method and path."""
    found = got["paths"].items()
    return {f"{method.upper()} {path}": one for path, methods in found for method, one in methods.items()}


# The document alone


@pytest.mark.parametrize("facts", [*map(facts_of, TASKS), EMBEDDINGS], ids=[*TASKS, EMBEDDING])
def test_the_document_is_valid(facts: Facts) -> None:
    got = document(facts)
    validate(got)
    for schema in got["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("facts", [*map(facts_of, TASKS), EMBEDDINGS], ids=[*TASKS, EMBEDDING])
def test_whatever_it_refers_to_is_there_and_nothing_else_is(facts: Facts) -> None:
    got = document(facts)
    there = {f"#/components/{kind}/{name}" for kind, named in got["components"].items() for name in named}
    assert references(got) | {"#/components/securitySchemes/apiKey"} >= there
    assert references(got) <= there


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        return {value["$ref"]} if "$ref" in value else set().union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


@pytest.mark.parametrize("task", TASKS)
def test_each_parameter_of_the_task_is_described(task: str) -> None:
    properties = document(facts_of(task, embedding={"prompts": []}))["components"]["schemas"]["Parameters"][
        "properties"
    ]
    assert set(properties) == set(TASKS[task].parameters)
    assert all(value["description"] for value in properties.values())


def test_every_error_of_a_route_that_is_served_is_in_it() -> None:
    told = {(status, kind) for status, kinds, _ in FAILURES.values() for kind in kinds}
    # A route that a model does not serve is not in the document.
    assert told == set(STATUS.values()) - {(404, "not_served")} | {(500, "internal")}


def test_every_route_is_in_it_and_each_has_a_name_and_a_tag() -> None:
    routes = {
        f"{method} {route.path}"
        for route in create_app(Settings(), FakeRunner()).routes
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD"
    } - {"GET /"}  # the page is for people
    told = operations(document(EMBEDDINGS))
    assert set(told) == routes
    assert len({one["operationId"] for one in told.values()}) == len(told)
    assert {tag for one in told.values() for tag in one["tags"]} == {"inference", "operation"}


def test_embeddings_are_in_it_only_if_the_model_has_them() -> None:
    assert "POST /v1/embeddings" in operations(document(EMBEDDINGS))
    got = document(facts_of("feature-extraction"))
    assert "POST /v1/embeddings" not in operations(got)
    assert not {"normalize", "prompt_name"} & set(got["components"]["schemas"]["Parameters"]["properties"])


def test_with_an_api_key_it_says_which_routes_want_it_and_that_they_answer_401() -> None:
    got = document(EMBEDDINGS)
    assert got["components"]["securitySchemes"] == {"apiKey": {"type": "http", "scheme": "bearer"}}
    secured = {name for name, one in operations(got).items() if one["security"]}
    assert secured == {"POST /", "POST /v1/embeddings", "GET /info", "GET /metrics", "GET /openapi.json"}
    assert secured == {name for name, one in operations(got).items() if "401" in one["responses"]}
    without = operations(document(facts_of("fill-mask")))
    assert not any(one["security"] or "401" in one["responses"] for one in without.values())


@pytest.mark.parametrize(
    ("mask", "pattern"), [("[MASK]", r"\[MASK\]"), ("<mask>", "<mask>"), (r"{\m}", r"\{\\m\}"), ("*", r"\*")]
)
def test_a_text_with_masks_has_the_models_own_mask_in_it(mask: str, pattern: str) -> None:
    schema = document(facts_of("fill-mask", mask_token=mask))["components"]["schemas"]["Input"]
    assert schema == {"type": "string", "pattern": pattern}
    assert Draft202012Validator(schema).is_valid(f"a {mask} text")
    assert not Draft202012Validator(schema).is_valid("a text")


def parameters_of(task: str, **described: Any) -> Draft202012Validator:
    got = document(facts_of(task, **described))
    return Draft202012Validator({"$ref": "#/components/schemas/Parameters", "components": got["components"]})


@pytest.mark.parametrize(
    ("task", "described", "taken", "refused"),
    [
        ("fill-mask", {}, {"top_k": 4096}, {"top_k": 4097}),
        ("fill-mask", {}, {"top_k": 4097, "targets": ["a"]}, {"top_k": 4097, "targets": None}),
        ("fill-mask", {}, {"targets": ["a"]}, {"targets": [""]}),
        ("text-generation", {}, {"max_new_tokens": 256}, {"max_new_tokens": 257}),
        ("token-classification", {"max_stride": 64}, {"stride": 64}, {"stride": 65}),
        (
            "token-classification",
            {},
            {"stride": 1, "aggregation_strategy": "max"},
            {"stride": 1, "aggregation_strategy": "none"},
        ),
        (
            "zero-shot-classification",
            {},
            {"candidate_labels": ["a"], "hypothesis_template": "{{ {} }}"},
            {"candidate_labels": ["a"], "hypothesis_template": "{:>9}"},
        ),
        ("zero-shot-classification", {}, {"candidate_labels": ["a"]}, {}),
        ("image-segmentation", {"subtasks": ["semantic"]}, {"subtask": "semantic"}, {"subtask": "panoptic"}),
        (
            "automatic-speech-recognition",
            {"generates": False, "timestamps": True},
            {"return_timestamps": True},
            {"generation_parameters": {}},
        ),
        (
            "automatic-speech-recognition",
            {"generates": True, "timestamps": False},
            {"generation_parameters": {"num_beams": 8}, "return_timestamps": False},
            {"return_timestamps": True},
        ),
        ("feature-extraction", {"embedding": {"prompts": ["query"]}}, {"prompt_name": "query"}, {"prompt_name": "q"}),
        ("feature-extraction", {"embedding": {"prompts": []}}, {"prompt_name": None}, {"prompt_name": "query"}),
    ],
)
def test_what_this_model_and_server_allow_is_in_it(task: str, described: Any, taken: Any, refused: Any) -> None:
    assert parameters_of(task, **described).is_valid(taken)
    assert not parameters_of(task, **described).is_valid(refused)


# The document of a server, and the server


def fetched(url: str) -> Any:
    return httpx2.get(f"{url}/openapi.json").raise_for_status().json()


@pytest.mark.parametrize("name", [*TASKS, EMBEDDING])
def test_each_example_is_answered_as_the_document_says(name: str, every_task: Process) -> None:
    url = f"{every_task.url}/{name}"
    got = fetched(url)
    for path in got["paths"]:
        for kind, content in got["paths"][path].get("post", {}).get("requestBody", {"content": {}})["content"].items():
            if "example" not in content:
                assert content["schema"] == {"type": "string", "format": "binary"}
                continue
            body = {"json" if kind == "application/json" else "content": content["example"]}
            answer = httpx2.post(f"{url}{path}", headers={"content-type": kind}, timeout=60, **body)
            assert answer.status_code == 200, answer.text
            answered = got["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
            Draft202012Validator({**answered, "components": got["components"]}).validate(answer.json())


def takes_of(name: str) -> Kind:
    return TASKS["feature-extraction" if name == EMBEDDING else name].takes


def told_how(schema: BaseSchema, url: str, takes: Kind) -> BaseSchema:
    schema.config.update(base_url=url)
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
                made = [real(one, takes) for one in several]
                case.body = {**case.body, "inputs": made if isinstance(inputs, list) else made[0]}
            # Who waits for a millisecond is answered with 503 or 504, and rightly so.
            if "X-Request-Timeout" in case.headers:
                case.headers["X-Request-Timeout"] = "30"
        return case

    return schema


def real(value: Any, takes: Kind) -> Any:
    """A file that can be read instead of any base64, and a table with a word and columns of one length."""
    if takes in FILES:
        return base64.b64encode(FILES[takes][len(value) % 2]).decode()
    if takes == "table":
        rows = min(map(len, value["table"].values()))
        table = {"name": ["a"] * rows} | {name: cells[:rows] for name, cells in value["table"].items()}
        return {**value, "table": table}
    return value


# Of files as they are, too, some that can be read.
for kind, files in FILES.items():
    for name in MEDIA_TYPES[kind]:
        schemathesis.openapi.media_type(name, strategies.sampled_from(files))
CHOSEN = ["text-classification", "zero-shot-classification", "feature-extraction", "table-question-answering"]
# The paths that are tried of each: one server stands for all others with the routes that need no model.
EVERY = ["/", "/health", "/ready", "/info", "/metrics", "/openapi.json", "/docs"]
TRIED = {"fill-mask": EVERY, EMBEDDING: ["/v1/embeddings"]}
TRIED |= {name: ["/"] for name in [*CHOSEN, "image-classification"]}


@pytest.mark.parametrize("name", TRIED)
def test_requests_that_nobody_would_think_of_are_answered_as_the_document_says(name: str, every_task: Process) -> None:
    """All of schemathesis' checks and phases, on what the document allows and on what it does not."""
    url = f"{every_task.url}/{name}"
    api = told_how(schemathesis.openapi.from_url(f"{url}/openapi.json"), url, takes_of(name))
    statuses, wrong = tried(api.include(path=TRIED[name]))
    assert wrong == []
    assert statuses >= {200, 400, 405, 422}


def test_routes_that_want_a_key_are_closed_without_one_and_with_a_wrong_one() -> None:
    settings = Settings(api_key="secret")  # type: ignore[arg-type]
    with serving_in_thread(create_app(settings, FakeRunner())) as url:
        key = {"Authorization": "Bearer secret"}
        read = schemathesis.openapi.from_url(f"{url}/openapi.json", headers=key)
        api = told_how(read, url, "text").include(path=["/metrics", "/openapi.json"])
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
