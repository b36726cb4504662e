"""The parameters of requests: which a specification has, their types and ranges, and how given ones are checked.

The specifications are those that `huggingface_hub` ships. It must never know which task has which parameters, nor the
bytes they came in.
"""

import string
from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, get_type_hints

from huggingface_hub import AutomaticSpeechRecognitionGenerationParameters
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from pipeline_webserver.api.codec import to_json
from pipeline_webserver.errors import Malformed, Rejected

# What the specifications leave open: the range of each number, and the length of each list.
RANGES: dict[str, dict[str, Any]] = {
    "top_k": {"ge": 1},
    "stride": {"ge": 0},
    "targets": {"min_length": 1, "max_length": 256},
    "candidate_labels": {"min_length": 1, "max_length": 256},
    "ignore_labels": {"max_length": 256},
    "stop": {"max_length": 4},
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
    "dimensions": {"ge": 1},
    "seed": {"ge": 0, "lt": 2**63},
}


def only(value: float | None) -> Any:
    """The type of a parameter that has one value, or none at all."""

    def check(given: object) -> object:
        if given != value:
            raise ValueError(f"this server takes {to_json(value).decode()} only")
        return given

    if value is None:
        return Annotated[Any, AfterValidator(check), Field(json_schema_extra={"type": "null"})]
    return Annotated[type(value), AfterValidator(check), Field(json_schema_extra={"const": value})] | None


# Parameters of specifications that no pipeline has, each with the value that asks for nothing: clients send it.
NEUTRAL: dict[str, Any] = {
    "adapter_id": only(None),
    "best_of": only(1),
    "decoder_input_details": only(False),
    "details": only(False),
    "frequency_penalty": only(0.0),
    "grammar": only(None),
    "top_n_tokens": only(0),
    "truncate": only(None),
    "watermark": only(False),
}


def parameters_model(specification: type, names: Mapping[str, str]) -> type[BaseModel]:
    """A strict pydantic model of the parameters of a dataclass that are in `names`, and of neutral ones."""
    hints = get_type_hints(specification) | {name: hint for name, hint in NEUTRAL.items() if name not in names}
    typed: dict[str, Any] = {
        item.name: (_type_of(item.name, hints[item.name]), None if item.default is None else ...)
        for item in fields(specification)
        if item.name in names or item.name in NEUTRAL
    }
    return create_model(specification.__name__, __config__=ConfigDict(extra="forbid", strict=True), **typed)


def _type_of(name: str, hint: Any) -> Any:
    return Annotated[HINTS.get(name, hint), Field(**RANGES.get(name, {})), BeforeValidator(integral_float_to_int)]


def integral_float_to_int(value: object) -> object:
    """JSON does not distinguish 3.0 from 3."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def plain_template(template: str) -> str:
    """A template has one plain `{}`: `str.format` has formats that make gigabytes, and attributes."""
    replaced = [field[1:] for field in string.Formatter().parse(template) if field[1] is not None]
    if replaced != [("", "", None)]:
        raise ValueError("one plain {} must stand in it, and nothing else in braces")
    return template


def same_names(*names: str) -> dict[str, str]:
    """For parameters that the pipeline calls as the specification does."""
    return {name: name for name in names}


# Types that are narrower than the specification's. Doubled braces stand for themselves.
ONE_FIELD: dict[str, Any] = {"pattern": r"^([^{}]|\{\{|\}\})*\{\}([^{}]|\{\{|\}\})*$"}
HINTS: dict[str, Any] = {
    "hypothesis_template": Annotated[str, AfterValidator(plain_template), Field(json_schema_extra=ONE_FIELD)] | None,
    "stop": list[Annotated[str, Field(min_length=1, max_length=64)]] | None,
    "targets": list[Annotated[str, Field(min_length=1)]] | None,
}
# Of all models that generate. Beams and a least length are for speech only: its texts are short.
SAMPLING_PARAMETERS = same_names("do_sample", "max_new_tokens", "temperature", "top_k", "top_p", "typical_p")
GENERATION_PARAMETERS = SAMPLING_PARAMETERS | same_names("epsilon_cutoff", "eta_cutoff", "min_new_tokens", "num_beams")
GENERATION_MODEL = parameters_model(AutomaticSpeechRecognitionGenerationParameters, GENERATION_PARAMETERS)
HINTS["generation_parameters"] = GENERATION_MODEL | None


def check_parameters(given: Mapping[str, Any], names: Mapping[str, str], model: type[BaseModel]) -> dict[str, object]:
    """The given parameters by the pipeline's names, without those that are None.

    `names` are the pipeline's names by those of `model`; neutral ones are left out. Raises `Malformed` for a wrong
    type, `Rejected` for an unknown name or a value out of range.
    """
    try:
        checked = model.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise _refusal(error, names) from None
    values = checked.model_dump(exclude_unset=True, exclude_none=True)
    return {names[name]: value for name, value in values.items() if name in names}


def _refusal(error: ValidationError, names: Mapping[str, str]) -> Malformed | Rejected:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    name = ".".join(str(part) for part in first["loc"] if isinstance(part, str))
    if first["type"] == "extra_forbidden":
        known = GENERATION_PARAMETERS if "." in name else names
        return Rejected(f"Unknown parameter {name!r}; this pipeline takes {', '.join(known) or 'none'}.")
    kind = Malformed if first["type"].endswith("_type") else Rejected
    return kind(f"Parameter {name!r}: {first['msg'].removeprefix('Value error, ')}.")
