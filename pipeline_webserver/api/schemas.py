"""The schemas of the OpenAPI document: what a task's requests and answers are, and what the server says of itself.

It must never know routes, Starlette, the queue or the model, nor any one task.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline_webserver.api.json_schema import (
    INTEGER,
    NON_EMPTY_TEXT,
    NUMBERS,
    TEXT,
    Schema,
    array,
    nullable,
    ref,
    schemas_of,
    structure,
)
from pipeline_webserver.api.openai_embeddings import EmbeddingsBody
from pipeline_webserver.api.parameter_schemas import parameter_schemas
from pipeline_webserver.api.tasks import InputKind, Task
from pipeline_webserver.model_info import ModelInfo

MEDIA_TYPES: Mapping[InputKind, tuple[str, ...]] = {
    "text": ("text/plain",),
    "table": (),
    "image": ("image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp", "image/tiff"),
    "audio": ("audio/wav", "audio/flac", "audio/mpeg", "audio/ogg"),
}
BINARY: Schema = {"type": "string", "format": "binary"}
# Of base64, which may be in lines.
_SPACE = r"[ \t\r\n]*"
_DIGIT, _PAD = f"([A-Za-z0-9+/]{_SPACE})", f"(={_SPACE})"
_LAST = f"({_DIGIT}{{2}}{_PAD}{{2}}|{_DIGIT}{{3}}{_PAD})"
BASE64_FILE: Schema = {
    "type": "string",
    "contentEncoding": "base64",
    "minLength": 4,
    "pattern": f"^(data:[^,]{{0,200}};base64,)?{_SPACE}({_DIGIT}{{4}})*{_LAST}?$",
}
PAIR: Schema = {**structure({"text": TEXT, "text_pair": TEXT}), "additionalProperties": False}
COLUMNS: Schema = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {**array(TEXT), "minItems": 1},
    "description": "Columns by their names, all of one length.",
}
TABLE: Schema = {
    **structure({"question": NON_EMPTY_TEXT, "query": NON_EMPTY_TEXT, "table": COLUMNS}, "question", "query"),
    "oneOf": [{"required": ["question"]}, {"required": ["query"]}],
    "additionalProperties": False,
}
OPTIMIZATION_DESCRIPTIONS = {
    "difference": "The worst difference of its outputs, relative to the largest number.",
    "gains": "The time without it divided by the time with it, for each probe.",
    "reason": "Why it is not applied, or that it was not timed.",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that the OpenAPI document depends on: the task, the loaded model, limits, whether there is a key."""

    task_name: str
    task: Task
    model_info: ModelInfo
    version: str
    max_inputs: int
    max_new_tokens: int
    has_key: bool

    @property
    def has_embeddings(self) -> bool:
        return self.model_info.embedding is not None

    @property
    def example(self) -> object:
        """An input of the JSON form that is answered."""
        return self.task.example_for(self.model_info.mask_token)


def component_schemas(facts: Facts) -> dict[str, Schema]:
    """All of the document, by name."""
    parameters = parameter_schemas(facts.task, facts.model_info, facts.max_new_tokens)
    answer = facts.task.answer
    return {
        "Request": _request(facts, parameters["Parameters"]),
        "Input": input_schema(facts.task, facts.model_info),
        **parameters,
        "Answer": answer.nested,
        answer.name: answer.schema,
        **(_embeddings(facts) if facts.has_embeddings else {}),
        "Error": structure({"error": TEXT, "error_type": TEXT}),
        "State": structure({"status": {"const": "ok"}}),
        **info_schemas(),
    }


# Requests


def input_schema(task: Task, model_info: ModelInfo) -> Schema:
    """One input of the JSON form."""
    if task.is_file:
        named = {**structure({task.input_kind: BASE64_FILE}), "additionalProperties": False}
        return {"anyOf": [BASE64_FILE, named]}
    if task.input_kind == "table":
        return TABLE
    return {"anyOf": [TEXT, PAIR]} if task.accepts_pairs else text_schema(task, model_info)


