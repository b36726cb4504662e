"""The OpenAPI document is valid and whole, and says what the loaded model and this server allow."""

from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from pipeline_webserver.api.codec import TIMEOUT_PATTERN
from pipeline_webserver.api.openapi import document, info, usage
from pipeline_webserver.api.schemas import Facts
from pipeline_webserver.api.tasks import TASKS
from tests.api.model_infos import embedding_info, model_info


def facts_of(task: str, *, has_key: bool = False, **more: Any) -> Facts:
    masks = {"mask_token": "[MASK]", "max_top_k": 4096} if task == "fill-mask" else {}
    return Facts(task, TASKS[task], model_info(**masks, **more), "1.2.3", 32, 256, has_key)


EMBEDDINGS = facts_of("feature-extraction", has_key=True, embedding=embedding_info("query"))
ALL_FACTS = [*map(facts_of, TASKS), EMBEDDINGS]
NAMES = [*TASKS, "embeddings"]


def operations(got: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By method and path."""
    found = got["paths"].items()
    return {f"{method.upper()} {path}": one for path, methods in found for method, one in methods.items()}


@pytest.mark.parametrize("facts", ALL_FACTS, ids=NAMES)
def test_the_document_is_valid(facts: Facts) -> None:
    got = document(facts)
    validate(got)
    for schema in got["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("facts", ALL_FACTS, ids=NAMES)
def test_whatever_it_refers_to_is_there_and_nothing_else_is(facts: Facts) -> None:
    got = document(facts)
    there = {f"#/components/{kind}/{name}" for kind, named in got["components"].items() for name in named}
    assert references(got) | {"#/components/securitySchemes/apiKey"} >= there
    assert references(got) <= there


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        return {value["$ref"]} if "$ref" in value else set().union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


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


def test_routes_that_run_the_model_have_every_error_and_probes_have_only_503() -> None:
    statuses = {name: set(one["responses"]) for name, one in operations(document(EMBEDDINGS)).items()}
    every = {"200", "400", "401", "408", "413", "415", "422", "500", "503", "504"}
    assert statuses["POST /"] == statuses["POST /v1/embeddings"] == every
    assert statuses["GET /health"] == statuses["GET /ready"] == {"200", "503"}
    assert statuses["GET /info"] == statuses["GET /openapi.json"] == {"200", "401", "503"}
    assert (statuses["GET /metrics"], statuses["GET /docs"]) == ({"200", "401"}, {"200"})


def test_the_title_is_the_task_with_the_model_and_the_version_is_that_of_the_server() -> None:
    got = document(facts_of("text-classification"))["info"]
    assert (got["title"], got["version"]) == ("text-classification with a name", "1.2.3")


def test_every_media_type_of_a_request_has_an_example_but_a_file_as_it_is() -> None:
    content = document(facts_of("fill-mask"))["paths"]["/"]["post"]["requestBody"]["content"]
    example = "Paris is the [MASK] of France."
    assert {kind: form["example"] for kind, form in content.items()} == {
        "text/plain": example,
        "application/json": {"inputs": example},
    }
    content = document(facts_of("object-detection"))["paths"]["/"]["post"]["requestBody"]["content"]
    assert content["image/png"] == {"schema": {"type": "string", "format": "binary"}}


def test_a_task_with_required_parameters_has_no_raw_form_and_an_example_with_them() -> None:
    content = document(facts_of("zero-shot-image-classification"))["paths"]["/"]["post"]["requestBody"]["content"]
    assert list(content) == ["application/json"]
    example = content["application/json"]["example"]
    assert example["parameters"] == {"candidate_labels": ["technology", "sports"]}


@pytest.mark.parametrize(("seconds", "is_valid"), [("2.5", True), ("30", True), ("0", False), ("0.0", False)])
def test_a_timeout_is_a_number_of_seconds_over_0(seconds: str, is_valid: bool) -> None:
    assert Draft202012Validator({"pattern": TIMEOUT_PATTERN}).is_valid(seconds) is is_valid


# `/info`


def test_info_is_the_model_the_limits_and_the_version() -> None:
    known = model_info(mask_token="[MASK]")
    assert info(known, {"max_inputs": 7, "max_body_bytes": 5}, "1.2.3") == {
        "model": "m",
        "name": "a name",
        "task": "t",
        "device": "cpu",
        "dtype": "float32",
        "threads": 1,
        "max_tokens": 128,
        "batching": {"strategy": "alone", "reason": None, "put_back": ()},
        "optimizations": (),
        "versions": {},
        "mask_token": "[MASK]",
        "limits": {"max_inputs": 7, "max_body_bytes": 5},
        "version": "1.2.3",
    }


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("text-generation", "Send your text with POST to /."),
        ("object-detection", "Send your image with POST to /."),
        ("audio-classification", "Send your recording with POST to /."),
        ("table-question-answering", "Send your table and question as application/json with POST to /."),
        ("zero-shot-classification", "Send your text and candidate_labels as application/json with POST to /."),
        ("zero-shot-image-classification", "Send your image and candidate_labels as application/json with POST to /."),
    ],
)
def test_the_usage_says_what_the_task_takes(task: str, words: str) -> None:
    assert usage(facts_of(task), "").startswith(f"{words} There are POST /, GET /health,")


def test_the_usage_has_the_route_of_embeddings_where_there_are_some() -> None:
    assert "POST /v1/embeddings," in usage(EMBEDDINGS, "")
    assert "/v1/embeddings" not in usage(facts_of("feature-extraction"), "")


def test_the_usage_has_the_paths_that_a_client_has_to_use_behind_a_prefix() -> None:
    assert usage(EMBEDDINGS, "/api").startswith(
        "Send your text with POST to /api/. There are POST /api/, POST /api/v1/embeddings, GET /api/health,"
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_body_is_required_as_an_empty_one_is_refused(name: str) -> None:
    body = document(ALL_FACTS[NAMES.index(name)])["paths"]["/"]["post"]["requestBody"]
    assert body["required"] is True
    assert body["content"].get("text/plain", {"schema": {"minLength": 1}})["schema"]["minLength"] == 1
