"""What a task takes and answers, in JSON Schema: inputs, parameters with their ranges, answers.

It must never know routes, Starlette, the queue or the model.
"""

import base64
import io
import re
import wave
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline_webserver.api.tasks import Kind, Task

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
SOME: Schema = {**TEXT, "minLength": 1}
NUMBER: Schema = {"type": "number"}
WHOLE: Schema = {"type": "integer"}
NUMBERS: Schema = {"type": "array", "items": NUMBER}


def array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def structure(properties: Mapping[str, Schema], *optional: str) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": dict(properties), "required": required}


def ref(name: str, kind: str = "schemas") -> Schema:
    return {"$ref": f"#/components/{kind}/{name}"}


def nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


# Answers

LABEL = structure({"label": TEXT, "score": NUMBER})
GUESS = structure({"score": NUMBER, "token": WHOLE, "token_str": TEXT, "sequence": TEXT})
ENTITY = structure(
    {
        "entity": TEXT,
        "entity_group": TEXT,
        "score": NUMBER,
        "index": WHOLE,
        "word": TEXT,
        "start": nullable(WHOLE),
        "end": nullable(WHOLE),
    },
    *("entity", "entity_group", "index"),
)
BOX = structure(dict.fromkeys(("xmin", "ymin", "xmax", "ymax"), WHOLE))
MASK: Schema = {"type": "string", "contentEncoding": "base64", "contentMediaType": "image/png"}
CHUNK = structure({"text": TEXT, "timestamp": array(nullable(NUMBER))})
# What an item of each task's answer is called, and what it is.
ITEMS: dict[str, tuple[str, Schema]] = {
    "fill-mask": ("Guess", GUESS),
    "text-classification": ("Label", LABEL),
    "token-classification": ("Entity", ENTITY),
    "feature-extraction": ("Vector", NUMBERS),
    "zero-shot-classification": ("Label", LABEL),
    "text-generation": ("Text", structure({"generated_text": TEXT})),
    "table-question-answering": (
        "TableAnswer",
        structure(
            {"answer": TEXT, "coordinates": array(array(WHOLE)), "cells": array(TEXT), "aggregator": TEXT},
            *("coordinates", "cells", "aggregator"),
        ),
    ),
    "image-classification": ("Label", LABEL),
    "object-detection": ("Object", structure({"label": TEXT, "score": NUMBER, "box": BOX})),
    "image-segmentation": ("Segment", structure({"label": TEXT, "score": nullable(NUMBER), "mask": MASK})),
    "image-feature-extraction": ("Vector", NUMBERS),
    "zero-shot-image-classification": ("Label", LABEL),
    "automatic-speech-recognition": ("Transcript", structure({"text": TEXT, "chunks": array(CHUNK)}, "chunks")),
    "audio-classification": ("Label", LABEL),
}


def answers(task: str) -> list[Schema]:
    """What one input may be answered with: by itself, by the pipeline and by the JSON form; a list has one for each."""
    item = ref(ITEMS[task][0])
    if task in {"table-question-answering", "automatic-speech-recognition"}:
        return [item, array(item)]
    one = array(item)
    if task in {"feature-extraction", "image-feature-extraction"}:
        return [one, array(one), array(array(one))]
    if task == "fill-mask":  # several masks have guesses each
        return [one, array(one), array(array(one))]
    return [one, array(one)]


# What the server says of itself

SPEED_UP = structure(
    {
        "name": TEXT,
        "on": {"type": "boolean"},
        "difference": {**nullable(NUMBER), "description": "The worst, relative to the largest number."},
        "gains": {
            **nullable({"type": "object", "additionalProperties": NUMBER}),
            "description": "The time without it by the time with it, in a batch and alone.",
        },
        "why": {**nullable(TEXT), "description": "Why it is off."},
    }
)
INFO = structure(
    {
        "model": TEXT,
        "task": TEXT,
        "device": TEXT,
        "dtype": TEXT,
        "threads": WHOLE,
        "max_tokens": nullable(WHOLE),
        "mask_token": TEXT,
        "vocabulary": WHOLE,
        "max_top_k": WHOLE,
        "max_stride": WHOLE,
        "embedding": nullable({"type": "object"}),
        "subtasks": array(TEXT),
        "generates": {"type": "boolean"},
        "timestamps": {"type": "boolean"},
        "speed_ups": array(ref("SpeedUp")),
        "versions": {"type": "object", "additionalProperties": TEXT},
        "limits": {"type": "object"},
        "version": TEXT,
    },
    # Of some tasks only.
    *("mask_token", "vocabulary", "max_top_k", "max_stride", "embedding", "subtasks", "generates", "timestamps"),
)


