"""The modules that a sentence-transformers model lists are read as data, and only from its own files."""

from pathlib import Path
from typing import Any

import pytest

from pipeline_webserver.errors import ConfigurationError
from pipeline_webserver.inference.embeddings.model_files import ModelFiles
from pipeline_webserver.inference.embeddings.module_list import is_sentence_model, listed_modules, transformer_folder
from tests.support.sentences import configure, pooling, write

HEAD = "sentence_transformers.models."


def listed(*modules: tuple[str, str]) -> list[dict[str, str]]:
    return [{"type": kind, "path": path} for kind, path in modules]


def error_of(modules: Any) -> str:
    with pytest.raises(ConfigurationError) as raised:
        listed_modules(modules)
    return str(raised.value)


def test_kinds_are_the_last_part_of_a_name_in_the_old_form_and_in_the_new_one() -> None:
    new = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"
    assert listed_modules(listed((f"{HEAD}Transformer", ""), (new, "1_Pooling"))) == (
        ["Transformer", "Pooling"],
        ["", "1_Pooling"],
    )


@pytest.mark.parametrize("name", ["own.Pooling", "sentence_transformersX.Pooling", "Pooling"])
def test_a_module_of_the_models_own_is_named_and_not_run(name: str) -> None:
    """Even if it is called like one of theirs."""
    assert error_of(listed((f"{HEAD}Transformer", ""), (name, "1_Pooling"))) == (
        f"its module '{name}' is code of its own, which this server does not run; choose another model"
    )


@pytest.mark.parametrize("place", ["../elsewhere", "/etc", "1_Pooling/../.."])
def test_a_module_outside_of_the_model_is_not_read(place: str) -> None:
    assert error_of(listed((f"{HEAD}Pooling", place))) == (
        f"its module '{HEAD}Pooling' is in '{place}', outside of the model; choose another model"
    )


@pytest.mark.parametrize("modules", [7, {"0": "Transformer"}, [{"type": "x"}]])
def test_modules_that_are_no_list_are_an_error(modules: Any) -> None:
    assert error_of(modules) == "its modules.json is no list of types and paths; download the model again"


@pytest.mark.parametrize("place", ["", "0_Transformer"])
def test_the_model_itself_is_where_its_module_is(place: str, tmp_path: Path) -> None:
    write(tmp_path / "modules.json", listed((f"{HEAD}Transformer", place), (f"{HEAD}Pooling", "1_Pooling")))
    assert transformer_folder(ModelFiles(str(tmp_path), None)) == place


def test_without_a_list_the_model_is_in_its_folder_and_no_sentence_model(tmp_path: Path) -> None:
    files = ModelFiles(str(tmp_path), None)
    assert (transformer_folder(files), is_sentence_model(files)) == ("", False)


@pytest.mark.parametrize(
    ("kind", "is_one"), [("SentenceTransformer", True), ("SparseEncoder", True), ("CrossEncoder", False)]
)
def test_a_cross_encoder_is_no_sentence_model(kind: str, is_one: bool, tmp_path: Path) -> None:
    configure(tmp_path, [pooling("mean")], config_sentence_transformers={"model_type": kind})
    assert is_sentence_model(ModelFiles(str(tmp_path), None)) is is_one
