"""The wire contract, pure: request bytes to inputs and parameters, outputs to JSON bytes.

A body of any type but JSON is the text itself, and is answered with what `pipe(text)` returns. JSON is the form of the
Hugging Face Inference API, answered in the shape that `huggingface_hub.InferenceClient` parses. Parameters are checked
against the typed specification of the task that `huggingface_hub` ships; nothing else gets through. It must never know
Starlette, the queue or the model.
"""

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, get_type_hints

import orjson
from huggingface_hub import (
    FeatureExtractionInput,
    FillMaskParameters,
    TextClassificationParameters,
    TokenClassificationParameters,
    ZeroShotClassificationParameters,
)
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model

from errors import Malformed, Rejected, TooLarge, UnsupportedMediaType

# What the specification leaves open: the least value of each number, and the most entries of a list.
LEAST = {"top_k": 1, "stride": 0}
MOST = {"targets": 256, "candidate_labels": 256, "ignore_labels": 256}


def _unchanged(output: Any) -> Any:
    return output


def _labels_with_scores(output: Any) -> Any:
    pairs = zip(output["labels"], output["scores"], strict=True)
    return [{"label": label, "score": score} for label, score in pairs]


@dataclass(frozen=True, slots=True)
class Task:
    """One task's contract.

    `parameters` are the names of the specification that the pipeline has, each with the pipeline's name for it.
    `shape` turns a pipeline's output into the form's; `always_list` is set where even one input is answered in a list.
    """

    specification: type
    parameters: Mapping[str, str]
    at_root: bool = False
    shape: Callable[[Any], Any] = _unchanged
    always_list: bool = False
    model: type[BaseModel] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", checker(self.specification, self.parameters))


def checker(specification: type, names: Mapping[str, str]) -> type[BaseModel]:
    """A strict pydantic model of some parameters of a specification; None means left out, as clients send it."""
    hints = get_type_hints(specification)
    defaults = {item.name: item.default for item in fields(specification) if item.name in names}
    checked: dict[str, Any] = {}
    for name, default in defaults.items():
        hint: Any = Annotated[hints[name], Field(ge=LEAST.get(name), max_length=MOST.get(name))]
        if name == "hypothesis_template":
            hint = Annotated[hint, AfterValidator(plain_template)]
        checked[name] = (hint, None if default is None else ...)
    return create_model(specification.__name__, __config__=ConfigDict(extra="forbid", strict=True), **checked)


def plain_template(template: str | None) -> str | None:
    """A template may hold plain `{}` only: `str.format` has formats that make gigabytes, and attributes."""
    for _, name, form, conversion in string.Formatter().parse(template or ""):
        if name or form or conversion:
            raise ValueError("only plain {} may stand in it")
    return template


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


TASKS = {
    "fill-mask": Task(FillMaskParameters, _same("targets", "top_k")),
    "text-classification": Task(TextClassificationParameters, _same("function_to_apply", "top_k"), always_list=True),
    "token-classification": Task(
        TokenClassificationParameters, _same("aggregation_strategy", "ignore_labels", "stride")
    ),
    "feature-extraction": Task(FeatureExtractionInput, {"truncate": "truncation"}, at_root=True),
    "zero-shot-classification": Task(
        ZeroShotClassificationParameters,
        _same("candidate_labels", "hypothesis_template", "multi_label"),
        shape=_labels_with_scores,
    ),
}


@dataclass(frozen=True, slots=True)
class Work:
    """What a request asks for: its inputs, the pipeline's parameters, and the form that the answer takes."""

    inputs: list[str]
    parameters: dict[str, object]
    is_json: bool
    is_list: bool


# Requests


def parse(body: bytes, content_type: str, task: Task, max_inputs: int) -> Work:
    """Raises `Malformed`, `Rejected`, `TooLarge` or `UnsupportedMediaType`."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type.startswith(("image/", "audio/", "video/")):
        raise UnsupportedMediaType(f"This pipeline takes text, not {media_type}.")
    if media_type == "application/json":
        return _parse_json(body, task, max_inputs)
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"The body is not UTF-8: {error.reason} at byte {error.start}.") from None
    return Work([text], check({}, task), is_json=False, is_list=False)


def _parse_json(body: bytes, task: Task, max_inputs: int) -> Work:
    try:
        form = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"The body is not JSON: {error}.") from None
    if not isinstance(form, dict) or "inputs" not in form:
        raise Malformed('The JSON form is {"inputs": a text or a list of texts, "parameters": {...}}.')
    inputs = form.pop("inputs")
    is_list = isinstance(inputs, list)
    texts = inputs if is_list else [inputs]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise Malformed("'inputs' must be a text or a list of texts.")
    if len(texts) > max_inputs:
        raise TooLarge(f"The request has {len(texts)} inputs; the limit is {max_inputs}.")
    return Work(texts, check(_parameters(form, task), task), is_json=True, is_list=is_list)


def _parameters(form: dict[str, Any], task: Task) -> dict[str, Any]:
    """The parameters of a form without its inputs. `options` is the hosted API's own, and means nothing here."""
    form.pop("options", None)
    parameters = form.pop("parameters", None)
    if parameters is not None and not isinstance(parameters, dict):
        raise Malformed("'parameters' must be an object.")
    if form and not task.at_root:
        raise Malformed(f"Unknown field {next(iter(form))!r}; the fields are 'inputs' and 'parameters'.")
    return {**form, **(parameters or {})}


def check(parameters: dict[str, Any], task: Task) -> dict[str, object]:
    """The parameters by the pipeline's names. Raises `Malformed` (wrong type) or `Rejected` (wrong name or value)."""
    try:
        checked = task.model.model_validate({name: value for name, value in parameters.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name, allowed = str(first["loc"][0]), ", ".join(task.parameters)
        if first["type"] == "extra_forbidden":
            raise Rejected(f"Unknown parameter {name!r}; this pipeline takes {allowed}.") from None
        kind = Malformed if first["type"].endswith("_type") else Rejected
        raise kind(f"Parameter {name!r}: {first['msg'].removeprefix('Value error, ')}.") from None
    return {task.parameters[name]: getattr(checked, name) for name in checked.model_fields_set}


# Answers


def render(work: Work, outputs: list[Any], task: Task) -> bytes:
    """The outputs, one for each input, as JSON."""
    answer: Any = outputs[0]
    if work.is_json:
        shaped = [task.shape(output) for output in outputs]
        answer = shaped if work.is_list or task.always_list else shaped[0]
    return to_json(answer)


def to_json(value: object) -> bytes:
    """Plain values, and numpy's, as JSON."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
