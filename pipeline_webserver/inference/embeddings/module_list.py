"""Which modules a sentence-transformers model lists, and in which folder each is.

It must never know what a module computes.
"""

from pathlib import PurePosixPath
from typing import Any

from pipeline_webserver.errors import ConfigurationError
from pipeline_webserver.inference.embeddings.model_files import ModelFiles

CHOOSE = "choose another model"


def is_sentence_model(files: ModelFiles) -> bool:
    """Whether a model has a configuration for embeddings, served here or not. A cross-encoder is a classifier."""
    return files.path("modules.json") is not None and made_for(files) != "CrossEncoder"


def made_for(files: ModelFiles) -> str:
    """The kind of model, by the name of its class."""
    return str(files.settings("config_sentence_transformers.json").get("model_type", "SentenceTransformer"))


def transformer_folder(files: ModelFiles) -> str:
    """Where the model itself is among its files: the first versions had a folder for it, as for every module.

    Raises `ConfigurationError` if there is no model of transformers.
    """
    modules = files.json("modules.json")
    if modules is None:
        return ""
    kinds, folders = listed_modules(modules)
    if kinds[:1] == ["Transformer"]:
        return folders[0]
    if files.path("config.json") is None:
        raise ConfigurationError(
            f"it is a sentence-transformers model of {', '.join(kinds)}; served are those that begin with a "
            f"Transformer; {CHOOSE}"
        )
    return ""


def listed_modules(modules: Any) -> tuple[list[str], list[str]]:
    """The kinds and the folders of modules, all of them sentence-transformers' own. Raises `ConfigurationError`."""
    try:
        types, folders = [str(module["type"]) for module in modules], [str(module["path"]) for module in modules]
    except (TypeError, KeyError) as error:
        raise ConfigurationError("its modules.json is no list of types and paths; download the model again") from error
    for name, folder in zip(types, folders, strict=True):
        if not name.startswith("sentence_transformers."):
            raise ConfigurationError(
                f"its module {name!r} is code of its own, which this server does not run; {CHOOSE}"
            )
        if PurePosixPath(folder).is_absolute() or ".." in PurePosixPath(folder).parts:
            raise ConfigurationError(f"its module {name!r} is in {folder!r}, outside of the model; {CHOOSE}")
    return [name.rpartition(".")[2] for name in types], folders
