"""A model's weights: loaded into the class of a task, with what is missing among them.

It must never know pipelines, nor what a missing weight means for an answer.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import transformers
from transformers import PreTrainedModel

from pipeline_webserver.errors import ConfigurationError
from pipeline_webserver.inference import internals
from pipeline_webserver.inference.checkpoint import Checkpoint

# So many names of weights are told.
MAX_NAMES = 4


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """`untrained`: the weights that no file has, so that they are random; tied ones and the like are not among them."""

    model: PreTrainedModel
    untrained: tuple[str, ...]


def model_classes(checkpoint: Checkpoint) -> list[Any]:
    """Those in which the task's pipeline takes the model. Raises `ConfigurationError` if there is none."""
    config = transformers.AutoConfig.from_pretrained(
        checkpoint.model, revision=checkpoint.revision, subfolder=checkpoint.subfolder, trust_remote_code=False
    )
    classes = internals.model_classes(checkpoint.task, config)
    if checkpoint.fitting_task in {None, checkpoint.task}:  # the pipeline's next choice
        named = (getattr(transformers, name, None) for name in checkpoint.architectures)
        classes += [kind for kind in named if kind is not None]
    if not classes:
        raise ConfigurationError(
            f"{checkpoint.model!r} is a {config.model_type} model, which has no form for the task "
            f"{checkpoint.task!r}; {advice(checkpoint)}"
        )
    return classes


def load_model(checkpoint: Checkpoint, classes: Sequence[Any], dtype: str) -> LoadedModel:
    """In the first of the classes that can be loaded. Raises `ConfigurationError`, and what transformers raises."""
    first_error: Exception | None = None
    for model_class in classes:
        try:
            return _load_as(model_class, checkpoint, dtype)
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            first_error = first_error or error
    assert first_error is not None, "there is a class"
    raise first_error


def _load_as(model_class: Any, checkpoint: Checkpoint, dtype: str) -> LoadedModel:
    with _without_report():
        model, report = model_class.from_pretrained(
            checkpoint.model,
            revision=checkpoint.revision,
            subfolder=checkpoint.subfolder,
            dtype=dtype,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # those are told below, with their sizes
            output_loading_info=True,
        )
    if mismatched := sorted(report["mismatched_keys"]):
        name, stored, expected = mismatched[0]
        others = f" (and {len(mismatched) - 1} more)" if len(mismatched) > 1 else ""
        raise ConfigurationError(
            f"the weights of {checkpoint.model!r} do not fit its config.json: {name}{others} is {list(stored)}, and "
            f"{list(expected)} by the configuration; save or download the model again"
        )
    return LoadedModel(model, tuple(sorted(report["missing_keys"])))


@contextmanager
def _without_report() -> Iterator[None]:
    """Without transformers' table of missing weights: it is told in one line, where it matters.

    By a filter, since another level of this logger makes transformers 5.24 check plans for several devices, and warn.
    """
    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(_is_no_report)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_report)


def _is_no_report(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    return "LOAD REPORT" not in text or "CONVERSION" in text  # the latter is the only account of an error


def advice(checkpoint: Checkpoint) -> str:
    """What to do about a model that is not for the task."""
    saved_as = ", ".join(checkpoint.architectures)
    if checkpoint.fitting_task in {None, checkpoint.task}:
        return "choose another model" if not saved_as else f"it was saved as {saved_as}; choose another model"
    return f"it was saved as {saved_as}: set PIPELINE_TASK={checkpoint.fitting_task}, or choose another model"


def name_some(names: Sequence[str]) -> str:
    """The first ones, and how many more there are."""
    rest = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {rest} more" if rest > 0 else "")
