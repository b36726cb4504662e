"""The schemas of inputs, and of what the server says of itself."""

from dataclasses import asdict
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from pipeline_webserver.api.codec import read_json, to_json
from pipeline_webserver.api.openapi import info
from pipeline_webserver.api.schemas import MEDIA_TYPES, Facts, component_schemas, info_schemas, input_schema
from pipeline_webserver.api.tasks import TASKS
from pipeline_webserver.model_info import ModelInfo, OptimizationReport
from tests.api.model_infos import embedding_info, model_info


def allows(schema: Any, value: Any, **schemas: Any) -> bool:
    return bool(Draft202012Validator({**schema, "components": {"schemas": schemas}}).is_valid(value))


def facts(task: str, known: ModelInfo) -> Facts:
    return Facts(task, TASKS[task], known, "1", max_inputs=3, max_new_tokens=9, has_key=False)


@pytest.mark.parametrize(
    ("task", "mask_token", "good", "bad"),
    [
        ("fill-mask", "<mask>", ["a <mask>"], ["a [MASK]", 5, {"text": "<mask>"}]),
        ("text-classification", None, ["", {"text": "a", "text_pair": "b"}], [{"text": "a"}, ["a"]]),
        ("zero-shot-classification", None, ["a"], [""]),
        ("text-generation", None, ["a", ""], [{"text": "a"}]),
        ("token-classification", None, ["a", ""], [{"text": "a", "text_pair": "b"}]),
        ("image-classification", None, ["AAAA", "AA==", "AAA="], ["", "A", "a text", "AA="]),
        (
            "table-question-answering",
            None,
            [{"question": "?", "table": {"a": ["1"]}}, {"query": "?", "table": {"a": ["1"]}}],
            [{"question": "?", "table": {}}, {"question": "?", "table": {"a": [1]}}, {"table": {"a": ["1"]}}],
        ),
    ],
)
def test_an_input_is_what_the_task_takes(task: str, mask_token: str | None, good: list[Any], bad: list[Any]) -> None:
    schema = input_schema(TASKS[task], model_info(mask_token=mask_token))
    assert all(allows(schema, value) for value in good)
    assert not any(allows(schema, value) for value in bad)


@pytest.mark.parametrize(
    ("mask", "pattern"), [("[MASK]", r"\[MASK\]"), ("<mask>", "<mask>"), (r"{\m}", r"\{\\m\}"), ("*", r"\*")]
)
def test_a_text_with_masks_has_the_models_own_mask_in_it(mask: str, pattern: str) -> None:
    schema = input_schema(TASKS["fill-mask"], model_info(mask_token=mask))
    assert schema == {"type": "string", "pattern": pattern}
    assert allows(schema, f"a {mask} text")
    assert not allows(schema, "a text")


def test_every_kind_of_input_has_its_media_types() -> None:
    assert set(MEDIA_TYPES) == {task.input_kind for task in TASKS.values()}


def test_a_request_has_inputs_up_to_the_limit_and_what_the_hosted_api_has_besides() -> None:
    schemas = component_schemas(facts("text-classification", model_info()))
    request = schemas["Request"]
    assert allows(request, {"inputs": ["a"] * 3, "parameters": None, "options": {"x": 1}, "stream": False}, **schemas)
    assert not allows(request, {"inputs": ["a"] * 4}, **schemas)
    assert not allows(request, {"inputs": []}, **schemas)
    assert not allows(request, {}, **schemas)
    assert not allows(request, {"inputs": "a", "top_k": 1}, **schemas)
    assert not allows(request, {"inputs": "a", "stream": 1}, **schemas)


def test_a_request_must_have_the_parameters_that_the_task_requires() -> None:
    schemas = component_schemas(facts("zero-shot-classification", model_info()))
    assert allows(schemas["Request"], {"inputs": "a", "parameters": {"candidate_labels": ["b"]}}, **schemas)
    assert not allows(schemas["Request"], {"inputs": "a"}, **schemas)