# Inputs

MEDIA_TYPES: dict[Kind, tuple[str, ...]] = {
    "text": ("text/plain",),
    "table": (),
    "image": ("image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp", "image/tiff"),
    "audio": ("audio/wav", "audio/flac", "audio/mpeg", "audio/ogg"),
}
FILE: Schema = {
    "type": "string",
    "contentEncoding": "base64",
    "minLength": 4,
    "pattern": "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$",
}
BINARY: Schema = {"type": "string", "format": "binary"}
PAIR: Schema = {**structure({"text": TEXT, "text_pair": TEXT}), "additionalProperties": False}
COLUMNS: Schema = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {**array(TEXT), "minItems": 1},
    "description": "Columns by their names, all of one length.",
}
TABLE: Schema = {
    **structure({"question": SOME, "query": SOME, "table": COLUMNS}, "question", "query"),
    "oneOf": [{"required": ["question"]}, {"required": ["query"]}],
    "additionalProperties": False,
}
EXAMPLES: dict[str, Any] = {
    "text-classification": "I like it.",
    "token-classification": "Ann lives in Ulm.",
    "feature-extraction": "a text",
    "zero-shot-classification": "The new phone has a better camera.",
    "text-generation": "Once upon a time",
    "table-question-answering": {"question": "How old is Bob?", "table": {"name": ["Ann", "Bob"], "age": ["31", "45"]}},
}
# A red square of 16 x 16 pixels.
PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAGklEQVR42mO8o6HBQApgYiARjGoY1TB0NAAAyVkBTB15Un8AAAAASUVORK5CYII="
)


def sound() -> str:
    """A tenth of a second of a deep tone, 800 samples of one byte."""
    file = io.BytesIO()
    with wave.open(file, "wb") as recording:
        recording.setnchannels(1)
        recording.setsampwidth(1)
        recording.setframerate(8_000)
        recording.writeframes(bytes(192 if at % 40 < 20 else 64 for at in range(800)))
    return base64.b64encode(file.getvalue()).decode()


LABELS = {"candidate_labels": ["technology", "sports"]}  # an example of those that a task must have


@dataclass(frozen=True, slots=True)
class Facts:
    """What the document depends on. `described` is what `/info` says of the model."""

    name: str
    task: Task
    described: Mapping[str, Any]
    version: str
    max_inputs: int
    max_new_tokens: int
    has_key: bool

    @property
    def has_embeddings(self) -> bool:
        return bool(self.described.get("embedding"))

    @property
    def takes_nothing(self) -> bool:
        """Whether a request without a body is answered: it is the empty text."""
        return self.task.takes == "text" and text_schema(self) == TEXT

    @property
    def example(self) -> Any:
        """An input of the JSON form that is answered."""
        if self.task.takes_file:
            return PICTURE if self.task.takes == "image" else sound()
        if self.name == "fill-mask":
            return f"Paris is the {self.described.get('mask_token')} of France."
        return EXAMPLES[self.name]


def input_schema(facts: Facts) -> Schema:
    """One input of the JSON form."""
    if facts.task.takes_file:
        return FILE
    if facts.task.takes == "table":
        return TABLE
    return {"anyOf": [TEXT, PAIR]} if facts.task.takes_pairs else text_schema(facts)


def text_schema(facts: Facts) -> Schema:
    mask = facts.described.get("mask_token")
    if facts.name != "fill-mask" or not isinstance(mask, str):
        return SOME if facts.name in {"zero-shot-classification", "text-generation"} else TEXT
    return {
        **TEXT,
        "pattern": re.sub(r"([][\\{}|().*+?^$])", r"\\\1", mask),
    }  # `re.escape` escapes more than ECMA knows


def parameter_schemas(facts: Facts) -> dict[str, Schema]:
    """The parameters, as the task's own model checks them; the limits of this server and model among them."""
    schema = facts.task.model.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas: dict[str, Schema] = {name: _bare(part) for name, part in schema.pop("$defs", {}).items()}
    schemas["Parameters"] = _bare(schema)
    _tell_what_the_model_can(schemas, facts.described)
    most = {"max_new_tokens": facts.max_new_tokens, "stride": facts.described.get("max_stride")}
    for part in schemas.values():
        part["properties"] = {name: _bare(value) for name, value in part.get("properties", {}).items()}
        for name, value in part["properties"].items():
            _limit(value, most.get(name))
            value["description"] = DESCRIPTIONS[name]
    return schemas


