"""Which model inputs may share a pass by their key, and what an input costs."""

from typing import Any

import pytest
import torch

from pipeline_webserver.inference.model_inputs import ModelInput, PreparedInput, hashable
from pipeline_webserver.inference.preprocessing.generation import StopTextCriterion


def model_input(parameters: dict[str, Any] | None = None, *names: str, extra_key: Any = None) -> ModelInput:
    return ModelInput({name: torch.zeros(1, 2) for name in names or ("input_ids",)}, parameters or {}, 2, extra_key)


def stopping(*texts: str) -> dict[str, Any]:
    return {"max_new_tokens": 5, "stopping_criteria": [StopTextCriterion(object(), texts)]}


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"top_k": 5, "do_sample": True},
        {"generate_kwargs": {"num_beams": 2, "suppress_tokens": [1, 2, {"nested": [3]}]}},
        stopping("a", "b"),
    ],
    ids=lambda parameters: " ".join(parameters) or "none",
)
def test_model_inputs_of_equal_parameters_have_equal_keys_whatever_the_order_of_names(
    parameters: dict[str, Any],
) -> None:
    same = dict(reversed(parameters.items()))
    one, other = model_input(parameters, "input_ids", "mask"), model_input(same, "mask", "input_ids")
    assert one.batch_key == other.batch_key
    assert hash(one.batch_key) == hash(other.batch_key)
    assert len({one.batch_key: 1, other.batch_key: 2}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (model_input({"top_k": 5}), model_input({"top_k": 6})),
        (model_input({"top_k": 5}), model_input({})),
        (model_input({"generate_kwargs": {"top_k": 5}}), model_input({"generate_kwargs": {"top_k": 6}})),
        (model_input({"generate_kwargs": {"a": [1, 2]}}), model_input({"generate_kwargs": {"a": [2, 1]}})),
        (model_input(stopping("a")), model_input(stopping("b"))),
        (model_input(stopping("a")), model_input({"max_new_tokens": 5})),
        (model_input({}, "input_ids"), model_input({}, "input_ids", "mask")),
        (model_input(extra_key=(1, "a")), model_input(extra_key=(1, "b"))),
        (model_input(extra_key=object()), model_input(extra_key=object())),
    ],
    ids=lambda value: " ".join(value.tensors),
)
def test_model_inputs_that_differ_in_names_parameters_or_extra_key_have_different_keys(
    one: ModelInput, other: ModelInput
) -> None:
    assert one.batch_key != other.batch_key


def test_a_criterion_is_equal_where_its_texts_are_whatever_its_tokenizer_object() -> None:
    one, same, other = (StopTextCriterion(object(), texts) for texts in (["a", "b"], ["a", "b"], ["b"]))
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert one != ("a", "b")


def test_nested_mappings_and_lists_become_tuples() -> None:
    assert hashable({"b": [1, (2, [3])], "a": {"c": None}}) == (("a", (("c", None),)), ("b", (1, (2, (3,)))))


def test_a_key_is_made_once_however_often_it_is_compared() -> None:
    class Parameters(dict[str, Any]):
        reads = 0

        def items(self) -> Any:
            self.reads += 1
            return super().items()

    parameters = Parameters(top_k=5)
    one, other = model_input(parameters), model_input({"top_k": 5})
    assert [one.batch_key == other.batch_key for _ in range(3)] == [True] * 3
    assert parameters.reads == 1


def test_an_input_costs_the_tokens_of_its_model_inputs_and_those_it_may_generate() -> None:
    prepared = PreparedInput([model_input(), model_input()], {}, {}, dedup_key="key", new_tokens=7)
    assert prepared.tokens == 2 + 2 + 7
