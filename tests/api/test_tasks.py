"""The contract of each task: its parameters, their ranges, and what is said of others."""

from dataclasses import fields
from typing import Any

import huggingface_hub
import pytest

from pipeline_webserver.api.tasks import GENERATION_PARAMETERS, TASKS, check
from pipeline_webserver.errors import Malformed, Rejected


@pytest.mark.parametrize("name", TASKS)
def test_every_parameter_is_one_of_the_official_specification(name: str) -> None:
    task = TASKS[name]
    if name != "image-feature-extraction":  # it has none
        assert task.specification.__module__.startswith(huggingface_hub.__name__)
    assert set(task.parameters) <= {field.name for field in fields(task.specification)}
    assert set(task.model.model_fields) == set(task.parameters)


@pytest.mark.parametrize(
    ("task", "given", "wanted"),
    [
        ("fill-mask", {"top_k": 3, "targets": None}, {"top_k": 3}),
        ("feature-extraction", {"truncate": True, "normalize": False}, {"truncation": True, "normalize": False}),
        (
            "text-generation",
            {"stop": ["."], "temperature": 1, "seed": 0},
            {"stop_sequence": ["."], "temperature": 1.0, "seed": 0},
        ),
        (
            "automatic-speech-recognition",
            {"generation_parameters": {"num_beams": 2, "top_p": None}, "return_timestamps": True},
            {"generate_kwargs": {"num_beams": 2}, "return_timestamps": True},
        ),
        ("object-detection", {"threshold": 0}, {"threshold": 0.0}),
        ("image-feature-extraction", {"pool": True}, {"pool": True}),
    ],
)
def test_parameters_reach_the_pipeline_by_its_own_names(task: str, given: Any, wanted: Any) -> None:
    assert check(given, TASKS[task]) == wanted


@pytest.mark.parametrize(
    ("task", "given", "error", "words"),
    [
        (
            "text-generation",
            {"best_of": 2},
            Rejected,
            "Unknown parameter 'best_of'; this pipeline takes do_sample, max_new_tokens, temperature, top_k, top_p, "
            "typical_p, stop, repetition_penalty, return_full_text, seed.",
        ),
        (
            "automatic-speech-recognition",
            {"generation_parameters": {"use_cache": False}},
            Rejected,
            "Unknown parameter 'generation_parameters.use_cache'; "
            f"this pipeline takes {', '.join(GENERATION_PARAMETERS)}.",
        ),
        (
            "text-generation",
            {"temperature": 0},
            Rejected,
            "Parameter 'temperature': Input should be greater than or equal to 0.01.",
        ),
        ("text-generation", {"top_p": 1.1}, Rejected, "Parameter 'top_p': Input should be less than or equal to 1."),
        ("text-generation", {"typical_p": 0}, Rejected, "Parameter 'typical_p': Input should be greater than 0."),
        (
            "text-generation",
            {"max_new_tokens": 0},
            Rejected,
            "Parameter 'max_new_tokens': Input should be greater than or equal to 1.",
        ),
        (
            "text-generation",
            {"stop": ["a"] * 5},
            Rejected,
            "Parameter 'stop': List should have at most 4 items after validation, not 5.",
        ),
        ("text-generation", {"stop": [""]}, Rejected, "Parameter 'stop': String should have at least 1 character."),
        ("text-generation", {"stop": "a"}, Malformed, "Parameter 'stop': Input should be a valid list."),
        ("text-generation", {"seed": 2**63}, Rejected, f"Parameter 'seed': Input should be less than {2**63}."),
        (
            "automatic-speech-recognition",
            {"generation_parameters": {"num_beams": 9}},
            Rejected,
            "Parameter 'generation_parameters.num_beams': Input should be less than or equal to 8.",
        ),
        (
            "automatic-speech-recognition",
            {"return_timestamps": "word"},
            Malformed,
            "Parameter 'return_timestamps': Input should be a valid boolean.",
        ),
        (
            "object-detection",
            {"threshold": 1.5},
            Rejected,
            "Parameter 'threshold': Input should be less than or equal to 1.",
        ),
        (
            "image-segmentation",
            {"subtask": "best"},
            Rejected,
            "Parameter 'subtask': Input should be 'instance', 'panoptic' or 'semantic'.",
        ),
        (
            "table-question-answering",
            {"padding": True},
            Rejected,
            "Parameter 'padding': Input should be 'do_not_pad', 'longest' or 'max_length'.",
        ),
        ("zero-shot-image-classification", {}, Rejected, "Parameter 'candidate_labels': Field required."),
        ("image-feature-extraction", {"Top_K": 1}, Rejected, "Unknown parameter 'Top_K'; this pipeline takes pool."),
    ],
)
def test_what_is_unknown_or_out_of_range_is_named_and_what_is_allowed_is_told(
    task: str, given: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as refused:
        check(given, TASKS[task])
    assert str(refused.value) == words


def test_files_may_be_larger_than_texts() -> None:
    assert {TASKS[name].max_body_bytes for name in ("fill-mask", "table-question-answering")} == {2**20}
    assert {task.max_body_bytes for task in TASKS.values() if task.takes in {"image", "audio"}} == {2**24}