def text_schema(task: Task, model_info: ModelInfo) -> Schema:
    """A text; it has the model's mask token in it where the model has one."""
    if model_info.mask_token is None:
        return TEXT if task.accepts_empty else NON_EMPTY_TEXT
    # `re.escape` escapes more than ECMA allows.
    return {**TEXT, "pattern": re.sub(r"([][\\{}|().*+?^$])", r"\\\1", model_info.mask_token)}


def _request(facts: Facts, parameters: Schema) -> Schema:
    """The JSON form. What clients of the hosted API send besides, and what is ignored here, is allowed."""
    one, is_required = ref("Input"), bool(facts.task.required_parameters)
    properties = {
        "inputs": {"anyOf": [one, {**array(one), "minItems": 1, "maxItems": facts.max_inputs}]},
        "parameters": ref("Parameters") if is_required else nullable(ref("Parameters")),
        "options": {"description": "Of the hosted API; ignored."},
        "stream": {"enum": [False, None], "description": "The whole answer comes at once."},
    }
    optional = ("options", "stream") if is_required else ("parameters", "options", "stream")
    request = structure(properties, *optional)
    if facts.task.parameters_at_root:
        request["properties"] |= parameters["properties"]
    return {**request, "additionalProperties": False}


# Embeddings in OpenAI's form


def _embeddings(facts: Facts) -> dict[str, Schema]:
    base64_or_numbers = {"anyOf": [NUMBERS, {**TEXT, "contentEncoding": "base64"}]}
    item = structure({"object": {"const": "embedding"}, "index": INTEGER, "embedding": base64_or_numbers})
    usage = structure({"prompt_tokens": INTEGER, "total_tokens": INTEGER})
    error = structure({"message": TEXT, "type": TEXT, "param": {"type": "null"}, "code": {"type": "null"}})
    return {
        "EmbeddingsRequest": _embeddings_request(facts.model_info, facts.max_inputs),
        "Embeddings": structure({"object": {"const": "list"}, "data": array(item), "model": TEXT, "usage": usage}),
        "OpenAIError": structure({"error": error, "error_type": TEXT}),
    }


def _embeddings_request(model_info: ModelInfo, max_inputs: int) -> Schema:
    """No text is empty, and no embedding has more dimensions than the model's."""
    schema = schemas_of(EmbeddingsBody)["EmbeddingsBody"]
    schema["properties"] = {name: nullable(part) for name, part in schema["properties"].items()}
    texts = array(NON_EMPTY_TEXT) | {"minItems": 1, "maxItems": max_inputs}
    schema["properties"]["input"] = {"anyOf": [NON_EMPTY_TEXT, texts]}
    maximum = {} if model_info.embedding is None else {"maximum": model_info.embedding.dim}
    schema["properties"]["dimensions"] = nullable({**INTEGER, "minimum": 1, **maximum})
    return schema


# What the server says of itself


def info_schemas() -> dict[str, Schema]:
    """The component `Info`, and those it refers to, by name: the model, the limits and the version.

    What belongs to other tasks is left out of the answer, so it is never null.
    """
    schemas = schemas_of(ModelInfo)
    properties = schemas.pop("ModelInfo")["properties"]
    always = ModelInfo(model="", name="", task="", device="", dtype="", threads=0).as_json().keys()
    properties = {name: part if name in always else part["anyOf"][0] for name, part in properties.items()}
    properties |= {"limits": {"type": "object"}, "version": TEXT}
    report = schemas["OptimizationReport"]
    report["required"] = list(report["properties"])
    for name, description in OPTIMIZATION_DESCRIPTIONS.items():
        report["properties"][name]["description"] = description
    return {"Info": structure(properties, *(properties.keys() - always - {"limits", "version"})), **schemas}
