"""A model's files are found in its folder, on the Hub, and in the Hub's cache."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline_webserver.errors import ConfigurationError
from pipeline_webserver.inference.embeddings.configuration import read_embedding
from pipeline_webserver.inference.embeddings.model_files import ModelFiles
from tests.inference.conftest import ServeHub
from tests.support.sentences import HIDDEN, configure, dense, normalize, pooling


def error_of_json(folder: Path, content: str) -> str:
    (folder / "x.json").write_text(content)
    with pytest.raises(ConfigurationError) as raised:
        ModelFiles(str(folder), None).settings("x.json")
    return str(raised.value)


def test_a_file_that_is_not_there_is_empty(tmp_path: Path) -> None:
    files = ModelFiles(str(tmp_path), None)
    assert (files.path("x.json"), files.json("x.json"), files.settings("x.json")) == (None, None, {})


def test_a_file_that_is_broken_is_named(tmp_path: Path) -> None:
    assert error_of_json(tmp_path, "{") == "its x.json is not JSON; download the model again"
    assert error_of_json(tmp_path, "[]") == "its x.json is not a JSON object; download the model again"


def test_weights_are_read_as_float32_in_the_order_of_the_names(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    save_file({"y": torch.tensor([1.5]).half(), "x": torch.tensor([2])}, tmp_path / "a" / "model.safetensors")
    weights = ModelFiles(str(tmp_path), None).weights("a", ["x", "y"])
    assert [(tensor.dtype, tensor.tolist()) for tensor in weights] == [(torch.float32, [2]), (torch.float32, [1.5])]


def test_weights_that_are_broken_are_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "model.safetensors").write_bytes(b"not at all")
    with pytest.raises(ConfigurationError) as raised:
        ModelFiles(str(tmp_path), None).weights("a", ["x"])
    assert str(raised.value) == "its a/model.safetensors cannot be read; download the model again"


def test_a_model_of_the_hub_is_read_and_once_more_from_the_cache_without_it(
    tmp_path: Path, serve_hub: ServeHub
) -> None:
    (tmp_path / "model").mkdir()
    folder = configure(
        tmp_path / "model",
        [pooling("mean", "max"), dense(8, 2 * HIDDEN), normalize()],
        config_sentence_transformers={"prompts": {"search": "find : "}},
    )
    here = read_embedding(str(folder), None)
    with serve_hub({"team/sentences": folder}) as paths:
        there = read_embedding("team/sentences", None)
        assert "/team/sentences/resolve/main/2_Dense/model.safetensors" in paths
        with pytest.raises(
            ConfigurationError, match=r"^'team/other' has .*: its modules\.json cannot be loaded: team/other"
        ):
            read_embedding("team/other", None)
    cached = read_embedding("team/sentences", None)
    assert here is not None
    assert there is not None
    assert cached is not None
    assert here.describe() == there.describe() == cached.describe()
    hidden = torch.linspace(-1, 1, 3 * HIDDEN).reshape(1, 3, HIDDEN)
    assert here.embed(hidden).tolist() == there.embed(hidden).tolist() == cached.embed(hidden).tolist()
