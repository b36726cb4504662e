"""What tasks answer: the schema of an item, its name in the OpenAPI document, and how items are nested in lists.

A schema is huggingface_hub's own type where that is exactly what is answered; elsewhere that type lacks a property or
says less than is known. It must never know which task answers what.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from huggingface_hub import ObjectDetectionBoundingBox, TextClassificationOutputElement

from pipeline_webserver.api.json_schema import (
    INTEGER,
    NUMBER,
    NUMBERS,
    TEXT,
    Schema,
    array,
    nullable,
    ref,
    schemas_of,
    structure,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one input or to a list of inputs: items of one `schema`, `name` in the OpenAPI document.

    `depths` are the numbers of lists that an item can be nested in, the list for a list of inputs counted.
    """

    name: str
    schema: Schema
    depths: Sequence[int] = (1, 2)

    @property
    def nested(self) -> Schema:
        """The whole answer, with references to the item."""
        return {"anyOf": [self._at(depth) for depth in self.depths]}

    def _at(self, depth: int) -> Schema:
        return array(self._at(depth - 1)) if depth else ref(self.name)


LABELS = Answer("Label", schemas_of(TextClassificationOutputElement)["TextClassificationOutputElement"])
PREDICTIONS = Answer(
    "Prediction",
    structure({"score": NUMBER, "token": INTEGER, "token_str": TEXT, "sequence": TEXT}),
    depths=(1, 2, 3),  # a text with several masks has a list for each
)
ENTITIES = Answer(
    "Entity",
    structure(
        {
            "entity": TEXT,
            "entity_group": TEXT,
            "score": NUMBER,
            "index": INTEGER,
            "word": TEXT,
            "start": nullable(INTEGER),
            "end": nullable(INTEGER),
        },
        *("entity", "entity_group", "index"),
    ),
)
VECTORS = Answer("Vector", NUMBERS, depths=(1, 2, 3))
TEXTS = Answer("Text", structure({"generated_text": TEXT}))
TABLE_ANSWER = Answer(
    "TableAnswer",
    structure(
        {"answer": TEXT, "coordinates": array(array(INTEGER)), "cells": array(TEXT), "aggregator": TEXT},
        *("coordinates", "cells", "aggregator"),
    ),
    depths=(0, 1),
)
_BOX = schemas_of(ObjectDetectionBoundingBox)["ObjectDetectionBoundingBox"]
OBJECTS = Answer("Object", structure({"label": TEXT, "score": NUMBER, "box": _BOX}))
_MASK: Schema = {"type": "string", "contentEncoding": "base64", "contentMediaType": "image/png"}
SEGMENTS = Answer("Segment", structure({"label": TEXT, "score": nullable(NUMBER), "mask": _MASK}, "score"))
_CHUNK = structure({"text": TEXT, "timestamp": array(nullable(NUMBER))})
TRANSCRIPT = Answer("Transcript", structure({"text": TEXT, "chunks": array(_CHUNK)}, "chunks"), depths=(0, 1))
