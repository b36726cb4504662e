"""What JSON Schemas are built from: types, arrays, objects, references, and the schemas of dataclasses.

It must never know tasks, models or routes.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NON_EMPTY_TEXT: Schema = {**TEXT, "minLength": 1}
NUMBER: Schema = {"type": "number"}
INTEGER: Schema = {"type": "integer"}
NUMBERS: Schema = {"type": "array", "items": NUMBER}


def array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def structure(properties: Mapping[str, Schema], *optional: str) -> Schema:
    """An object in which every property is required but the `optional` ones."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": dict(properties), "required": required}


def ref(name: str, kind: str = "schemas") -> Schema:
    """A reference to a component of the OpenAPI document."""
    return {"$ref": f"#/components/{kind}/{name}"}


def nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def schemas_of(kind: type) -> dict[str, Schema]:
    """The schemas of a dataclass or pydantic model and of those it refers to, by their names as components."""
    schema = TypeAdapter(kind).json_schema(ref_template="#/components/schemas/{model}")
    parts = schema.pop("$defs", {})
    return {name: _bare_structure(part) for name, part in {kind.__name__: schema, **parts}.items()}


def _bare_structure(schema: Schema) -> Schema:
    bare = _bare(schema)
    bare["properties"] = {name: _bare(part) for name, part in bare.get("properties", {}).items()}
    return bare


def _bare(schema: Schema) -> Schema:
    """Without Python's own: titles made of names, docstrings, and defaults that mean "left out"."""
    return {name: value for name, value in schema.items() if name not in {"title", "description", "default"}}
