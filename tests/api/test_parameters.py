"""The parameters of each task: their types, their ranges, and the messages about others."""

from typing import Any

import pytest

from pipeline_webserver.api.parameters import (
    GENERATION_PARAMETERS,
    check_parameters,
    integral_float_to_int,
    plain_template,
)
from pipeline_webserver.api.tasks import TASKS
from pipeline_webserver.errors import Malformed, Rejected


def check(given: Any, task: str) -> dict[str, object]:
    return check_parameters(given, TASKS[task].parameters, TASKS[task].parameters_model)


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
def test_parameters_reach_the_pipeline_by_its_own_names_and_null_means_left_out(
    task: str, given: Any, wanted: Any
) -> None:
    assert check(given, task) == wanted


@pytest.mark.parametrize(
    ("task", "given", "error", "words"),
    [
        (
            "text-generation",
            {"num_beams": 2},
            Rejected,
            "Unknown parameter 'num_beams'; this pipeline takes do_sample, max_new_tokens, temperature, top_k, top_p, "
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
        ("text-generation", {"best_of": 2}, Rejected, "Parameter 'best_of': this server takes 1 only."),
        ("text-generation", {"watermark": True}, Rejected, "Parameter 'watermark': this server takes false only."),
        ("text-generation", {"truncate": 5}, Rejected, "Parameter 'truncate': this server takes null only."),
        ("text-generation", {"details": 0}, Malformed, "Parameter 'details': Input should be a valid boolean."),
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
def test_the_message_names_what_is_unknown_or_out_of_range_and_what_is_allowed(
    task: str, given: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as refused:
        check(given, task)
    assert str(refused.value) == words


def test_what_clients_send_to_ask_for_nothing_is_taken_and_asks_for_nothing() -> None:
    """The defaults of LangChain's `HuggingFaceEndpoint` and of text-generation-inference."""
    nothing: dict[str, object] = {
        "best_of": 1,
        "decoder_input_details": False,
        "details": False,
        "watermark": False,
        "top_n_tokens": 0,
    }
    nothing |= {"frequency_penalty": 0, "adapter_id": None, "grammar": None, "truncate": None, "seed": None}
    assert check({**nothing, "top_k": 10, "return_full_text": False}, "text-generation") == {
        "top_k": 10,
        "return_full_text": False,
    }
    assert check({"stop": [], "best_of": 1.0}, "text-generation") == {"stop_sequence": []}


@pytest.mark.parametrize(("value", "wanted"), [(3.0, 3), (3.5, 3.5), (True, True), ("3.0", "3.0"), (7, 7)])
def test_a_number_is_an_integer_where_json_has_it_with_a_point(value: object, wanted: object) -> None:
    result = integral_float_to_int(value)
    assert (result, type(result)) == (wanted, type(wanted))


def test_an_integer_with_a_point_is_taken_and_a_fraction_is_not() -> None:
    assert check({"top_k": 3.0}, "fill-mask") == {"top_k": 3}
    with pytest.raises(Malformed, match=r"^Parameter 'top_k': Input should be a valid integer\.$"):
        check({"top_k": 3.5}, "fill-mask")


@pytest.mark.parametrize("template", ["{}", "This is {}.", "{{ {} }}"])
def test_a_template_with_one_plain_field_is_taken_as_it_is(template: str) -> None:
    assert plain_template(template) == template


@pytest.mark.parametrize("template", ["", "no field", "{} {}", "{0}", "{:>9}", "{!r}", "{.__class__}", "{name}"])
def test_a_template_with_anything_else_in_braces_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r"^one plain {} must stand in it"):
        plain_template(template)
