"""The tasks that are served: what each takes, by which parameters, and in which shape the JSON form answers.

Parameters are those of the task's official specification, as `huggingface_hub` ships it, as far as the pipeline has
them. It must never know bytes, Starlette, the queue or the model.
"""

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal, get_type_hints

from huggingface_hub import (
    AudioClassificationParameters,
    AutomaticSpeechRecognitionGenerationParameters,
    AutomaticSpeechRecognitionParameters,
    FeatureExtractionInput,
    FillMaskParameters,
    ImageClassificationParameters,
    ImageSegmentationParameters,
    ObjectDetectionParameters,
    TableQuestionAnsweringParameters,
    TextClassificationParameters,
    TextGenerationInputGenerateParameters,
    TokenClassificationParameters,
    ZeroShotClassificationParameters,
    ZeroShotImageClassificationParameters,
)
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from pipeline_webserver.errors import Malformed, Rejected

# What an input is: a text, the bytes of a file, or a table with a question.
Kind = Literal["text", "image", "audio", "table"]

# What the specification leaves open: the range of each number, and the most entries of a list.
RANGES: dict[str, dict[str, Any]] = {
    "top_k": {"ge": 1},
    "stride": {"ge": 0},
    "targets": {"min_length": 1, "max_length": 256},
    "candidate_labels": {"min_length": 1, "max_length": 256},
    "ignore_labels": {"max_length": 256},
    "stop": {"min_length": 1, "max_length": 4},
    "threshold": {"ge": 0, "le": 1},
    "mask_threshold": {"ge": 0, "le": 1},
    "overlap_mask_area_threshold": {"ge": 0, "le": 1},
    "max_new_tokens": {"ge": 1},
    "min_new_tokens": {"ge": 0},
    "num_beams": {"ge": 1, "le": 8},
    "temperature": {"ge": 0.01, "le": 100},  # beyond, numbers overflow
    "top_p": {"gt": 0, "le": 1},
    "typical_p": {"gt": 0, "le": 1},
    "repetition_penalty": {"ge": 0.1, "le": 10},
    "seed": {"ge": 0, "lt": 2**63},
}


@dataclass
class ImageFeatureExtractionParameters:
    """There is no official specification of this task; the pipeline has this one parameter."""

    pool: bool | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """One task's contract.

    `parameters` are the names of the specification that the pipeline has, each with the pipeline's name for it; of
    `at_root` they may stand beside the inputs as well. `shape` turns a pipeline's output into the form's;
    `answers_list` tells of such an output whether even one input is answered in a list. `pooled` is set where the form
    asks for what the model's own configuration makes of the pipeline's output.
    """

    specification: type
    parameters: Mapping[str, str]
    takes: Kind = "text"
    takes_pairs: bool = False
    at_root: bool = False
    pooled: bool = False
    shape: Callable[[Any], Any] = lambda output: output
    answers_list: Callable[[Any], bool] = lambda output: False
    model: type[BaseModel] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", checker(self.specification, self.parameters))

    @property
    def takes_file(self) -> bool:
        return self.takes in {"image", "audio"}

    @property
    def max_body_bytes(self) -> int:
        """The limit of a body, unless a setting says another: 16 MiB for files, 1 MiB for the rest."""
        return 2**24 if self.takes_file else 2**20


def checker(specification: type, names: Mapping[str, str]) -> type[BaseModel]:
    """A strict pydantic model of some parameters of a specification; None means left out, as clients send it."""
    hints = get_type_hints(specification)
    defaults = {item.name: item.default for item in fields(specification) if item.name in names}
    checked: dict[str, Any] = {
        name: (
            Annotated[HINTS.get(name, hints[name]), Field(**RANGES.get(name, {})), BeforeValidator(whole)],
            None if default is None else ...,
        )
        for name, default in defaults.items()
    }
    return create_model(specification.__name__, __config__=ConfigDict(extra="forbid", strict=True), **checked)


