"""Which preparation and which postprocess each task has. It must never know requests or HTTP."""

import importlib
from collections.abc import Callable
from typing import Any

from transformers.pipelines.base import Pipeline
from transformers.pipelines.fill_mask import FillMaskPipeline

from pipeline_webserver.errors import ConfigurationError, first_line
from pipeline_webserver.inference.preprocessing.base import Limits, Preparation
from pipeline_webserver.inference.preprocessing.feature_extraction import FeaturePreparation, features, image_features
from pipeline_webserver.inference.preprocessing.fill_mask import FillMask
from pipeline_webserver.inference.preprocessing.text import ClassifiedPreparation, MaskedPreparation, TextPreparation
from pipeline_webserver.inference.preprocessing.text_generation import PromptPreparation, Written

TEXTS: dict[str, type[Preparation]] = {
    "feature-extraction": FeaturePreparation,
    "fill-mask": MaskedPreparation,
    "text-classification": ClassifiedPreparation,
    "text-generation": PromptPreparation,
}
# What not everyone has installed: the module and the extra that brings what it imports.
TABLES, IMAGES, SOUND = ("table", "tables"), ("image", "media"), ("audio", "media")
OPTIONAL: dict[str, tuple[tuple[str, str], str]] = {
    "table-question-answering": (TABLES, "TablePreparation"),
    "image-classification": (IMAGES, "ImagePreparation"),
    "object-detection": (IMAGES, "ImagePreparation"),
    "image-segmentation": (IMAGES, "ImagePreparation"),
    "image-feature-extraction": (IMAGES, "ImagePreparation"),
    "zero-shot-image-classification": (IMAGES, "ImagePreparation"),
    "audio-classification": (SOUND, "AudioPreparation"),
    "automatic-speech-recognition": (SOUND, "SpeechPreparation"),
}


# Results that are large: not as lists, which take as long to make as to write.
ARRAYS: dict[str, Callable[..., Any]] = {"feature-extraction": features, "image-feature-extraction": image_features}


def preparation_class(task: str) -> type[Preparation]:
    """Raises `ConfigurationError` if what the task needs is not installed."""
    if task not in OPTIONAL:
        return TEXTS.get(task, TextPreparation)
    (module, extra), name = OPTIONAL[task]
    try:
        found: type[Preparation] = getattr(importlib.import_module(f"{__package__}.{module}"), name)
    except (ImportError, OSError) as error:  # also where a library of the system is missing
        raise ConfigurationError(
            f"the task {task!r} needs more than is installed ({first_line(error)}): pip install -e '.[{extra}]'"
        ) from error
    return found


def preparation_of(pipe: Pipeline, limits: Limits) -> Preparation:
    return preparation_class(pipe.task)(pipe, limits)


def postprocess_of(pipe: Pipeline) -> Callable[..., Any]:
    """From the outputs of an input's rows to its result: what the pipeline's own makes of it, as far as JSON has it."""
    if type(pipe) is FillMaskPipeline:
        return FillMask(pipe)
    if pipe.task in ARRAYS:
        return ARRAYS[pipe.task]
    if pipe.task == "text-generation":
        return Written(pipe)
    postprocess: Callable[..., Any] = pipe.postprocess
    if pipe.task == "image-segmentation":
        return lambda *args, **kwargs: [_in_json(segment) for segment in postprocess(*args, **kwargs)]
    return postprocess


def _in_json(segment: dict[str, Any]) -> dict[str, Any]:
    """A segment whose mask is a file."""
    png_of = importlib.import_module(f"{__package__}.image").png_of
    return {**segment, "mask": png_of(segment["mask"])}
