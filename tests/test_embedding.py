"""An embedding is what sentence-transformers makes of the same text with the same model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer

from embedding import MODES, SentenceEmbedding, read_embedding
from errors import Rejected
from tests.sentences import HIDDEN, MINILM, dense, pooling, sentence_model

TEXTS = ["a", "", "paris is the capital of france .", "albert einstein was born in ulm " * 4]
DENSE = {"in_features": HIDDEN, "out_features": 8, "bias": True}


def read(folder: Path) -> SentenceEmbedding:
    embedding = read_embedding(str(folder), None)
    assert embedding is not None
    return embedding


def ours(folder: Path, text: str, prompt: str = "", **options: Any) -> np.ndarray:
    """By the plain model and tokenizer."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder)
    with torch.no_grad():
        inputs = tokenizer(prompt + text, return_tensors="pt")
        return read(folder).embed(model(**inputs).last_hidden_state, **options)


def theirs(folder: Path, text: str, **options: Any) -> np.ndarray:
    embedding: np.ndarray = SentenceTransformer(str(folder), device="cpu").encode(text, **options)
    return embedding


@pytest.mark.parametrize("text", ["a test", "Héllo — 日本!", "the quick brown fox " * 20])
def test_the_real_minilm_gives_what_sentence_transformers_gives(text: str) -> None:
    assert np.abs(ours(MINILM, text) - theirs(MINILM, text)).max() < 1e-5


@pytest.mark.parametrize(
    "modes",
    [("cls",), ("max",), ("mean",), ("mean_sqrt_len_tokens",), ("weightedmean",), ("lasttoken",), ("cls", "max")],
)
def test_every_pooling_gives_what_sentence_transformers_gives(modes: tuple[str, ...], tmp_path: Path) -> None:
    folder = sentence_model(tmp_path, {"Pooling": pooling(*modes)})
    for text in TEXTS:
        assert np.abs(ours(folder, text) - theirs(folder, text)).max() < 1e-5


@pytest.mark.parametrize("mode", MODES)
def test_the_older_form_of_a_poolings_configuration_is_read_too(mode: str, tmp_path: Path) -> None:
    config = {"word_embedding_dimension": HIDDEN, **dict.fromkeys(MODES, False), mode: True}
    folder = sentence_model(tmp_path, {"Pooling": config})
    assert read(folder).pooling.modes == (MODES[mode],)
    assert np.abs(ours(folder, TEXTS[2]) - theirs(folder, TEXTS[2])).max() < 1e-5


@pytest.mark.parametrize("activation", ["Tanh", "Identity", "ReLU", "GELU"])
def test_a_dense_module_gives_what_sentence_transformers_gives(activation: str, tmp_path: Path) -> None:
    place = "linear.Identity" if activation == "Identity" else f"activation.{activation}"
    layer = {**DENSE, "activation_function": f"torch.nn.modules.{place}"}
    folder = sentence_model(tmp_path, {"Pooling": pooling("mean"), "Dense": layer, "Normalize": {}})
    dense(folder, 2)
    embedding = ours(folder, TEXTS[2])
    assert embedding.shape == (8,)
    assert np.abs(embedding - theirs(folder, TEXTS[2])).max() < 1e-5


def test_a_layer_norm_gives_what_sentence_transformers_gives(tmp_path: Path) -> None:
    folder = sentence_model(
        tmp_path, {"Pooling": pooling("mean"), "Dropout": {"dropout": 0.5}, "LayerNorm": {"dimension": HIDDEN}}
    )
    weights = {"norm.weight": torch.linspace(0.5, 2, HIDDEN), "norm.bias": torch.linspace(-1, 1, HIDDEN)}
    save_file(weights, folder / "3_LayerNorm" / "model.safetensors")
    assert np.abs(ours(folder, TEXTS[2]) - theirs(folder, TEXTS[2])).max() < 1e-5


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("mode", ["mean", "cls", "weightedmean", "max"])
def test_a_prompt_is_read_or_left_out_as_by_sentence_transformers(
    mode: str, include_prompt: bool, tmp_path: Path
) -> None:
    prompts = {"prompts": {"query": "what is it : "}, "default_prompt_name": None}
    config = pooling(mode, include_prompt=include_prompt)
    folder = sentence_model(tmp_path, {"Pooling": config}, config_sentence_transformers=prompts)
    prompt = read(folder).prompt("query")
    embedding = ours(folder, "a dog", prompt, prompt_tokens=1 + len(prompt.split()))
    assert np.abs(embedding - theirs(folder, "a dog", prompt_name="query")).max() < 1e-5


def test_a_request_may_say_whether_the_length_becomes_one() -> None:
    text = "a test"
    raw = ours(MINILM, text, normalize=False)
    assert np.linalg.norm(raw) > 1.5
    assert np.abs(raw / np.linalg.norm(raw) - ours(MINILM, text)).max() < 1e-6
    assert np.linalg.norm(ours(MINILM, text)) == pytest.approx(1, abs=1e-6)


def test_the_configuration_is_read(tmp_path: Path) -> None:
    assert read(MINILM).describe() == {
        "pooling": ["mean"],
        "normalize": True,
        "max_tokens": 256,
        "prompts": [],
        "default_prompt": None,
    }
    folder = sentence_model(
        tmp_path,
        {"Pooling": pooling("cls")},
        sentence_roberta_config={"max_seq_length": 17, "do_lower_case": True},
        config_sentence_transformers={"prompts": {"query": "q: ", "passage": "p: "}, "default_prompt_name": "query"},
    )
    embedding = read(folder)
    assert (embedding.max_tokens, embedding.lowercase, embedding.normalize) == (17, True, False)
    assert (embedding.prompt(None), embedding.prompt("passage")) == ("q: ", "p: ")
    with pytest.raises(Rejected, match=r"^Parameter 'prompt_name': the model's prompts are query, passage\.$"):
        embedding.prompt("document")


def test_without_a_configuration_there_is_no_embedding(tmp_path: Path) -> None:
    assert read_embedding(str(tmp_path), None) is None


@pytest.mark.parametrize(
    ("modules", "why"),
    [
        ({"WordWeights": {}}, "its modules are Transformer, WordWeights, not a Transformer at its root and a Pooling"),
        ({"Pooling": pooling("mean"), "Router": {}}, "its module Router is not known"),
        ({"Pooling": pooling("median")}, "its pooling 'median' is not known"),
        ({"Pooling": pooling("mean"), "Dense": DENSE}, "2_Dense has no model.safetensors"),
    ],
)
def test_what_cannot_be_computed_is_told_and_leaves_the_model_without_embeddings(
    modules: dict[str, Any], why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert read_embedding(str(sentence_model(tmp_path, modules)), None) is None
    assert caplog.messages == [f"No sentence embeddings: {why}."]


def test_code_that_a_configuration_names_is_not_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    layer = {**DENSE, "activation_function": "os.system"}
    folder = sentence_model(tmp_path, {"Pooling": pooling("mean"), "Dense": layer})
    dense(folder, 2)
    assert read_embedding(str(folder), None) is None
    assert caplog.messages == ["No sentence embeddings: its activation function 'os.system' is not known."]


def test_a_module_behind_normalize_is_not_silently_put_before_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = sentence_model(tmp_path, {"Pooling": pooling("mean"), "Normalize": {}, "Dense": DENSE})
    assert read_embedding(str(folder), None) is None
    assert caplog.messages == ["No sentence embeddings: its module Dense is not known behind Normalize."]
    assert json.loads((folder / "modules.json").read_text())[3]["type"].endswith("Dense")
