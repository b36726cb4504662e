"""OpenAI's form of embeddings: what it takes, and what it answers."""

import base64
import json
from typing import Any

import numpy as np
import pytest

from pipeline_webserver.api import openai_embeddings
from pipeline_webserver.api.openai_embeddings import parse, render
from pipeline_webserver.errors import Malformed, Rejected, TooLarge
from tests.api.model_infos import model_info


def form(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ("a text", ["a text"]),
        (["a", "b"], ["a", "b"]),
    ],
)
def test_a_text_and_a_list_of_texts_are_inputs(given: Any, inputs: Any) -> None:
    request = parse(form(input=given, model="any", user="me", unknown={"to": "us"}), 2)
    assert (request.inputs, request.parameters, request.encoding_format) == (inputs, {"pooled": True}, "float")


def test_dimensions_and_the_form_of_the_numbers_are_the_requests() -> None:
    request = parse(form(input="a", dimensions=8.0, encoding_format="base64"), 2)
    assert (request.parameters, request.encoding_format) == ({"pooled": True, "dimensions": 8}, "base64")


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        (b"{", Malformed, "The body is not JSON"),
        (b"[]", Malformed, "The JSON form is"),
        (b"{}", Malformed, "Parameter 'input': Field required."),
        (form(input=None), Malformed, "Parameter 'input': Field required."),
        (form(input=5), Malformed, "'input' must be a text"),
        (form(input=["a", 5]), Malformed, "'input' must be a text"),
        (form(input=[15339, 1917]), Malformed, "sends texts with check_embedding_ctx_length=False."),
        (form(input=[[15339, 1917]]), Malformed, "Token ids are not taken"),
        (form(input=[[1], "a"]), Malformed, "'input' must be a text or a list of texts."),
        (form(input=""), Rejected, "'input' has an empty text or none."),
        (form(input=[]), Rejected, "'input' has an empty text or none."),
        (form(input=["a", ""]), Rejected, "'input' has an empty text or none."),
        (form(input=["a"] * 4), TooLarge, "The request has 4 inputs; the limit is 3."),
        (form(input="a", dimensions=0), Rejected, "'dimensions': Input should be greater than or equal to 1."),
        (form(input="a", dimensions="8"), Malformed, "'dimensions': Input should be a valid integer."),
        (
            form(input="a", encoding_format="hex"),
            Rejected,
            "Parameter 'encoding_format': Input should be 'float' or 'base64'.",
        ),
        (form(input="a", model=5), Malformed, "Parameter 'model': Input should be a valid string."),
    ],
)
def test_the_message_says_what_is_wrong(body: bytes, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as refused:
        parse(body, 3)
    assert words in str(refused.value)


def test_the_answer_has_openais_form() -> None:
    request = parse(form(input=["a", "b"]), 2)
    embeddings = [np.array([0.1, -1.0], dtype=np.float32), np.array([2.5, 0.0], dtype=np.float32)]
    assert json.loads(render(request, embeddings, 7, "the model")) == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.1, -1.0]},
            {"object": "embedding", "index": 1, "embedding": [2.5, 0.0]},
        ],
        "model": "the model",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }


def test_in_base64_an_embedding_is_its_little_endian_numbers() -> None:
    embedding = np.array([0.1, -1.0, 3e-9], dtype=np.float32)
    request = parse(form(input="a", encoding_format="base64"), 1)
    (data,) = json.loads(render(request, [embedding], 1, "m"))["data"]
    assert np.frombuffer(base64.b64decode(data["embedding"]), dtype="<f4").tolist() == embedding.tolist()


def test_numbers_are_as_short_as_a_float32_needs_and_parse_to_the_same() -> None:
    embedding = np.random.default_rng(0).normal(size=384).astype(np.float32)
    body = render(parse(form(input="a"), 1), [embedding], 1, "m")
    (data,) = json.loads(body)["data"]
    assert np.array(data["embedding"], dtype=np.float32).tolist() == embedding.tolist()
    assert len(body) < 384 * 14


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, "this server runs m for fill-mask: PIPELINE_TASK=feature-extraction serves a model that has them."),
        (
            {"task_source": "architectures in config.json"},
            "this server runs m for fill-mask (by architectures in config.json): "
            "PIPELINE_TASK=feature-extraction serves a model that has them.",
        ),
        ({"task": "feature-extraction"}, "this server runs m for feature-extraction, which has no modules.json."),
        (
            {"task": "feature-extraction", "no_embedding": "'m' has none"},
            "this server runs m for feature-extraction, and 'm' has none.",
        ),
    ],
)
def test_a_server_without_embeddings_says_why_and_what_to_set(changes: dict[str, str], why: str) -> None:
    assert openai_embeddings.why_not_served(model_info(**{"task": "fill-mask", **changes})) == (
        "Embeddings are for the task feature-extraction and models with a sentence-transformers configuration; " + why
    )
