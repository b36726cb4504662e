"""What JSON Schemas are built from."""

from dataclasses import dataclass

from pipeline_webserver.api.json_schema import INTEGER, TEXT, array, nullable, ref, schemas_of, structure


@dataclass
class Part:
    title: str
    size: int | None = None


@dataclass
class Whole:
    """A docstring."""

    parts: list[Part]


def test_every_property_of_a_structure_is_required_but_the_optional_ones() -> None:
    properties = {"a": TEXT, "b": array(INTEGER)}
    assert structure(properties, "b") == {"type": "object", "properties": properties, "required": ["a"]}


def test_a_reference_is_to_a_component_of_the_document() -> None:
    assert ref("Label") == {"$ref": "#/components/schemas/Label"}
    assert ref("Retry-After", "headers") == {"$ref": "#/components/headers/Retry-After"}


def test_the_schemas_of_a_dataclass_are_bare_components_that_refer_to_each_other() -> None:
    assert schemas_of(Whole) == {
        "Whole": {"type": "object", "properties": {"parts": array(ref("Part"))}, "required": ["parts"]},
        "Part": {"type": "object", "properties": {"title": TEXT, "size": nullable(INTEGER)}, "required": ["title"]},
    }