def test_parameters_may_stand_beside_the_inputs_where_the_specification_has_them_there() -> None:
    schemas = component_schemas(facts("feature-extraction", model_info(embedding=embedding_info())))
    assert allows(schemas["Request"], {"inputs": "a", "truncate": True, "parameters": {"normalize": True}}, **schemas)
    assert not allows(schemas["Request"], {"inputs": "a", "truncate": 5}, **schemas)


@pytest.mark.parametrize(
    ("value", "is_allowed"),
    [
        ("a", True),
        (["a", "b", "c"], True),
        ("", False),
        ([], False),
        (["a"] * 4, False),
        ([0, 9], False),
        ([[0], [9]], False),
    ],
)
def test_embeddings_are_of_texts(value: Any, is_allowed: bool) -> None:
    known = model_info(max_tokens=5, embedding=embedding_info())
    schemas = component_schemas(facts("feature-extraction", known))
    assert allows(schemas["EmbeddingsRequest"], {"input": value, "model": "any", "user": None}, **schemas) is is_allowed


# What `/info` answers


OPTIONAL = {
    "mask_token",
    "max_top_k",
    "max_stride",
    "embedding",
    "subtasks",
    "generates",
    "timestamps",
    "max_heard_s",
    "no_embedding",
    "task_source",
}

REPORT = OptimizationReport("unpadding", applied=True, difference=1e-7, gains={"batch": 1.5})


def allows_info(body: Any) -> bool:
    schemas = info_schemas()
    return allows(schemas["Info"], body, **schemas)


@pytest.mark.parametrize(
    "known",
    [
        model_info(),
        model_info(max_tokens=None, optimizations=[REPORT, OptimizationReport("onednn", applied=False, reason="slow")]),
        model_info(mask_token="[MASK]", max_top_k=5, versions={"torch": "2"}),
        model_info(embedding=embedding_info("query")),
        model_info(subtasks=["semantic"], generates=True, timestamps=False, max_stride=9),
    ],
    ids=["plain", "optimizations", "mask", "embedding", "media"],
)
def test_the_schema_of_info_is_that_of_what_is_answered(known: ModelInfo) -> None:
    body = read_json(to_json(info(known, {"max_inputs": 3}, "1")))
    assert allows_info(body)
    required = {name for name in body if not allows_info({key: body[key] for key in body if key != name})}
    assert required == body.keys() - OPTIONAL


def test_what_belongs_to_some_tasks_is_optional_and_never_null() -> None:
    schema = info_schemas()["Info"]
    assert set(schema["properties"]) - set(schema["required"]) == OPTIONAL
    body = read_json(to_json(info(model_info(), {}, "1")))
    assert allows_info(body)
    assert not any(allows_info({**body, name: None}) for name in OPTIONAL)


def test_a_report_of_an_optimization_has_all_of_its_fields() -> None:
    report = info_schemas()["OptimizationReport"]
    assert report["required"] == ["name", "applied", "difference", "gains", "reason"]
    assert allows(report, asdict(REPORT))
    assert not allows(report, {"name": "a", "applied": True})


@pytest.mark.parametrize(
    ("value", "is_allowed"),
    [
        ("iVBORw==", True),
        ("iVBO\r\nRw==\r\n", True),
        ("data:image/png;base64,iVBORw==", True),
        ({"image": "iVBORw=="}, True),
        ({"audio": "iVBORw=="}, False),
        ({"image": "iVBORw==", "more": 1}, False),
        ("iVBORw", False),
        ("a cat!", False),
    ],
)
def test_a_file_is_base64_in_lines_or_a_data_url_or_in_an_object(value: Any, is_allowed: bool) -> None:
    schemas = component_schemas(facts("object-detection", model_info()))
    assert allows(schemas["Request"], {"inputs": value}, **schemas) is is_allowed
