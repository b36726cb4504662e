"""An embedding is what sentence-transformers makes of the same text with the same model."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules

from pipeline_webserver.errors import ConfigurationError
from pipeline_webserver.inference.embeddings.configuration import OLD_MODES, read_embedding
from pipeline_webserver.inference.embeddings.modules import ACTIVATIONS, MODES
from tests.support.embeddings import ours, read
from tests.support.models import make_model
from tests.support.pipelines import open_pipeline, run
from tests.support.sentences import (
    HIDDEN,
    MINILM,
    Module,
    configure,
    dense,
    dropout,
    layer_norm,
    normalize,
    pooling,
    sentence_model,
    write,
)

TEXT = "paris is the capital of france ."
TEXTS = ["", "a", TEXT, "albert einstein was born in ulm " * 30]


@lru_cache(maxsize=4)
def sentences(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu")


def distance(folder: Path, text: str, prompt_name: str | None = None) -> float:
    """The largest difference of a number."""
    mine, theirs = ours(folder, text, prompt_name), sentences(folder).encode(text, prompt_name=prompt_name)
    assert mine.dtype == theirs.dtype == np.float32
    assert mine.shape == theirs.shape == (read(folder).dim,)
    return float(np.abs(mine - theirs).max())


def in_a_folder_of_its_own(folder: Path, limit: int | None) -> Path:
    """The model moved to `0_Transformer`, beside its modules, with what its first module says of texts."""
    place = folder / "0_Transformer"
    place.mkdir()
    for path in [path for path in folder.iterdir() if path.is_file() and path.name != "modules.json"]:
        path.rename(place / path.name)
    listed = json.loads((folder / "modules.json").read_text())
    listed[0]["path"] = place.name
    write(folder / "modules.json", listed)
    write(place / "sentence_bert_config.json", {"max_seq_length": limit, "do_lower_case": False})
    return folder


def opened(folder: Path) -> Callable[[str], np.ndarray]:
    """From a text to its embedding, by all of a server that is behind HTTP."""
    runner = open_pipeline(folder)

    def embed(text: str) -> np.ndarray:
        (embedding,) = run(runner, [(text, {"pooled": True})])
        assert isinstance(embedding, np.ndarray)
        return embedding

    return embed


# The real model


@pytest.mark.parametrize("text", ["", "a test", "Héllo — 日本 🎉 naïve ΟΔΟΣ İstanbul", "the quick brown fox " * 100])
def test_the_real_minilm_gives_what_sentence_transformers_gives(text: str) -> None:
    assert distance(MINILM, text) < 1e-5


def test_the_real_minilm_is_described_as_its_files_say() -> None:
    assert asdict(read(MINILM).describe()) == {
        "dim": 384,
        "pooling": ["mean"],
        "normalize": True,
        "max_tokens": 256,
        "prompts": ["query", "document"],
        "default_prompt": None,
    }


def test_texts_that_differ_only_behind_the_truncation_have_equal_embeddings() -> None:
    long = "fox " * 254  # and two special tokens: all of the 256
    assert ours(MINILM, long + "bear").tolist() == ours(MINILM, long + "wolf").tolist()
    assert ours(MINILM, long[4:] + "bear").tolist() != ours(MINILM, long[4:] + "wolf").tolist()


def test_a_model_that_lowercases_texts_does_so_as_sentence_transformers_does(tmp_path: Path) -> None:
    """The sigma at the end of a word has a small form of its own, which the tokenizers library does not use."""
    folder = shutil.copytree(
        MINILM, tmp_path / "model", copy_function=lambda source, target: Path(target).symlink_to(source)
    )
    (folder / "sentence_bert_config.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer.json").unlink()
    write(folder / "sentence_bert_config.json", {"max_seq_length": 256, "do_lower_case": True})
    declared = json.loads((MINILM / "tokenizer_config.json").read_text())
    write(folder / "tokenizer_config.json", {**declared, "do_lower_case": False})
    tokenizer = json.loads((MINILM / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    write(folder / "tokenizer.json", tokenizer)
    text = "ΟΔΟΣ Paris"
    assert text.lower() != read(folder).text(text) == "οδοσ paris"
    assert distance(folder, text) < 1e-5


# Every kind of module


@pytest.mark.parametrize("modes", [("mean",), MODES, ("lasttoken", "cls")])
def test_every_pooling_gives_what_sentence_transformers_gives(modes: Sequence[str], tmp_path: Path) -> None:
    folder = sentence_model(tmp_path, [pooling(*modes)])
    assert max(distance(folder, text) for text in TEXTS) < 1e-5
    assert read(folder).dim == len(modes) * HIDDEN


@pytest.mark.parametrize(
    "named", [*([name] for name in OLD_MODES), ["pooling_mode_lasttoken", "pooling_mode_cls_token"], []]
)
def test_the_first_form_of_a_pooling_is_read_as_by_sentence_transformers(named: list[str], tmp_path: Path) -> None:
    """In their own order, whatever that of the file is; and the mean if none is named."""
    old = {"word_embedding_dimension": HIDDEN, **dict.fromkeys(named, True)}
    folder = configure(tmp_path, [("Pooling", old, {})])
    theirs = modules.Pooling.load(str(folder), subfolder="1_Pooling")
    modes = (theirs.pooling_mode,) if isinstance(theirs.pooling_mode, str) else theirs.pooling_mode
    assert (read(folder).pooling.modes, read(folder).dim) == (modes, theirs.get_embedding_dimension())


@pytest.mark.parametrize(
    "behind",
    [
        [dense(HIDDEN, use_residual=True), layer_norm(), dropout(), dense(8, use_residual=True), normalize()],
        [normalize(), dense(8, bias=False)],
        [dense(8), normalize(), normalize(), dropout()],
    ],
    ids=lambda behind: " ".join(kind for kind, _, _ in behind),
)
def test_modules_behind_the_pooling_give_what_sentence_transformers_gives(behind: list[Module], tmp_path: Path) -> None:
    assert distance(sentence_model(tmp_path, [pooling("mean"), *behind]), TEXT) < 1e-5


@pytest.mark.parametrize("behind", [[dense(16)], [dense(8, bias=False), layer_norm(8), normalize()]], ids=len)
def test_weights_in_the_form_before_safetensors_give_what_sentence_transformers_gives(
    behind: list[Module], tmp_path: Path
) -> None:
    folder = sentence_model(tmp_path, [pooling("mean"), *behind])
    for path in folder.glob("*/model.safetensors"):
        torch.save(load_file(path), path.with_name("pytorch_model.bin"))
        path.unlink()
    assert distance(folder, TEXT) < 1e-5


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_read_as_by_sentence_transformers(name: str, tmp_path: Path) -> None:
    place = "linear" if name == "Identity" else "activation"
    folder = configure(tmp_path, [pooling("mean"), dense(8, activation_function=f"torch.nn.modules.{place}.{name}")])
    values = torch.linspace(-2, 2, HIDDEN)
    theirs = modules.Dense.load(str(folder), subfolder="2_Dense")({"sentence_embedding": values})
    (step,) = read(folder).steps
    assert torch.allclose(step(values), theirs["sentence_embedding"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("include_prompt", [True, False])
def test_a_prompt_is_read_or_left_out_as_by_sentence_transformers(include_prompt: bool, tmp_path: Path) -> None:
    declared = {"prompts": {"search": "what is it : "}, "default_prompt_name": "search"}
    poolings = pooling(*MODES, include_prompt=include_prompt)
    folder = sentence_model(tmp_path, [poolings], config_sentence_transformers=declared)
    assert max(distance(folder, text, name) for text in TEXTS for name in (None, "search", "query")) < 1e-5


def test_a_configuration_may_truncate_the_embedding_behind_its_normalize(tmp_path: Path) -> None:
    declared = {"truncate_dim": 5}
    folder = sentence_model(tmp_path, [pooling("mean"), normalize()], config_sentence_transformers=declared)
    assert distance(folder, TEXT) < 1e-5
    assert np.linalg.norm(ours(folder, TEXT)) < 0.9
    theirs = sentences(folder).encode(TEXT, normalize_embeddings=True)
    assert np.abs(ours(folder, TEXT, normalize=True) - theirs).max() < 1e-6


def test_the_new_form_of_a_configuration_is_read_like_the_old_one(tmp_path: Path) -> None:
    old = sentence_model(
        tmp_path / "old",
        [pooling("mean", "max", include_prompt=False), dense(8, 2 * HIDDEN), layer_norm(8), normalize()],
        sentence_bert_config={"max_seq_length": 17, "do_lower_case": False},
        config_sentence_transformers={"prompts": {"search": "find : "}, "truncate_dim": 6},
    )
    new = tmp_path / "new"
    sentences(old).save_pretrained(str(new))
    types = [module["type"] for module in json.loads((new / "modules.json").read_text())]
    assert types[1] == "sentence_transformers.sentence_transformer.modules.pooling.Pooling"
    assert "max_seq_length" not in json.loads((new / "sentence_bert_config.json").read_text())
    described = {**asdict(read(new).describe()), "prompts": {*read(new).prompts}}
    assert described == {**asdict(read(old).describe()), "prompts": {*read(old).prompts}}
    assert described["max_tokens"] == 17
    for text in TEXTS:
        assert distance(new, text, "search") < 1e-5
        assert np.abs(ours(new, text, "search") - ours(old, text, "search")).max() < 1e-6


@pytest.mark.parametrize(
    ("settings", "tokenizer_limit", "limit"),
    [
        ({"max_seq_length": 17}, 50, 17),
        ({"max_seq_length": 100}, 50, 100),
        ({"max_seq_length": None}, 50, 50),
        ({}, 50, 50),
        ({}, 4000, 128),
        ({}, int(1e30), 128),
        ({"max_seq_length": 17, "tokenizer_args": {"model_max_length": 20}}, 50, 20),
    ],
)
def test_texts_are_truncated_where_sentence_transformers_truncates_them(
    settings: dict[str, Any], tokenizer_limit: int, limit: int, tmp_path: Path
) -> None:
    folder = sentence_model(tmp_path, [pooling("mean")], sentence_bert_config=settings)
    declared = json.loads((folder / "tokenizer_config.json").read_text())
    write(folder / "tokenizer_config.json", {**declared, "model_max_length": tokenizer_limit})
    assert read(folder).max_tokens == sentences(folder).max_seq_length == limit
    assert distance(folder, TEXT * 30) < 1e-5


def test_the_older_names_of_the_first_modules_file_are_known(tmp_path: Path) -> None:
    settings = {"max_seq_length": 17, "do_lower_case": True}
    embedding = read(sentence_model(tmp_path, [pooling("cls")], sentence_roberta_config=settings))
    assert (embedding.max_tokens, embedding.lowercase) == (17, True)


# What is not supported


def test_without_a_configuration_there_is_no_embedding(tmp_path: Path) -> None:
    assert read_embedding(str(tmp_path), None) is None
    assert read_embedding("", None) is None


def error_of(folder: Path) -> str:
    """Why a model has no embedding, without what each line begins with."""
    with pytest.raises(ConfigurationError) as raised:
        read_embedding(str(folder), None)
    start = f"'{folder}' has embeddings that cannot be served: "
    assert str(raised.value).startswith(start)
    return str(raised.value).removeprefix(start)


@pytest.mark.parametrize(
    ("described", "why"),
    [
        (
            [("WordWeights", {}, {})],
            "its modules are Transformer, WordWeights; served are Transformer, Pooling, and then any of Dense, "
            "LayerNorm, Normalize, Dropout; choose another model",
        ),
        (
            [pooling("mean"), ("Router", {}, {})],
            "its modules are Transformer, Pooling, Router; served are Transformer, Pooling, and then any of Dense, "
            "LayerNorm, Normalize, Dropout; choose another model",
        ),
        (
            [pooling("median")],
            "its pooling 'median' is none of cls, max, mean, mean_sqrt_len_tokens, weightedmean, lasttoken; "
            "choose another model",
        ),
        (
            [("Pooling", {"pooling_mode": "cls"}, {})],
            "its 1_Pooling/config.json says no embedding_dimension; download the model again",
        ),
        (
            [pooling("mean"), ("Dense", {}, {})],
            "it has none of 2_Dense/model.safetensors, 2_Dense/pytorch_model.bin; download it again",
        ),
        (
            [pooling("mean"), ("Dense", {"bias": True}, dense(8, bias=False)[2])],
            "its 2_Dense/model.safetensors holds linear.weight and not linear.weight, linear.bias; "
            "download the model again",
        ),
        (
            [pooling("cls", "max"), dense(8)],
            "its 2_Dense takes 32 numbers and is given 64; download the model again",
        ),
        (
            [pooling("cls"), layer_norm(8)],
            "its 2_LayerNorm takes 8 numbers and is given 32; download the model again",
        ),
        (
            [pooling("cls"), dense(8, module_input_name="token_embeddings")],
            "its 2_Dense is for 'token_embeddings', not for the sentence embedding; choose another model",
        ),
        (
            [pooling("cls"), ("Normalize", {"module_output_name": "other"}, {})],
            "its 2_Normalize is for 'other', not for the sentence embedding; choose another model",
        ),
        (
            [("Pooling", {"embedding_dimension": 32, "pooling_mode": 7}, {})],
            "its sentence-transformers configuration has a value of a wrong type ('int' object is not iterable); "
            "choose another model",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(kind for kind, _, _ in value),
)
def test_modules_that_are_not_supported_are_named(described: list[Module], why: str, tmp_path: Path) -> None:
    assert error_of(configure(tmp_path, described)) == why


@pytest.mark.parametrize(
    "named", ["os.system", "torch.nn.Softmax", "torch.hub.load", "torch.nn.own.ReLU", "transformers.activations.GELU"]
)
def test_an_activation_that_is_not_on_the_list_is_named_and_not_run(named: str, tmp_path: Path) -> None:
    folder = configure(tmp_path, [pooling("mean"), dense(8, activation_function=named)])
    assert error_of(folder) == (
        f"its activation function '{named}' is none of torch.nn's {', '.join(ACTIVATIONS)}; choose another model"
    )


@pytest.mark.parametrize("limit", [None, 17])
def test_a_transformer_in_a_folder_of_its_own_is_read_there(limit: int | None, tmp_path: Path) -> None:
    """So sentence-transformers saved models at first."""
    folder = in_a_folder_of_its_own(sentence_model(tmp_path, [pooling("mean"), dense(8), normalize()]), limit)
    assert read(folder).max_tokens == sentences(folder).max_seq_length == (limit or 128)
    mine = opened(folder)
    assert max(np.abs(mine(text) - sentences(folder).encode(text)).max() for text in TEXTS) < 1e-5


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"transformer_task": "fill-mask"}, "transformer_task"),
        ({"modality_config": {"text": {"method": "forward", "method_output_name": "logits"}}}, "modality_config"),
        (
            {"modality_config": {"message": {}, "text": {}}, "module_output_name": "x"},
            "module_output_name, modality_config",
        ),
        ({"processing_kwargs": {"text": {"max_length": 7}}}, "processing_kwargs"),
        ({"tokenizer_name_or_path": "other"}, "tokenizer_name_or_path"),
        (
            {
                "config_args": {"is_decoder": True, "trust_remote_code": True},
                "tokenizer_args": {"truncation_side": "left"},
            },
            "config_args.is_decoder, tokenizer_args.truncation_side",
        ),
    ],
)
def test_settings_that_change_the_model_or_its_texts_are_named(
    settings: dict[str, Any], named: str, tmp_path: Path
) -> None:
    folder = configure(tmp_path, [pooling("mean")], sentence_bert_config=settings)
    assert error_of(folder) == f"its Transformer sets {named}, which is not followed here; choose another model"


@pytest.mark.parametrize(
    ("declared", "why"),
    [
        ({"model_type": "CrossEncoder"}, "it is a CrossEncoder, not a SentenceTransformer; choose another model"),
        (
            {"default_prompt_name": "search"},
            "its default prompt 'search' is none of query, document; choose another model",
        ),
    ],
)
def test_the_kind_of_a_model_and_its_default_prompt_are_checked(
    declared: dict[str, Any], why: str, tmp_path: Path
) -> None:
    assert error_of(configure(tmp_path, [pooling("mean")], config_sentence_transformers=declared)) == why


def test_a_small_model_without_modules_is_no_sentence_model(tmp_path: Path) -> None:
    assert read_embedding(str(make_model("feature-extraction", tmp_path)), None) is None
