"""Weights are those of their configuration, and what is missing among them is known."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers

from pipeline_webserver.errors import ConfigurationError
from pipeline_webserver.inference.loading import BUNDLED_MODEL
from pipeline_webserver.inference.weights import name_some
from tests.support.models import make_model
from tests.support.pipelines import load_pipeline

ModelOf = Callable[[str], Path]


def error_of(folder: Path, task: str | None = None) -> str:
    with pytest.raises(ConfigurationError) as raised:
        load_pipeline(folder, task)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("family", ["bert", "albert", "gpt2", "t5", "bart"])
def test_tied_weights_are_not_missing(family: str, tmp_path: Path) -> None:
    config = {
        "bert": transformers.BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=8192),
        "albert": transformers.AlbertConfig(
            hidden_size=32, embedding_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
            vocab_size=8192,
        ),
        "gpt2": transformers.GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=8192),
        "t5": transformers.T5Config(d_model=32, d_kv=8, d_ff=8, num_layers=1, num_heads=2, vocab_size=8192),
        "bart": transformers.BartConfig(
            d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
            encoder_ffn_dim=8, decoder_ffn_dim=8, vocab_size=8192,
        ),
    }[family]  # fmt: skip
    kinds = {"bert": "MaskedLM", "albert": "MaskedLM", "gpt2": "CausalLM", "t5": "Seq2SeqLM", "bart": "MaskedLM"}
    auto = getattr(transformers, f"AutoModelFor{kinds[family]}")
    auto.from_config(config).save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(BUNDLED_MODEL).save_pretrained(tmp_path)
    if family == "t5":
        with pytest.raises(ConfigurationError, match="does not say its task"):
            load_pipeline(tmp_path)
    else:
        assert load_pipeline(tmp_path).untrained == ()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"hidden_size": 48}, "bert.embeddings.LayerNorm.bias (and 37 more) is [32], and [48]"),
        ({"vocab_size": 100}, "bert.embeddings.word_embeddings.weight is [8192, 32], and [100, 32]"),
        ({"id2label": {"0": "a", "1": "b"}}, "classifier.bias (and 1 more) is [3], and [2]"),
    ],
)
def test_weights_that_are_not_those_of_the_configuration_are_named_with_both_sizes(
    change: dict[str, object], told: str, tmp_path: Path
) -> None:
    make_model("text-classification", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    assert error_of(tmp_path) == (
        f"the weights of '{tmp_path}' do not fit its config.json: {told} by the configuration; "
        "save or download the model again"
    )


def test_a_folder_without_weights_says_which_file_is_missing(tmp_path: Path) -> None:
    (make_model("text-classification", tmp_path) / "model.safetensors").unlink()
    line = error_of(tmp_path)
    assert line.startswith(f"cannot load '{tmp_path}': ")
    assert "no file named model.safetensors" in line


def test_a_file_of_weights_that_is_cut_off_is_named(tmp_path: Path) -> None:
    path = make_model("text-classification", tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    line = error_of(tmp_path)
    assert line.startswith(f"cannot load '{tmp_path}': ")
    assert not line.endswith(":")


def test_a_task_that_the_models_family_has_no_class_for_is_one_line(model_of: ModelOf) -> None:
    folder = model_of("fill-mask")
    assert error_of(folder, "object-detection") == (
        f"'{folder}' is a bert model, which has no form for the task 'object-detection'; "
        "it was saved as BertForMaskedLM: set PIPELINE_TASK=fill-mask, or choose another model"
    )


def test_of_many_weights_a_few_are_named() -> None:
    assert name_some(["a", "b"]) == "a, b"
    assert name_some(["a", "b", "c", "d"]) == "a, b, c, d"
    assert name_some([*"abcdef"]) == "a, b, c, d and 2 more"
