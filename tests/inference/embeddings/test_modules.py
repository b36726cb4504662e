"""Every kind of pooling and every layer, by numbers that can be computed by hand."""

import pytest
import torch

from pipeline_webserver.errors import Rejected
from pipeline_webserver.inference.embeddings.modules import (
    ACTIVATIONS,
    Dense,
    LayerNorm,
    Pooling,
    activation,
    unchanged,
    unit_length,
)

HIDDEN = torch.tensor([[1.0, -8.0], [2.0, 4.0], [3.0, -2.0], [6.0, 10.0]])


@pytest.mark.parametrize(
    ("mode", "with_prompt", "without"),
    [
        ("cls", [1, -8], [2, 4]),
        ("max", [6, 10], [6, 10]),
        ("mean", [3, 1], [11 / 3, 4]),
        ("mean_sqrt_len_tokens", [6, 2], [11 / 3**0.5, 12 / 3**0.5]),
        ("weightedmean", [3.8, 3.4], [37 / 9, 42 / 9]),
        ("lasttoken", [6, 10], [6, 10]),
    ],
)
def test_a_pooling_reads_all_tokens_or_those_behind_the_prompt(
    mode: str, with_prompt: list[float], without: list[float]
) -> None:
    assert Pooling((mode,))(HIDDEN, 1).tolist() == pytest.approx(with_prompt)
    assert Pooling((mode,), include_prompt=False)(HIDDEN, 0).tolist() == pytest.approx(with_prompt)
    assert Pooling((mode,), include_prompt=False)(HIDDEN, 1).tolist() == pytest.approx(without)


def test_several_poolings_are_concatenated_in_the_order_of_their_names() -> None:
    assert Pooling(("max", "cls"))(HIDDEN, 0).tolist() == [6, 10, 1, -8]


def test_a_text_of_its_prompt_only_has_nothing_to_pool() -> None:
    with pytest.raises(
        Rejected, match=r"^The text has no tokens behind the 4 of its prompt to make an embedding of\.$"
    ):
        Pooling(("mean",), include_prompt=False)(HIDDEN, 4)


def test_a_layer_adds_what_its_residual_makes_of_the_input() -> None:
    weight, values = torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([3.0, 4.0])
    relu = activation("ReLU")
    assert Dense(weight, torch.tensor([1.0, 1.0]), relu)(values).tolist() == [12, 0]
    assert Dense(weight, None, relu, unchanged)(values).tolist() == [14, 4]


def test_a_layer_norm_and_a_normalize() -> None:
    norm = LayerNorm(torch.tensor([2.0, 2.0]), torch.tensor([1.0, 0.0]))
    assert norm(torch.tensor([1.0, 3.0])).tolist() == pytest.approx([-1, 2], abs=1e-4)
    assert unit_length(torch.tensor([3.0, -4.0])).tolist() == pytest.approx([0.6, -0.8])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_the_one_of_torch_by_that_name(name: str) -> None:
    values = torch.linspace(-2, 2, 9)
    assert torch.equal(activation(name)(values), getattr(torch.nn, name)()(values))