def whole(value: object) -> object:
    """JSON makes no difference between 3 and 3.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def plain_template(template: str) -> str:
    """A template has one plain `{}`: `str.format` has formats that make gigabytes, and attributes."""
    fields = [field[1:] for field in string.Formatter().parse(template) if field[1] is not None]
    if fields != [("", "", None)]:
        raise ValueError("one plain {} must stand in it, and nothing else in braces")
    return template


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


def _labels_with_scores(output: Any) -> Any:
    pairs = zip(output["labels"], output["scores"], strict=True)
    return [{"label": label, "score": score} for label, score in pairs]


# Types that are narrower than the specification's. Doubled braces stand for themselves.
ONE_FIELD: dict[str, Any] = {"pattern": r"^([^{}]|\{\{|\}\})*\{\}([^{}]|\{\{|\}\})*$"}
HINTS: dict[str, Any] = {
    "hypothesis_template": Annotated[str, AfterValidator(plain_template), Field(json_schema_extra=ONE_FIELD)] | None,
    "stop": list[Annotated[str, Field(min_length=1, max_length=64)]] | None,
    "targets": list[Annotated[str, Field(min_length=1)]] | None,
}
# What a model that writes text can be told. Beams and the least length are for speech only: there texts are short.
WRITING = _same("do_sample", "max_new_tokens", "temperature", "top_k", "top_p", "typical_p")
GENERATION_PARAMETERS = WRITING | _same("epsilon_cutoff", "eta_cutoff", "min_new_tokens", "num_beams")
HINTS["generation_parameters"] = checker(AutomaticSpeechRecognitionGenerationParameters, GENERATION_PARAMETERS) | None

TASKS = {
    "fill-mask": Task(FillMaskParameters, _same("targets", "top_k")),
    "text-classification": Task(
        TextClassificationParameters,
        _same("function_to_apply", "top_k"),
        takes_pairs=True,
        shape=lambda output: output if isinstance(output, list) else [output],
        answers_list=lambda output: True,
    ),
    "token-classification": Task(
        TokenClassificationParameters, _same("aggregation_strategy", "ignore_labels", "stride")
    ),
    "feature-extraction": Task(
        FeatureExtractionInput,
        {"truncate": "truncation"} | _same("normalize", "prompt_name", "truncation_direction"),
        at_root=True,
        pooled=True,
        answers_list=lambda output: output.ndim == 1,
    ),
    "zero-shot-classification": Task(
        ZeroShotClassificationParameters,
        _same("candidate_labels", "hypothesis_template", "multi_label"),
        shape=_labels_with_scores,
    ),
    "text-generation": Task(
        TextGenerationInputGenerateParameters,
        WRITING | {"stop": "stop_sequence"} | _same("repetition_penalty", "return_full_text", "seed"),
    ),
    "table-question-answering": Task(
        TableQuestionAnsweringParameters, _same("padding", "sequential", "truncation"), takes="table"
    ),
    "image-classification": Task(ImageClassificationParameters, _same("function_to_apply", "top_k"), takes="image"),
    "object-detection": Task(ObjectDetectionParameters, _same("threshold"), takes="image"),
    "image-segmentation": Task(
        ImageSegmentationParameters,
        _same("mask_threshold", "overlap_mask_area_threshold", "subtask", "threshold"),
        takes="image",
    ),
    "image-feature-extraction": Task(ImageFeatureExtractionParameters, _same("pool"), takes="image"),
    "zero-shot-image-classification": Task(
        ZeroShotImageClassificationParameters, _same("candidate_labels", "hypothesis_template"), takes="image"
    ),
    "automatic-speech-recognition": Task(
        AutomaticSpeechRecognitionParameters,
        {"generation_parameters": "generate_kwargs"} | _same("return_timestamps"),
        takes="audio",
    ),
    "audio-classification": Task(AudioClassificationParameters, _same("function_to_apply", "top_k"), takes="audio"),
}


def check(parameters: Mapping[str, Any], task: Task) -> dict[str, object]:
    """The parameters by the pipeline's names. Raises `Malformed` (wrong type) or `Rejected` (wrong name or value)."""
    try:
        checked = task.model.model_validate({name: value for name, value in parameters.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"] if isinstance(part, str))
        if first["type"] == "extra_forbidden":
            taken = GENERATION_PARAMETERS if "." in name else task.parameters
            raise Rejected(f"Unknown parameter {name!r}; this pipeline takes {', '.join(taken) or 'none'}.") from None
        kind = Malformed if first["type"].endswith("_type") else Rejected
        raise kind(f"Parameter {name!r}: {first['msg'].removeprefix('Value error, ')}.") from None
    given = checked.model_dump(exclude_unset=True, exclude_none=True)
    return {task.parameters[name]: value for name, value in given.items()}
