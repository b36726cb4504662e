"""From a model's name to a `transformers` pipeline, or to one line that says why not and what to do.

It must never know how a pipeline is run, nor settings objects.
"""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers.models.auto import modeling_auto as auto
from transformers.pipelines import TASK_ALIASES
from transformers.pipelines.base import Pipeline

from pipeline_webserver.errors import ConfigurationError, first_line

logger = logging.getLogger(__name__)

BUNDLED_MODEL = str(Path(__file__).parents[1] / "bundled_model" / "bert-small-english")

# What is at the root of it when no hub answers.
UNREACHED = (ConnectionError, TimeoutError, LocalEntryNotFoundError)

# The task that a checkpoint was made for, by the lists of classes that `transformers` has; the first one counts.
CLASSES_OF_TASK: list[tuple[str, Mapping[str, Any]]] = [
    ("fill-mask", auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES),
    ("text-classification", auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES),
    ("token-classification", auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES),
    ("text-generation", auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
    ("table-question-answering", auto.MODEL_FOR_TABLE_QUESTION_ANSWERING_MAPPING_NAMES),
    ("image-classification", auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES),
    ("object-detection", auto.MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES),
    ("image-segmentation", auto.MODEL_FOR_IMAGE_SEGMENTATION_MAPPING_NAMES),
    ("image-segmentation", auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES),
    ("image-segmentation", auto.MODEL_FOR_INSTANCE_SEGMENTATION_MAPPING_NAMES),
    ("image-segmentation", auto.MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES),
    ("automatic-speech-recognition", auto.MODEL_FOR_CTC_MAPPING_NAMES),
    ("automatic-speech-recognition", auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES),
    ("audio-classification", auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES),
    ("zero-shot-image-classification", auto.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES),
    ("image-feature-extraction", auto.MODEL_FOR_IMAGE_MAPPING_NAMES),
    ("feature-extraction", auto.MODEL_MAPPING_NAMES),
]


# What else than a model a pipeline works with, each if the pipeline says so.
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
    if any(isinstance(cause, UNREACHED) for cause in causes):
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"cannot reach {constants.ENDPOINT}"
        return (
            f"{why} and {model!r} is not in the local cache; "
            "check the network and HF_ENDPOINT, or set PIPELINE_MODEL to a local folder"
        )
    if "trust_remote_code" in str(error):
        return f"{model!r} brings code of its own, which this server does not run; choose another model"
    return f"cannot load {model!r}: {first_line(error)}"


def task_of(model: str, revision: str | None) -> str:
    """The task that a checkpoint's configuration names the architecture of. Raises `ConfigurationError`."""
    config = transformers.AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=False)
    architectures: list[str] = config.architectures or []
    for architecture in architectures:
        for task, classes in CLASSES_OF_TASK:
            # A value is one name, or several.
            if any(architecture in ([names] if isinstance(names, str) else names) for names in classes.values()):
                return task
    found = ", ".join(architectures) or "none"
    raise ConfigurationError(f"{model!r} does not say what it is for (architectures: {found}); set PIPELINE_TASK")


def pick_device(device: str) -> str:
    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda:0"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def pick_dtype(dtype: str | None, device: str) -> str:
    return dtype or ("float32" if device == "cpu" else "auto")


def load(
    model: str | None, task: str | None, revision: str | None, device: str, dtype: str | None, served: Iterable[str]
) -> Pipeline:
    """The pipeline of a Hub id or folder, by default of the bundled model.

    Raises `ConfigurationError` with one line that says what to do.
    """
    model = model or BUNDLED_MODEL
    if is_folder_name(model):
        model = str(Path(model).expanduser())
        if not Path(model).is_dir():
            raise ConfigurationError(f"the folder {model!r} does not exist; check PIPELINE_MODEL")
    device = pick_device(device)
    transformers.utils.logging.disable_progress_bar()
    try:
        task = TASK_ALIASES.get(task, task) if task else task_of(model, revision)
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
    for part in PARTS:
        if getattr(pipe, f"_load_{part}") and getattr(pipe, part) is None:
            raise ConfigurationError(f"{model!r} has no {part.replace('_', ' ')}, so it cannot serve the task {task!r}")
    # From here on it would only quote what clients send.
    transformers.utils.logging.set_verbosity_error()
    return pipe
