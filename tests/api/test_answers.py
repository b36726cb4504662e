"""What tasks answer, in JSON Schema."""

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from pipeline_webserver.api.answers import ENTITIES, LABELS, OBJECTS, PREDICTIONS, TABLE_ANSWER, VECTORS, Answer

A_LABEL = {"label": "glad", "score": 0.5}
A_PREDICTION = {"score": 0.5, "token": 3, "token_str": "a", "sequence": "a b"}
A_BOX = {"xmin": 1, "ymin": 2, "xmax": 3, "ymax": 4}


def allows(answer: Answer, value: Any) -> bool:
    components = {"schemas": {answer.name: answer.schema}}
    return bool(Draft202012Validator({**answer.nested, "components": components}).is_valid(value))


@pytest.mark.parametrize(
    ("answer", "item", "depths"),
    [
        (LABELS, A_LABEL, {1, 2}),
        (PREDICTIONS, A_PREDICTION, {1, 2, 3}),
        (VECTORS, [0.5], {1, 2, 3}),
        (TABLE_ANSWER, {"answer": "45"}, {0, 1}),
        (OBJECTS, {"label": "cat", "score": 0.5, "box": A_BOX}, {1, 2}),
    ],
)
def test_items_are_nested_in_as_many_lists_as_inputs_and_pipeline_make(
    answer: Answer, item: Any, depths: set[int]
) -> None:
    allowed, value = set(), item
    for depth in range(5):
        if allows(answer, value):
            allowed.add(depth)
        value = [value]
    assert allowed == depths


@pytest.mark.parametrize(
    ("answer", "item"),
    [
        (LABELS, {"label": "glad"}),
        (PREDICTIONS, {**A_PREDICTION, "token": "3"}),
        (OBJECTS, {"label": "cat", "score": 0.5, "box": {**A_BOX, "xmin": 1.5}}),
        (ENTITIES, {"entity": "PER", "score": 0.5, "word": "Ann"}),
    ],
)
def test_an_item_that_lacks_something_or_has_another_type_is_none(answer: Answer, item: Any) -> None:
    assert not allows(answer, [item])


def test_an_entity_has_no_place_where_the_tokenizer_has_none() -> None:
    assert allows(ENTITIES, [{"entity_group": "PER", "score": 0.5, "word": "Ann", "start": None, "end": None}])
