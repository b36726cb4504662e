"""How far two computations differ, and how far they may."""

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from pipeline_webserver.inference.numerics import flatten_outputs, tolerance_of, worst_difference


def test_a_difference_is_relative_to_the_largest_number_and_infinite_where_a_number_is_not_finite() -> None:
    expected, actual = torch.tensor([100.0, 1.0]), torch.tensor([101.0, 1.0])
    assert worst_difference([expected], [actual]) == pytest.approx(0.01)
    assert worst_difference([expected], [expected]) == 0
    assert worst_difference([expected], [torch.tensor([100.0, torch.nan])]) == torch.inf
    assert worst_difference([torch.tensor([torch.inf, 1.0])], [actual]) == torch.inf
    assert worst_difference([expected], [torch.tensor([100.0])]) == torch.inf
    assert worst_difference([torch.zeros(0, 2)], [torch.zeros(0, 2)]) == 0


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-4), (torch.float64, 1e-4), (torch.float16, 1e-2), (torch.bfloat16, 5e-2)],
)
def test_numbers_of_half_precision_may_differ_more(dtype: torch.dtype, tolerance: float) -> None:
    assert tolerance_of(dtype) == tolerance


def test_all_floats_of_an_output_are_compared_however_deep_and_tokens_beside_them_are_not() -> None:
    states = BaseModelOutput(last_hidden_state=torch.tensor([[1.0, 2.0]]), hidden_states=(torch.tensor([3.0]),))
    outputs = {"output": states, "input_ids": torch.tensor([[7]]), "text": "x", "more": [torch.tensor(4.0)]}
    assert flatten_outputs(outputs).tolist() == [1, 2, 3, 4]


def test_tokens_that_differ_by_one_differ_as_clearly_as_any_others() -> None:
    """Relative to the largest id of a vocabulary, neighbours would count as equal."""
    outputs = {"generated_sequence": torch.tensor([[0x12345]]), "mask": torch.tensor([[True]])}
    digits = flatten_outputs(outputs)
    assert digits.tolist() == [5, 4, 3, 2, 1, *[0] * 11]
    other = flatten_outputs({**outputs, "generated_sequence": torch.tensor([[0x12346]])})
    assert worst_difference([digits], [other]) >= 1 / 15
