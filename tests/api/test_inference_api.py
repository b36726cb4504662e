"""Bytes in, bytes out: the wire contract of `POST /`."""

import base64
import json
from typing import Any

import pytest

from pipeline_webserver.api.inference_api import InferenceRequest, parse, render
from pipeline_webserver.api.tasks import TASKS
from pipeline_webserver.errors import Malformed, Rejected, TooLarge, UnsupportedMediaType

FILL_MASK = TASKS["fill-mask"]
FORM = "application/x-www-form-urlencoded"


def parse_form(form: Any, task: str = "fill-mask", max_inputs: int = 32) -> InferenceRequest:
    return parse(json.dumps(form).encode(), "application/json", TASKS[task], max_inputs)


# Raw text


@pytest.mark.parametrize(
    "content_type", [FORM, "text/plain; charset=utf-8", "", "application/octet-stream", "nonsense"]
)
def test_a_body_of_any_type_but_json_is_the_text_itself(content_type: str) -> None:
    request = parse("tést&a=[MASK]".encode(), content_type, FILL_MASK, 1)
    assert request == InferenceRequest(["tést&a=[MASK]"], {}, is_json=False, is_list=False)


def test_an_empty_text_is_an_input_in_the_json_form_only() -> None:
    assert parse_form({"inputs": ""}).inputs == [""]
    with pytest.raises(Malformed, match=r"^The body is empty: send the input itself, or"):
        parse(b"", FORM, FILL_MASK, 1)


def test_a_body_that_is_not_utf_8_is_malformed() -> None:
    with pytest.raises(Malformed, match=r"^The body is not UTF-8: invalid start byte at byte 2\.$"):
        parse(b"ab\xff", FORM, FILL_MASK, 1)


@pytest.mark.parametrize("media_type", ["image/png", "audio/wav", "Video/MP4; codecs=x"])
def test_media_given_to_a_text_pipeline_are_unsupported(media_type: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="takes text, not"):
        parse(b"\x89PNG", media_type, FILL_MASK, 1)


def test_a_task_that_needs_parameters_refuses_raw_text_and_names_them() -> None:
    with pytest.raises(Rejected, match="'candidate_labels': Field required"):
        parse(b"text", FORM, TASKS["zero-shot-classification"], 1)


# Raw files


@pytest.mark.parametrize("content_type", [FORM, "image/png", "", "application/octet-stream"])
def test_a_body_of_any_type_but_json_is_the_file_itself(content_type: str) -> None:
    assert parse(b"\x89PNG", content_type, TASKS["image-classification"], 1).inputs == [b"\x89PNG"]


def test_another_kind_of_file_is_unsupported() -> None:
    for task, wanted in (("image-classification", "image"), ("audio-classification", "audio")):
        with pytest.raises(UnsupportedMediaType, match=rf"^This pipeline takes {wanted}/\*, not video/mp4\.$"):
            parse(b"\0", "video/mp4", TASKS[task], 1)


def test_a_table_has_no_raw_form() -> None:
    with pytest.raises(
        UnsupportedMediaType, match=r"^This pipeline takes a table with a question, as application/json"
    ):
        parse(b"a table", "text/csv", TASKS["table-question-answering"], 1)


# The JSON form


def test_one_text_and_a_list_of_one_are_different() -> None:
    assert parse_form({"inputs": "a"}) == InferenceRequest(["a"], {}, is_json=True, is_list=False)
    assert parse_form({"inputs": ["a"]}) == InferenceRequest(["a"], {}, is_json=True, is_list=True)
    assert parse(b'{"inputs": "a"}', "Application/JSON; charset=utf-8", FILL_MASK, 1).is_json


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "The body is empty"),
        (b" ", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b'{"inputs": "\\ud800"}', "not JSON"),  # a lone surrogate
        (b"[" * 100_000, "not JSON"),
        (b'"text"', "The JSON form is"),
        (b"{}", "The JSON form is"),
        (b'{"inputs": null}', "'inputs' must be"),
        (b'{"inputs": []}', "'inputs' must be"),
        (b'{"inputs": 5}', "'inputs' must be"),
        (b'{"inputs": ["a", 5]}', "'inputs' must be"),
        (b'{"inputs": {"text": "a"}}', "'inputs' must be"),
        (b'{"inputs": "a", "parameters": [1]}', "'parameters' must be an object"),
        (b'{"inputs": "a", "top_k": 1}', "Unknown field 'top_k'"),
        (b'{"inputs": "a", "parameters": {"top_k": "five"}}', "'top_k': Input should be a valid integer"),
        (b'{"inputs": "a", "parameters": {"top_k": true}}', "'top_k': Input should be a valid integer"),
        (b'{"inputs": "a", "parameters": {"targets": "x"}}', "'targets': Input should be a valid list"),
        (b'{"inputs": "a", "parameters": {"targets": [1]}}', "'targets': Input should be a valid string"),
    ],
)
def test_what_is_not_the_form_is_malformed_and_the_message_says_why(body: bytes, words: str) -> None:
    with pytest.raises(Malformed) as malformed:
        parse(body, "application/json", FILL_MASK, 32)
    assert words in str(malformed.value)


