"""What a task takes and answers, in JSON Schema."""

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from pipeline_webserver.api.schemas import DESCRIPTIONS, ITEMS, Facts, answers, input_schema, parameter_schemas
from pipeline_webserver.api.tasks import TASKS

A_LABEL: dict[str, object] = {"candidate_labels": ["a"]}


def facts(task: str, **described: Any) -> Facts:
    told = {"mask_token": "<mask>", "embedding": None, **described}
    return Facts(task, TASKS[task], told | ({"max_top_k": 100} if task == "fill-mask" else {}), "1", 3, 9, False)


def allows(schema: Any, value: Any) -> bool:
    return bool(Draft202012Validator(schema).is_valid(value))


@pytest.mark.parametrize(
    ("task", "good", "bad"),
    [
        ("fill-mask", ["a <mask>"], ["a [MASK]", 5, {"text": "<mask>"}]),
        ("text-classification", ["", {"text": "a", "text_pair": "b"}], [{"text": "a"}, ["a"]]),
        ("zero-shot-classification", ["a"], [""]),
        ("image-classification", ["AAAA", "AA==", "AAA="], ["", "A", "a text", "AA="]),
        (
            "table-question-answering",
            [{"question": "?", "table": {"a": ["1"]}}],
            [{"question": "?", "table": {}}, {"question": "?", "table": {"a": [1]}}, {"table": {"a": ["1"]}}],
        ),
    ],
)
def test_an_input_is_what_the_task_takes(task: str, good: list[Any], bad: list[Any]) -> None:
    schema = input_schema(facts(task))
    assert all(allows(schema, value) for value in good)
    assert not any(allows(schema, value) for value in bad)


@pytest.mark.parametrize(
    ("task", "good", "bad"),
    [
        ("fill-mask", {"top_k": 100, "targets": None}, {"top_k": 101}),
        ("text-generation", {"max_new_tokens": 9, "stop": ["a"]}, {"max_new_tokens": 10}),
        ("text-generation", {"top_k": 10_000}, {"stop": [""]}),
        ("zero-shot-classification", {"candidate_labels": ["a"]}, {}),
        (
            "zero-shot-classification",
            {"candidate_labels": ["a"], "hypothesis_template": "{{ {} }}"},
            {"candidate_labels": []},
        ),
        (
            "zero-shot-classification",
            {"candidate_labels": ["a"]},
            {"candidate_labels": ["a"], "hypothesis_template": "{0}"},
        ),
        ("feature-extraction", {"truncate": True}, {"normalize": True}),
    ],
)
def test_parameters_have_the_limits_of_server_and_model(task: str, good: Any, bad: Any) -> None:
    schemas = parameter_schemas(facts(task))
    schema = {**schemas.pop("Parameters"), "components": {"schemas": schemas}}
    assert allows(schema, good)
    assert not allows(schema, bad)


def test_prompts_are_those_that_the_model_has() -> None:
    properties = parameter_schemas(facts("feature-extraction", embedding={"prompts": ["query"]}))["Parameters"][
        "properties"
    ]
    assert allows(properties["prompt_name"], "query")
    assert not allows(properties["prompt_name"], "passage")
    assert "normalize" in properties


@pytest.mark.parametrize("task", TASKS)
def test_every_parameter_is_described_and_every_task_has_an_answer(task: str) -> None:
    for schema in parameter_schemas(facts(task, embedding={"prompts": []})).values():
        assert set(schema.get("properties", {})) <= set(DESCRIPTIONS)
    assert task in ITEMS
    assert answers(task)