def _tell_what_the_model_can(schemas: dict[str, Schema], described: Mapping[str, Any]) -> None:
    parameters = schemas["Parameters"]
    properties = parameters["properties"]
    if "prompt_name" in properties:
        _tell_prompts(properties, described.get("embedding"))
    if described.get("generates") is False:
        del properties["generation_parameters"], schemas[GENERATION]
    if described.get("timestamps") is False:
        properties["return_timestamps"] = {"enum": [False, None]}
    if "max_top_k" in described:  # with targets there are no more guesses than those
        known = {"properties": {"top_k": {"maximum": described["max_top_k"]}}}
        parameters["description"] = f"`top_k` is at most {described['max_top_k']}, unless there are `targets`."
        parameters["anyOf"] = [known, {"properties": {"targets": {"type": "array"}}, "required": ["targets"]}]
    if "subtasks" in described:
        properties["subtask"] = {"enum": [*described["subtasks"], None]}
    if "stride" in properties:  # chunks of a text are put together by its entities only
        both = {"aggregation_strategy": {"const": "none"}, "stride": WHOLE}
        parameters["description"] = "`stride` needs an `aggregation_strategy`, not `none`."
        parameters["not"] = {"properties": both, "required": list(both)}


GENERATION = "AutomaticSpeechRecognitionGenerationParameters"  # what pydantic calls them


def _tell_prompts(properties: dict[str, Schema], embedding: Mapping[str, Any] | None) -> None:
    """What parameters a sentence-transformers configuration gives a meaning, and which prompts it has."""
    if embedding is None:
        del properties["prompt_name"], properties["normalize"]
    else:
        prompts = embedding["prompts"]
        properties["prompt_name"] = nullable({"enum": prompts}) if prompts else {"type": "null"}


def _bare(schema: Schema) -> Schema:
    """Without the titles and the defaults that are none."""
    return {name: value for name, value in schema.items() if name not in {"title", "description", "default"}}


def _limit(schema: Schema, most: int | None) -> None:
    for one in schema.get("anyOf", [schema]):
        if most is not None and one.get("type") == "integer":
            one["maximum"] = most


DESCRIPTIONS = {
    "targets": "Only these words are scored.",
    "top_k": "How many of the best are answered, or chosen among.",
    "function_to_apply": "What makes scores of the model's numbers.",
    "aggregation_strategy": "How tokens are put together to entities.",
    "ignore_labels": "Labels that are left out.",
    "stride": "Tokens that neighbouring chunks of a long text share.",
    "truncate": "Whether a text that is too long is cut.",
    "normalize": "Whether the length of the embedding becomes one.",
    "prompt_name": "Which of the model's own prompts comes before the text.",
    "truncation_direction": "At which side a text is cut.",
    "candidate_labels": "The labels to choose among.",
    "hypothesis_template": "The sentence that each label is put into, at {}.",
    "multi_label": "Whether several labels may be true, each with a score of its own.",
    "do_sample": "Whether the next token is drawn, or the most probable one.",
    "max_new_tokens": "How many tokens are written, at most.",
    "min_new_tokens": "How many tokens are written, at least.",
    "repetition_penalty": "Over 1: what was said already becomes less probable.",
    "return_full_text": "Whether the prompt is part of the answer.",
    "seed": "The same seed gives the same answer.",
    "stop": "Writing ends behind one of these.",
    "temperature": "Over 1: more surprising, under 1: less.",
    "top_p": "Only the most probable tokens, which together have this probability.",
    "typical_p": "Only the most typical tokens, which together have this probability.",
    "epsilon_cutoff": "Only tokens of at least this probability.",
    "eta_cutoff": "Only tokens of at least a probability that goes by how certain the model is.",
    "num_beams": "How many texts are tried side by side.",
    "generation_parameters": "How the text is written.",
    "return_timestamps": "Whether the answer says when each part was spoken.",
    "padding": "How the table is padded.",
    "sequential": "Whether questions are answered one after the other.",
    "truncation": "Whether a table that is too long is cut.",
    "threshold": "How probable what is answered has to be.",
    "mask_threshold": "How probable a pixel of a mask has to be.",
    "overlap_mask_area_threshold": "How much of a mask has to be left, for it to be answered.",
    "subtask": "Which kind of segmentation.",
    "pool": "Whether the pooled output is answered.",
}
