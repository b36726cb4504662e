"""From a model's name to a `transformers` pipeline, or to one line that says why not and what to do.

It must never know how a pipeline is run, nor settings objects.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import transformers
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers.models.auto import modeling_auto
from transformers.pipelines import TASK_ALIASES
from transformers.pipelines.base import Pipeline

from pipeline_webserver.errors import ConfigurationError, first_line
from pipeline_webserver.inference import internals

logger = logging.getLogger(__name__)

BUNDLED_MODEL = str(Path(__file__).parents[1] / "bundled_model" / "bert-small-english")

# The causes of an error that say that no Hub was reached.
UNREACHABLE = (ConnectionError, TimeoutError, LocalEntryNotFoundError)
# The mapping of models without a head, which are for every task whose head is not there.
HEADLESS = "MODEL_MAPPING_NAMES"
# What a pipeline may work with besides its model.
PARTS = ("tokenizer", "image_processor", "feature_extractor")


def is_folder_name(model: str) -> bool:
    """Whether a model's name can only mean a folder: Hub ids are `name` or `owner/name`."""
    return model.startswith((".", "/", "~", "\\")) or model.count("/") > 1 or "\\" in model


def explain_loading(model: str, revision: str | None, error: BaseException) -> str:
    """One line that says why a model could not be loaded, and what to do."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return f"{model!r} is gated: accept its terms on its page, and set HF_TOKEN to a token that may read it"
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        where = f"there is no model {model!r} at {constants.ENDPOINT}"
        return f"{where}; check PIPELINE_MODEL, or set HF_TOKEN if it is private"
    if any(isinstance(cause, RevisionNotFoundError) for cause in causes):
        return f"{model!r} has no revision {revision!r}; check PIPELINE_REVISION"
    if any(isinstance(cause, UNREACHABLE) for cause in causes):
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"cannot reach {constants.ENDPOINT}"
        return (
            f"{why} and {model!r} is not in the local cache; "
            "check the network and HF_ENDPOINT, or set PIPELINE_MODEL to a local folder"
        )
    if "trust_remote_code" in str(error):
        return f"{model!r} brings code of its own, which this server does not run; choose another model"
    return f"cannot load {model!r}: {first_line(error)}"


def task_of(model: str, revision: str | None, served: Mapping[str, Sequence[str]]) -> str:
    """The task that the architecture in a checkpoint's configuration was made for.

    `served` has, for each task, the names of the mappings of `modeling_auto` that list its classes. Raises
    `ConfigurationError`.
    """
    config = transformers.AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=False)
    architectures: list[str] = config.architectures or []
    mappings = [(task, name) for task, names in served.items() for name in names]
    mappings.sort(key=lambda mapping: mapping[1] == HEADLESS)  # the most general comes last
    for architecture in architectures:
        for task, mapping in mappings:
            if architecture in class_names(mapping):
                return task
    found = ", ".join(architectures) or "none"
    raise ConfigurationError(f"{model!r} does not say its task (architectures: {found}); set PIPELINE_TASK")


def class_names(mapping: str) -> set[str]:
    """The classes of one of the mappings of `modeling_auto`; an entry has one or several."""
    values = getattr(modeling_auto, mapping).values()
    return {name for value in values for name in ([value] if isinstance(value, str) else value)}


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
    served: Mapping[str, Sequence[str]],
) -> Pipeline:
    """The pipeline of a Hub id or folder, by default of the bundled model, for one of the tasks in `served`.

    Raises `ConfigurationError` with one line that says what to do.
    """
    model = find_folder(model or BUNDLED_MODEL)
    device = pick_device(device)
    transformers.utils.logging.disable_progress_bar()
    try:
        task = TASK_ALIASES.get(task, task) if task else task_of(model, revision, served)
        if task not in served:
            raise ConfigurationError(f"the task {task!r} is not served; PIPELINE_TASK can be {', '.join(served)}")
        dtype = pick_dtype(dtype, device)
        pipe = transformers.pipeline(
            task, model=model, revision=revision, device=device, dtype=dtype, trust_remote_code=False
        )
    except ConfigurationError:
        raise
    except Exception as error:
        logger.debug("loading failed", exc_info=True)
        raise ConfigurationError(explain_loading(model, revision, error)) from error
    check_parts(pipe, model)
    pipe.revision = revision  # transformers does not keep it, and there are more files to read at the same one
    # From here on it would only quote what clients send.
    transformers.utils.logging.set_verbosity_error()
    return pipe


def find_folder(model: str) -> str:
    """The model, with a folder's whole path. Raises `ConfigurationError` if it can only be a folder and is none."""
    if is_folder_name(model):
        model = str(Path(model).expanduser())
        if not Path(model).is_dir():
            raise ConfigurationError(f"the folder {model!r} does not exist; check PIPELINE_MODEL")
    return model


def check_parts(pipe: Pipeline, model: str) -> None:
    """Raises `ConfigurationError` if the pipeline lacks a part that it works with."""
    for part in PARTS:
        if internals.needs_part(pipe, part) and getattr(pipe, part) is None:
            kind = part.replace("_", " ")
            raise ConfigurationError(f"{model!r} has no {kind}, so it cannot serve the task {pipe.task!r}")
