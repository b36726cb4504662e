"""Embeddings of a mixed batch are what sentence-transformers makes of each text alone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from pipeline_webserver.errors import ConfigurationError, Malformed, Rejected, TooLarge
from pipeline_webserver.inference.loading import load
from pipeline_webserver.inference.pipeline_runner import PipelineRunner
from tests.inference.conftest import ServeHub
from tests.support.compare import assert_same
from tests.support.pipelines import SERVED, TEXTS, Parameters, open_pipeline, run, runner_of
from tests.support.sentences import MINILM, pooling, sentence_model

POOLED: Parameters = {"pooled": True}


@pytest.fixture(scope="module")
def minilm() -> PipelineRunner:
    return open_pipeline(MINILM)


def test_a_mixed_batch_of_embeddings_equals_sentence_transformers(minilm: PipelineRunner) -> None:
    texts = [*TEXTS, "word " * 400]  # the last is truncated, as by sentence-transformers
    theirs = SentenceTransformer(str(MINILM), device="cpu").encode(texts)
    for result, wanted in zip(run(minilm, [(text, POOLED) for text in texts]), theirs, strict=True):
        assert (result.dtype, result.shape) == (np.float32, (384,))
        assert np.abs(result - wanted).max() < 1e-5


@pytest.mark.parametrize("dimensions", [1, 128, 384])
def test_fewer_dimensions_are_the_first_ones_at_length_one_as_sentence_transformers_cuts_them(
    dimensions: int, minilm: PipelineRunner
) -> None:
    model = SentenceTransformer(str(MINILM), device="cpu", truncate_dim=dimensions)
    theirs = model.encode(TEXTS[3], normalize_embeddings=True)
    (ours,) = run(minilm, [(TEXTS[3], POOLED | {"dimensions": dimensions})])
    assert ours.shape == (dimensions,)
    assert np.abs(ours - theirs).max() < 1e-5


def test_without_normalization_fewer_dimensions_are_the_first_numbers(minilm: PipelineRunner) -> None:
    parameters = POOLED | {"normalize": False}
    whole, cut = run(minilm, [(TEXTS[3], parameters), (TEXTS[3], parameters | {"dimensions": 5})])
    assert cut.tolist() == whole[:5].tolist()


@pytest.mark.parametrize(
    ("value", "parameters", "error", "words"),
    [
        (
            "a",
            POOLED | {"dimensions": 385},
            Malformed,
            "Parameter 'dimensions' is 385; the model's embeddings have 384.",
        ),
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
def test_what_has_no_embedding_is_an_error(
    value: object, parameters: Parameters, error: type[Exception], words: str, minilm: PipelineRunner
) -> None:
    (result,) = minilm.preprocess([(value, parameters)])
    assert type(result) is error
    assert str(result) == words


def test_without_truncation_a_text_is_read_to_the_models_own_length(minilm: PipelineRunner) -> None:
    text = "first " + "word " * 300 + "last"
    truncated, whole, end = run(
        minilm,
        [(text, POOLED), (text, POOLED | {"truncation": False}), (text, POOLED | {"truncation_direction": "left"})],
    )
    assert np.abs(truncated - whole).max() > 1e-3
    assert np.abs(truncated - end).max() > 1e-3
    assert minilm.pipe.tokenizer.truncation_side == "right"


def test_a_prompt_is_put_before_the_text_and_others_of_the_batch_have_theirs(tmp_path: Path) -> None:
    declared = {"prompts": {"query": "what is it : ", "passage": ""}, "default_prompt_name": "query"}
    folder = sentence_model(tmp_path, [pooling("mean", include_prompt=False)], config_sentence_transformers=declared)
    results = run(open_pipeline(folder), [("a dog", POOLED), ("a dog", POOLED | {"prompt_name": "passage"})])
    model = SentenceTransformer(str(folder), device="cpu")
    for result, name in zip(results, ["query", "passage"], strict=True):
        assert np.abs(result - model.encode("a dog", prompt_name=name)).max() < 1e-5


def test_a_configuration_that_cannot_be_served_is_logged_and_the_model_is_served_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where an operator asks for it. By itself the start stops."""
    folder = sentence_model(tmp_path, [pooling("median")])
    with pytest.raises(ConfigurationError) as raised:
        open_pipeline(folder)
    reason, _, advice = str(raised.value).rpartition(", ")
    assert advice == "or set PIPELINE_TASK=feature-extraction to serve the model without embeddings"
    info = open_pipeline(folder, "feature-extraction").describe(threads=1)
    assert reason.startswith(f"'{folder}' has embeddings that cannot be served: its pooling 'median'")
    published = reason.replace(f"'{folder}'", "the model")
    assert (info.embedding, info.no_embedding) == (None, published)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [published]


def test_a_configuration_is_read_at_the_revision_that_the_model_was_loaded_at(
    tmp_path: Path, serve_hub: ServeHub
) -> None:
    folder = sentence_model(tmp_path / "model", [pooling("cls")])
    with serve_hub({"team/sentences": folder}) as paths:
        pipe = load("team/sentences", "feature-extraction", "v1", "cpu", None, SERVED)
        info = runner_of(pipe).describe(threads=1)
    assert info.embedding is not None
    assert info.embedding.pooling == ["cls"]
    assert "/team/sentences/resolve/v1/modules.json" in paths
    assert not [path for path in paths if "/main/" in path]


def test_without_the_parameter_the_features_of_each_token_are_the_pipelines_own(minilm: PipelineRunner) -> None:
    whole, embedding = run(minilm, [(TEXTS[2], {}), (TEXTS[2], POOLED)])
    assert_same(whole, minilm.pipe(TEXTS[2]))
    assert embedding.ndim == 1


def test_a_model_without_a_configuration_has_the_features_of_each_token_only(
    pipeline_of: Callable[[str], PipelineRunner],
) -> None:
    runner = pipeline_of("feature-extraction")
    whole, rejected = run(runner, [(TEXTS[2], POOLED), (TEXTS[2], POOLED | {"normalize": True})])
    assert_same(whole, runner.pipe(TEXTS[2]))
    assert str(rejected) == "Parameter 'normalize': this model has no sentence-transformers configuration."
    assert runner.describe(threads=1).embedding is None
