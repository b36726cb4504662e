"""The schemas of parameters have the limits of this server and of the loaded model."""

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from pipeline_webserver.api.parameter_schemas import DESCRIPTIONS, NOTHING, parameter_schemas
from pipeline_webserver.api.tasks import TASKS
from pipeline_webserver.model_info import ModelInfo
from tests.api.model_infos import embedding_info, model_info

MASKS = {"mask_token": "[MASK]", "max_top_k": 4096}


def schemas_of(task: str, known: ModelInfo) -> dict[str, Any]:
    return parameter_schemas(TASKS[task], known, max_new_tokens=256)


def parameters_of(task: str, **known: Any) -> Draft202012Validator:
    components = {"schemas": schemas_of(task, model_info(**known))}
    return Draft202012Validator({"$ref": "#/components/schemas/Parameters", "components": components})


@pytest.mark.parametrize(
    ("task", "known", "taken", "refused"),
    [
        ("fill-mask", MASKS, {"top_k": 4096}, {"top_k": 4097}),
        ("fill-mask", MASKS, {"top_k": 4097, "targets": ["a"]}, {"top_k": 4097, "targets": None}),
        ("fill-mask", {}, {"targets": ["a"]}, {"targets": [""]}),
        ("fill-mask", MASKS, {"top_k": 4096, "targets": None}, {"top_k": 4097}),
        ("text-generation", {}, {"max_new_tokens": 256}, {"max_new_tokens": 257}),
        ("text-generation", {}, {"max_new_tokens": 256, "stop": ["a"]}, {"stop": [""]}),
        ("text-generation", {}, {"top_k": 10_000}, {"top_k": 0}),
        ("feature-extraction", {}, {"truncate": True}, {"normalize": True}),
        ("feature-extraction", {"embedding": embedding_info()}, {"normalize": True}, {"normalize": 1}),
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
        ("feature-extraction", {"embedding": embedding_info("query")}, {"prompt_name": "query"}, {"prompt_name": "q"}),
        ("feature-extraction", {"embedding": embedding_info()}, {"prompt_name": None}, {"prompt_name": "query"}),
    ],
)
def test_what_this_model_and_server_allow_is_in_it(task: str, known: Any, taken: Any, refused: Any) -> None:
    assert parameters_of(task, **known).is_valid(taken)
    assert not parameters_of(task, **known).is_valid(refused)


@pytest.mark.parametrize("task", TASKS)
def test_each_parameter_of_the_task_is_in_it_and_is_described(task: str) -> None:
    schemas = schemas_of(task, model_info(embedding=embedding_info()))
    assert set(schemas["Parameters"]["properties"]) == set(TASKS[task].parameters_model.model_fields)
    for schema in schemas.values():
        for name, value in schema["properties"].items():
            assert value["description"] == DESCRIPTIONS.get(name, NOTHING)


def test_every_description_is_of_a_parameter() -> None:
    schemas = [schema for task in TASKS for schema in schemas_of(task, model_info(embedding=embedding_info())).values()]
    described = {
        name for schema in schemas for name, part in schema["properties"].items() if part["description"] != NOTHING
    }
    assert set(DESCRIPTIONS) == described


def test_without_embeddings_there_are_no_parameters_of_embeddings() -> None:
    schemas = schemas_of("feature-extraction", model_info())
    assert set(schemas["Parameters"]["properties"]) == {"truncate", "truncation_direction", "encoding_format"}


def test_a_model_that_does_not_generate_has_no_generation_parameters() -> None:
    assert list(schemas_of("automatic-speech-recognition", model_info(generates=False))) == ["Parameters"]
    assert list(schemas_of("automatic-speech-recognition", model_info(generates=True))) == [
        "AutomaticSpeechRecognitionGenerationParameters",
        "Parameters",
    ]