def test_a_pair_of_texts_is_an_input_of_a_task_that_accepts_pairs() -> None:
    pair = {"text": "a", "text_pair": "b"}
    assert parse_form({"inputs": [pair, "c"]}, "text-classification").inputs == [pair, "c"]
    with pytest.raises(Malformed, match=r'^.inputs. must be a text or a pair {"text": ..., "text_pair": ...}, or a'):
        parse_form({"inputs": {"text": "a"}}, "text-classification")


def test_a_file_is_an_input_in_base64() -> None:
    assert parse_form({"inputs": [base64.b64encode(b"\x89PNG").decode()]}, "object-detection").inputs == [b"\x89PNG"]
    for value in ("a text!", "AA="):
        with pytest.raises(Malformed, match=r"^'inputs' is not base64: it must be the base64 of an image file\.$"):
            parse_form({"inputs": value}, "object-detection")
    with pytest.raises(Malformed, match=r"^'inputs' must be the base64 of an audio file, or a list of such\.$"):
        parse_form({"inputs": 5}, "audio-classification")


@pytest.mark.parametrize("name", ["question", "query"])
def test_the_question_of_a_table_has_the_specifications_name_or_the_clients(name: str) -> None:
    table = {"name": ["Ann"], "age": ["31"]}
    (read,) = parse_form({"inputs": {name: "How old?", "table": table}}, "table-question-answering").inputs
    assert read == {"query": "How old?", "table": table}


@pytest.mark.parametrize(
    "value",
    [
        "a text",
        {"table": {"a": ["1"]}},
        {"query": "?", "table": []},
        {"query": 5, "table": {"a": ["1"]}},
        {"query": "?", "table": {"a": "1"}},
        {"query": "?", "table": {"a": [1]}},
        {"query": "?", "question": "?", "table": {"a": ["1"]}},
    ],
)
def test_what_is_no_table_with_one_question_is_malformed(value: Any) -> None:
    with pytest.raises(Malformed, match=r'^.inputs. must be {"question": a text, "table": {column: \[texts\]}}'):
        parse_form({"inputs": value}, "table-question-answering")


@pytest.mark.parametrize(
    ("task", "parameters", "words"),
    [
        (
            "fill-mask",
            {"tokenizer_kwargs": {}},
            "this pipeline takes targets, top_k.",
        ),
        ("fill-mask", {"top_k": 0}, "'top_k': Input should be greater than or equal to 1"),
        ("text-classification", {"function_to_apply": "max"}, "'sigmoid', 'softmax' or 'none'"),
        ("text-classification", {"padding": True}, "Unknown parameter 'padding'"),
        ("token-classification", {"stride": -1}, "greater than or equal to 0"),
        ("token-classification", {"aggregation_strategy": "best"}, "'none', 'simple'"),
        (
            "feature-extraction",
            {"return_tensors": True},
            "this pipeline takes truncate, normalize",
        ),
        ("zero-shot-classification", {}, "'candidate_labels': Field required"),
        (
            "zero-shot-classification",
            {"candidate_labels": ["x"] * 257},
            "'candidate_labels': List should have at most 256",
        ),
        *(
            ("zero-shot-classification", {"candidate_labels": ["x"], "hypothesis_template": template}, words)
            for template, words in [
                ("{:>4000000000}", "'hypothesis_template': one plain {} must stand in it, and nothing else in braces."),
                ("{0}", "one plain {}"),
                ("{.__class__}", "one plain {}"),
                ("{!r}", "one plain {}"),
                ("no field", "one plain {}"),
                ("{} and {}", "one plain {}"),
                ("{", "'hypothesis_template': Single '{'"),
            ]
        ),
    ],
)
def test_unknown_and_out_of_range_parameters_are_rejected_by_name(task: str, parameters: Any, words: str) -> None:
    with pytest.raises(Rejected) as rejected:
        parse_form({"inputs": "a", "parameters": parameters}, task)
    assert words in str(rejected.value)


def test_parameters_reach_the_pipeline_by_its_own_names_and_null_means_left_out() -> None:
    assert parse_form({"inputs": "a", "parameters": {"top_k": 3, "targets": None}}).parameters == {"top_k": 3}
    assert parse_form({"inputs": "a", "parameters": None}).parameters == {}
    form = {"inputs": "a", "truncate": True}
    assert parse_form(form, "feature-extraction").parameters == {"truncation": True, "pooled": True}


def test_a_parameter_that_stands_beside_the_inputs_and_among_the_parameters_is_checked_at_both_places() -> None:
    form = {"inputs": "a", "truncate": True, "parameters": {"truncate": False}}
    assert parse_form(form, "feature-extraction").parameters == {"truncation": False, "pooled": True}
    with pytest.raises(Malformed, match=r"^Parameter 'truncate': Input should be a valid boolean\.$"):
        parse_form({"inputs": "a", "truncate": {}, "parameters": {"truncate": None}}, "feature-extraction")


