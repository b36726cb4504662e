"""What a model's files say of it before anything large is read: its task, and where that stands; its embeddings.

It must never know weights, pipelines, settings objects or HTTP.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import transformers
from transformers.models.auto import modeling_auto
from transformers.pipelines import TASK_ALIASES

from pipeline_webserver.errors import ConfigurationError
from pipeline_webserver.inference.embeddings.configuration import read_embedding
from pipeline_webserver.inference.embeddings.model_files import ModelFiles
from pipeline_webserver.inference.embeddings.module_list import is_sentence_model, transformer_folder
from pipeline_webserver.inference.embeddings.sentence_embedding import SentenceEmbedding
from pipeline_webserver.inference.model_card import ModelCard, read_card

logger = logging.getLogger(__name__)

# For each task, the names of the mappings of `modeling_auto` that list its classes.
Served = Mapping[str, Sequence[str]]
# The mapping of models without a head, which are for every task whose head is not there.
HEADLESS = "MODEL_MAPPING_NAMES"
# The tags of model cards that are no pipelines: the task that serves such a model.
TAG_ALIASES = {"sentence-similarity": "feature-extraction", "text-ranking": "text-classification"}
TEXT_HEADS = {"fill-mask", "text-classification", "token-classification", "text-generation"}
IMAGE_HEADS = {"image-classification", "object-detection", "image-segmentation"}
# The tasks that a model can serve which was saved for another one: no weight that they read is missing.
FITTING = {
    "zero-shot-classification": {"text-classification"},
    "feature-extraction": TEXT_HEADS,
    "image-feature-extraction": IMAGE_HEADS,
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model's files at one revision.

    `name` is what to call the model. `subfolder` is where the model itself is, empty in all but old sentence models.
    `task_source` says where the task was read, `fitting_task` is that of the classes it was saved as. `no_embedding`:
    why a model that has a configuration for embeddings is served without them.
    """

    model: str
    name: str
    revision: str | None
    subfolder: str
    task: str
    task_source: str
    architectures: tuple[str, ...]
    fitting_task: str | None
    embedding: SentenceEmbedding | None = None
    no_embedding: str | None = None


def read_checkpoint(model: str, revision: str | None, task: str | None, served: Served) -> Checkpoint:
    """Of a folder, or of a model of the Hub or its cache; `task` is that of the setting.

    Raises `ConfigurationError`, and what transformers raises for a configuration that it cannot read.
    """
    files = ModelFiles(model, revision)
    _check_adapter(files, model)
    subfolder = _model_folder(files, model)
    config = transformers.AutoConfig.from_pretrained(
        model, revision=revision, subfolder=subfolder, trust_remote_code=False
    )
    architectures, card = tuple(config.architectures or ()), read_card(files.path("README.md"))
    fitting = task_of_classes(architectures, served)
    if task is not None:
        task, source = TASK_ALIASES.get(task, task), "PIPELINE_TASK"
    elif is_sentence_model(files):
        task, source = "feature-extraction", "modules.json"
    else:
        generates = files.path("generation_config.json") is not None
        task, source = _read_task(card, model, architectures, config.model_type if generates else None, served)
    if task not in served:
        raise ConfigurationError(f"the task {task!r} is not served; PIPELINE_TASK can be {', '.join(served)}")
    embedding, no_embedding = _embedding(model, revision, task, source)
    name = card.name_of(model)
    return Checkpoint(model, name, revision, subfolder, task, source, architectures, fitting, embedding, no_embedding)


def _check_adapter(files: ModelFiles, model: str) -> None:
    """An adapter holds the difference to another model: neither answers without the other as both together do."""
    if files.path("adapter_config.json") is None:
        return
    settings = files.settings("adapter_config.json")
    kind, base = settings.get("peft_type", "PEFT"), settings.get("base_model_name_or_path", "another model")
    raise ConfigurationError(
        f"{model!r} is an adapter ({kind}) for {base!r}, which is not served by itself; merge them with peft "
        "(merge_and_unload, then save_pretrained, and save the tokenizer) and set PIPELINE_MODEL to that folder"
    )


def _model_folder(files: ModelFiles, model: str) -> str:
    try:
        return transformer_folder(files)
    except ConfigurationError as error:
        raise ConfigurationError(f"{model!r} cannot be served: {error}") from error


def _embedding(model: str, revision: str | None, task: str, source: str) -> tuple[SentenceEmbedding | None, str | None]:
    """The embeddings, or why there are none although there is a configuration; an operator may ask for such a model."""
    if task != "feature-extraction":
        return None, None
    try:
        return read_embedding(model, revision), None
    except ConfigurationError as error:
        if source != "PIPELINE_TASK":
            serve = "or set PIPELINE_TASK=feature-extraction to serve the model without embeddings"
            raise ConfigurationError(f"{error}, {serve}") from error
        return None, str(error).replace(repr(model), "the model")  # clients see it, and a folder is not theirs to know


# The task


def _read_task(
    card: ModelCard, model: str, architectures: Sequence[str], generating_type: str | None, served: Served
) -> tuple[str, str]:
    """The task, and where it stands. `generating_type` is the family of a model that says how it generates."""
    tag = card.tag
    named = TAG_ALIASES.get(tag, TASK_ALIASES.get(tag, tag))
    by_class = task_of_classes(architectures, served)
    if named in served and can_serve(named, by_class):
        return named, "pipeline_tag in README.md"
    if by_class is not None:
        if tag:
            logger.warning("The model card's pipeline_tag is %s; the weights are for %s.", tag, by_class)
        return by_class, "architectures in config.json"
    if generating_type is not None and (task := _task_of_generation(generating_type, served)):
        return task, "generation_config.json"
    found = f"architectures: {', '.join(architectures) or 'none'}" + (f", pipeline_tag: {tag}" if tag else "")
    raise ConfigurationError(f"{model!r} does not say its task ({found}); set PIPELINE_TASK")


def can_serve(task: str, by_class: str | None) -> bool:
    """Whether a model whose classes were made for `by_class` (None: for none that is known) has what a task reads."""
    return by_class in {None, task} or by_class in FITTING.get(task, ())


def task_of_classes(architectures: Sequence[str], served: Served) -> str | None:
    """The task that one of a checkpoint's classes was made for."""
    mappings = [(task, name) for task, names in served.items() for name in names]
    mappings.sort(key=lambda mapping: mapping[1] == HEADLESS)  # the most general comes last
    for architecture in architectures:
        for task, mapping in mappings:
            if architecture in class_names(mapping):
                return task
    return None


def class_names(mapping: str) -> set[str]:
    """The classes of one of the mappings of `modeling_auto`; an entry has one or several."""
    values = getattr(modeling_auto, mapping).values()
    return {name for value in values for name in ([value] if isinstance(value, str) else value)}


def _task_of_generation(model_type: str, served: Served) -> str | None:
    """The task of a family that generates, by what it generates from."""
    mappings = {
        "text-generation": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
        "automatic-speech-recognition": "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
    }
    found = (task for task, mapping in mappings.items() if model_type in getattr(modeling_auto, mapping))
    return next((task for task in found if task in served), None)
