"""From a model's name to a `transformers` pipeline, or to one line that says why not and what to do.

It loads the parts that `transformers.pipeline` would load, each by itself: so an error has its cause, and what is
missing among the weights is known. It must never know how a pipeline is run, nor settings objects.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.pipelines.base import Pipeline

from pipeline_webserver.errors import ConfigurationError
from pipeline_webserver.inference import internals
from pipeline_webserver.inference.checkpoint import Checkpoint, Served, read_checkpoint
from pipeline_webserver.inference.downloads import shown_downloads
from pipeline_webserver.inference.loading_errors import explain_hub, explain_loading
from pipeline_webserver.inference.weights import load_model, model_classes

logger = logging.getLogger(__name__)

BUNDLED_MODEL = str(Path(__file__).parents[1] / "bundled_model" / "bert-small-english")

# What a pipeline may work with besides its model, each with the class that loads it. The `AutoImageProcessor` that
# transformers shows needs torchvision before 5.22; the one behind it does not.
PARTS = {
    "tokenizer": transformers.AutoTokenizer,
    "image_processor": AutoImageProcessor,
    "feature_extractor": transformers.AutoFeatureExtractor,
}
# In one of these is what a tokenizer knows, whatever its kind; some kinds have names of their own besides.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.txt", "vocab.json", "spiece.model")


def is_folder_name(model: str) -> bool:
    """Whether a model's name can only mean a folder: Hub ids are `name` or `owner/name`."""
    return model.startswith((".", "/", "~", "\\")) or model.count("/") > 1 or "\\" in model


def pick_device(device: str) -> str:
    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda:0"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def pick_dtype(dtype: str | None, device: str) -> str:
    return dtype or ("float32" if device == "cpu" else "auto")


def load(
    model: str | None,
    task: str | None,
    revision: str | None,
    device: str,
    dtype: str | None,
    served: Served,
    extras: Mapping[str, str | None] | None = None,
) -> Pipeline:
    """The pipeline of a Hub id or folder, by default of the bundled model, for one of the tasks in `served`.

    It has two attributes of ours: `checkpoint`, and `untrained`, the names of weights that are in none of its files.
    `extras` has, for each task, the extra of this package that it needs. Raises `ConfigurationError` with one line
    that says what to do.
    """
    model, device, started = find_folder(model or BUNDLED_MODEL), pick_device(device), time.perf_counter()
    logger.info("Loading %s.", model)
    with shown_downloads(model):
        with explained(model, revision):
            checkpoint = read_checkpoint(model, revision, task, served)
        logger.info("The task is %s, by %s.", checkpoint.task, checkpoint.task_source)
        with explained(model, revision, (extras or {}).get(checkpoint.task)):
            pipe = _assemble(checkpoint, device, pick_dtype(dtype, device))
    # From here on it would only quote what clients send.
    transformers.utils.logging.set_verbosity_error()
    logger.info("Loaded in %.1f s.", time.perf_counter() - started)
    return pipe


@contextmanager
def explained(model: str, revision: str | None, extra: str | None = None) -> Iterator[None]:
    """Whatever is raised inside, is raised as a `ConfigurationError`; what the Hub refuses, whichever file it was."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ConfigurationError) and explain_hub(model, revision, error) is None:
            raise
        logger.debug("loading failed", exc_info=True)
        raise ConfigurationError(explain_loading(model, revision, error, extra)) from error


def find_folder(model: str) -> str:
    """The model, with a folder's whole path. Raises `ConfigurationError` if it can only be a folder and is none."""
    if is_folder_name(model):
        model = str(Path(model).expanduser())
        if not Path(model).is_dir():
            raise ConfigurationError(f"the folder {model!r} does not exist; check PIPELINE_MODEL")
    return model


def _assemble(checkpoint: Checkpoint, device: str, dtype: str) -> Pipeline:
    kind, classes = internals.pipeline_class(checkpoint.task), model_classes(checkpoint)
    parts = {name: part for name in PARTS if (part := _load_part(checkpoint, kind, name)) is not None}
    loaded = load_model(checkpoint, classes, dtype)
    pipe = transformers.pipeline(checkpoint.task, model=loaded.model, device=device, dtype=dtype, **parts)
    pipe.checkpoint, pipe.untrained = checkpoint, loaded.untrained
    return pipe


def _load_part(checkpoint: Checkpoint, kind: type[Pipeline], name: str) -> Any:
    """A tokenizer or processor; None if the pipeline does not need one, and has none. Raises `ConfigurationError`."""
    needed = internals.needs_part(kind, name)
    if needed is False:
        return None
    try:
        part = PARTS[name].from_pretrained(
            checkpoint.model, revision=checkpoint.revision, subfolder=checkpoint.subfolder, trust_remote_code=False
        )
    except (ImportError, ConnectionError, MemoryError):
        raise
    except Exception as error:
        if needed is None:
            return None
        if not _has_files(checkpoint, name):
            raise _lacks(checkpoint, name) from error
        raise
    if needed and name == "tokenizer" and not knows_words(part):
        raise _lacks(checkpoint, name)
    return part


def knows_words(tokenizer: Any) -> bool:
    """Whether it has more than special tokens: without files, transformers makes up one that knows only those."""
    words = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
    return len(words) > 2  # the mark of a word's beginning may be left


def _has_files(checkpoint: Checkpoint, name: str) -> bool:
    names = TOKENIZER_FILES if name == "tokenizer" else ("preprocessor_config.json", "processor_config.json")
    paths = [f"{checkpoint.subfolder}/{file}" if checkpoint.subfolder else file for file in names]
    return any(internals.cached_path(checkpoint.model, path, checkpoint.revision) is not None for path in paths)


def _lacks(checkpoint: Checkpoint, name: str) -> ConfigurationError:
    return ConfigurationError(
        f"{checkpoint.model!r} has no {name.replace('_', ' ')}, which the task {checkpoint.task!r} needs; "
        f"call {name}.save_pretrained on the same folder"
    )
