"""Embeddings of a mixed batch are what sentence-transformers makes of each text alone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from pipeline_webserver.errors import Rejected, TooLarge
from pipeline_webserver.inference.pipeline_runner import LoadedPipeline
from pipeline_webserver.inference.preprocessing.feature_extraction import image_features
from tests.support.compare import assert_same
from tests.support.pipelines import TEXTS, Parameters, open_pipeline, run
from tests.support.sentences import MINILM, pooling, sentence_model

POOLED: Parameters = {"pooled": True}


@pytest.fixture(scope="module")
def minilm() -> LoadedPipeline:
    return open_pipeline(MINILM)


def test_a_mixed_batch_of_embeddings_equals_sentence_transformers(minilm: LoadedPipeline) -> None:
    texts = [*TEXTS, "word " * 400]  # the last is cut, as by sentence-transformers
    theirs = SentenceTransformer(str(MINILM), device="cpu").encode(texts)
    for result, wanted in zip(run(minilm, [(text, POOLED) for text in texts]), theirs, strict=True):
        assert (result.dtype, result.shape) == (np.float32, (384,))
        assert np.abs(result - wanted).max() < 1e-5


def test_tokens_give_the_embedding_of_their_text(minilm: LoadedPipeline) -> None:
    tokens = minilm.pipe.tokenizer(TEXTS[3])["input_ids"]
    of_text, of_tokens = run(minilm, [(TEXTS[3], POOLED), (tokens, POOLED)])
    assert np.abs(of_text - of_tokens).max() < 1e-6


@pytest.mark.parametrize(
    ("value", "parameters", "error", "words"),
    [
        ([101, 30_522], POOLED, Rejected, "The model has no token 30522; its 30522 tokens count from 0."),
        ([-1], POOLED, Rejected, "The model has no token -1; its 30522 tokens count from 0."),
        ([101] * 513, POOLED, TooLarge, "The input has 513 tokens; the model takes at most 512."),
        (
            "a",
            POOLED | {"prompt_name": "passage"},
            Rejected,
            "Parameter 'prompt_name': the model's prompts are query, document.",
        ),
        (
            "word " * 600,
            POOLED | {"truncation": False},
            TooLarge,
            "The input has 602 tokens; the model takes at most 512.",
        ),
    ],
)
def test_what_has_no_embedding_is_refused(
    value: object, parameters: Parameters, error: type[Exception], words: str, minilm: LoadedPipeline
) -> None:
    (result,) = minilm.prepare([(value, parameters)])
    assert type(result) is error
    assert str(result) == words


def test_without_cutting_a_text_is_read_to_the_models_own_length(minilm: LoadedPipeline) -> None:
    text = "first " + "word " * 300 + "last"
    cut, whole, end = run(
        minilm,
        [(text, POOLED), (text, POOLED | {"truncation": False}), (text, POOLED | {"truncation_direction": "left"})],
    )
    assert np.abs(cut - whole).max() > 1e-3
    assert np.abs(cut - end).max() > 1e-3
    assert minilm.pipe.tokenizer.truncation_side == "right"


def test_a_prompt_is_put_before_the_text_and_others_of_the_batch_have_theirs(tmp_path: Path) -> None:
    told = {"prompts": {"query": "what is it : ", "passage": ""}, "default_prompt_name": "query"}
    folder = sentence_model(tmp_path, [pooling("mean", include_prompt=False)], config_sentence_transformers=told)
    results = run(open_pipeline(folder), [("a dog", POOLED), ("a dog", POOLED | {"prompt_name": "passage"})])
    model = SentenceTransformer(str(folder), device="cpu")
    for result, name in zip(results, ["query", "passage"], strict=True):
        assert np.abs(result - model.encode("a dog", prompt_name=name)).max() < 1e-5


def test_tokens_have_no_prompt_that_could_be_left_out(tmp_path: Path) -> None:
    told = {"prompts": {"query": "what is it : "}, "default_prompt_name": "query"}
    folder = sentence_model(tmp_path, [pooling("mean", include_prompt=False)], config_sentence_transformers=told)
    loaded = open_pipeline(folder)
    tokens = loaded.pipe.tokenizer("a dog")["input_ids"]
    (of_tokens,) = run(loaded, [(tokens, POOLED)])
    assert of_tokens == pytest.approx(np.mean(loaded.pipe("a dog")[0], axis=0), abs=1e-5)


def test_a_configuration_that_cannot_be_served_is_told_and_the_model_is_served_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = sentence_model(tmp_path, [pooling("median")])
    loaded = open_pipeline(folder)
    assert loaded.prepare.describe()["embedding"] is None
    assert [record.name for record in caplog.records] == [
        "pipeline_webserver.inference.preprocessing.feature_extraction"
    ]
    assert caplog.messages[0].startswith(f"'{folder}' has embeddings that cannot be served: its pooling 'median'")


def test_what_is_read_of_each_token_is_the_pipelines_own(minilm: LoadedPipeline) -> None:
    whole, embedding = run(minilm, [(TEXTS[2], {}), (TEXTS[2], POOLED)])
    assert_same(whole, minilm.pipe(TEXTS[2]))
    assert embedding.ndim == 1


def test_a_model_without_a_configuration_gives_what_is_read_of_each_token_and_says_so(
    pipeline_of: Callable[[str], LoadedPipeline],
) -> None:
    loaded = pipeline_of("feature-extraction")
    whole, refused = run(loaded, [(TEXTS[2], POOLED), (TEXTS[2], POOLED | {"normalize": True})])
    assert_same(whole, loaded.pipe(TEXTS[2]))
    assert str(refused) == "Parameter 'normalize': this model has no sentence-transformers configuration."
    assert loaded.prepare.describe() == {"embedding": None, "vocabulary": 8192}


def test_an_image_model_without_a_pooled_output_refuses_to_pool() -> None:
    with pytest.raises(ValueError, match=r"^Parameter 'pool': this model has no pooled output\.$"):
        image_features({"last_hidden_state": None}, pool=True)