def test_an_empty_list_of_targets_is_refused_by_name_and_one_of_ends_is_none() -> None:
    with pytest.raises(Rejected, match=r"^Parameter 'targets': List should have at least 1 item"):
        parse_form({"inputs": "a", "parameters": {"targets": []}}, "fill-mask")
    assert parse_form({"inputs": "a", "parameters": {"stop": []}}, "text-generation").parameters == {
        "stop_sequence": []
    }


def test_the_hosted_apis_own_options_are_ignored() -> None:
    assert parse_form({"inputs": "a", "options": {"wait_for_model": True}}).parameters == {}


def test_a_stream_is_refused_and_what_merely_equals_none_as_well() -> None:
    assert parse_form({"inputs": "a", "stream": False}).parameters == {}
    for stream in (True, 0, "no"):
        with pytest.raises(Rejected, match=r"^'stream' must be false"):
            parse_form({"inputs": "a", "stream": stream})


def test_too_many_inputs_are_refused_with_both_numbers() -> None:
    assert len(parse_form({"inputs": ["a"] * 3}, max_inputs=3).inputs) == 3
    with pytest.raises(TooLarge, match=r"^The request has 4 inputs; the limit is 3\.$"):
        parse_form({"inputs": ["a"] * 4}, max_inputs=3)


# Answers


def answer(request: InferenceRequest, outputs: list[Any], task: str) -> Any:
    return json.loads(render(request, outputs, TASKS[task]))


RAW = InferenceRequest(["a"], {}, is_json=False, is_list=False)
ONE = InferenceRequest(["a"], {}, is_json=True, is_list=False)
LIST = InferenceRequest(["a"], {}, is_json=True, is_list=True)


def test_raw_text_is_answered_with_exactly_what_the_pipeline_returned() -> None:
    for task in TASKS:
        assert answer(RAW, [[{"any": "thing"}]], task) == [{"any": "thing"}]


def test_a_list_is_answered_with_a_list_even_of_one() -> None:
    assert answer(ONE, [[{"token": 1}]], "fill-mask") == [{"token": 1}]
    assert answer(LIST, [[{"token": 1}]], "fill-mask") == [[{"token": 1}]]


def test_the_form_of_text_classification_is_always_a_list_of_answers() -> None:
    assert answer(ONE, [[{"label": "glad"}]], "text-classification") == [[{"label": "glad"}]]
    assert answer(LIST, [[{"label": "glad"}]], "text-classification") == [[{"label": "glad"}]]


def test_the_form_of_zero_shot_classification_is_labels_with_scores() -> None:
    output = {"sequence": "a", "labels": ["x", "y"], "scores": [0.75, 0.25]}
    shaped = [{"label": "x", "score": 0.75}, {"label": "y", "score": 0.25}]
    assert answer(ONE, [output], "zero-shot-classification") == shaped
    assert answer(LIST, [output, output], "zero-shot-classification") == [shaped, shaped]
    assert answer(RAW, [output], "zero-shot-classification") == output


# What the client in JavaScript sends and takes


def test_one_text_in_a_list_is_answered_as_that_text_where_the_javascript_client_takes_no_list_of_lists() -> None:
    output = {"sequence": "a", "labels": ["x"], "scores": [1.0]}
    assert answer(LIST, [output], "zero-shot-classification") == [{"label": "x", "score": 1.0}]


def test_a_segment_without_a_score_has_none_in_the_json_form_and_null_as_the_pipeline_in_the_raw_one() -> None:
    scored, unscored = ({"label": "sky", "score": score, "mask": "iVBORw=="} for score in (0.5, None))
    wanted = [scored, {"label": "sky", "mask": "iVBORw=="}]
    assert answer(ONE, [[scored, unscored]], "image-segmentation") == wanted
    assert answer(LIST, [[scored], [unscored]], "image-segmentation") == [wanted[:1], wanted[1:]]
    assert answer(RAW, [[unscored]], "image-segmentation") == [unscored]


@pytest.mark.parametrize(
    ("task", "kind", "more"),
    [
        ("zero-shot-image-classification", "image", {"parameters": {"candidate_labels": ["x"]}}),
        ("object-detection", "image", {}),
        ("audio-classification", "audio", {}),
    ],
)
def test_a_file_may_be_the_one_field_of_an_object_of_its_kind(task: str, kind: str, more: Any) -> None:
    assert parse_form({"inputs": {kind: "iVBORw=="}, **more}, task).inputs == [b"\x89PNG"]
    for wrong in ({"file": "iVBORw=="}, {kind: "iVBORw==", "more": 1}, {kind: 5}, {}):
        with pytest.raises(Malformed, match=f"^'inputs' must be the base64 of an {kind} file, or a list of such"):
            parse_form({"inputs": wrong, **more}, task)
