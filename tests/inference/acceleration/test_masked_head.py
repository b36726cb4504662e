"""The head computes what is read. That results stay the same, family by family, is in `test_selection`."""

import pytest
import torch

from pipeline_webserver.inference.acceleration.base import NotApplicable
from pipeline_webserver.inference.acceleration.last_layer import LastLayer
from pipeline_webserver.inference.acceleration.masked_head import MaskedHead, untouched_zeros
from pipeline_webserver.inference.acceleration.unpadding import Unpadding
from pipeline_webserver.inference.numerics import worst_difference
from tests.support.families import MASK, UNPADDABLE, alone, make, masks, rows_of, together


@pytest.mark.parametrize(
    ("ids", "read"),
    [
        ([[MASK, 20, MASK], [30, 40, MASK]], 3),
        ([[20, MASK, 30], [30, 40, MASK]], 2),  # one in each row
        ([[20, 30, 40], [MASK, 40, MASK]], 2),  # as many as rows, in one of them
        ([[20, 30, 40]], 0),
    ],
)
def test_the_head_computes_masked_positions_only(ids: list[list[int]], read: int) -> None:
    model, input_ids = make(UNPADDABLE["bert"]()), torch.tensor(ids)
    is_mask = masks(input_ids)
    with torch.no_grad():
        full = model(input_ids=input_ids)["logits"]
        MaskedHead(model, masks).apply()
        shapes: list[torch.Size] = []
        model.get_output_embeddings().register_forward_pre_hook(lambda module, args: shapes.append(args[0].shape))
        scores = model(input_ids=input_ids)["logits"]
    assert shapes == [(1, read, 32)]
    assert scores.shape == full.shape
    assert worst_difference([full[is_mask]], [scores[is_mask]]) < 1e-6


def test_the_head_keeps_the_weight_that_it_shares_with_the_embeddings() -> None:
    model, ids = make(UNPADDABLE["bert"]()), torch.tensor([[MASK, 20, MASK], [30, 40, MASK]])
    with torch.no_grad():
        MaskedHead(model, masks).apply()
        before = model(input_ids=ids)["logits"]
        model.get_input_embeddings().weight.mul_(0)
        assert model.get_output_embeddings().weight.abs().max() == 0
        assert worst_difference([before], [model(input_ids=ids)["logits"]]) > 0.1


def test_off_the_cpu_the_library_of_the_device_computes_the_head() -> None:
    with torch.device("meta"):
        model = make(UNPADDABLE["bert"]())
    MaskedHead(model, masks).apply()
    assert "forward" not in vars(model.get_output_embeddings())


@pytest.mark.parametrize("head", ["classifier", "bare"])
def test_a_model_without_a_head_for_the_vocabulary_is_left_as_it_is(head: str) -> None:
    with pytest.raises(NotApplicable, match=r"^this model predicts no masked tokens$"):
        MaskedHead(make(UNPADDABLE["bert"](), head), masks).apply()


def test_a_head_whose_every_position_is_read_is_left_as_it_is() -> None:
    with pytest.raises(NotApplicable, match=r"^this model predicts no masked tokens$"):
        MaskedHead(make(UNPADDABLE["bert"]()), None).apply()


def test_a_text_with_several_masks_and_one_with_none_share_a_pass() -> None:
    model, rows = make(UNPADDABLE["bert"]()), rows_of((4, 9, 5))
    rows[0][0] = MASK
    rows[1][0, 4] = 30
    untouched, unpadding = alone(model, rows), Unpadding(model)
    for optimization in (MaskedHead(model, masks), unpadding, LastLayer(model, masks, unpadding)):
        optimization.apply()
    assert [len(scores) for scores in untouched] == [4, 0, 1]
    assert worst_difference(untouched, together(model, rows)) < 1e-5
    assert worst_difference(untouched, alone(model, rows)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_untouched_zeros_are_zeros_of_the_same_type(dtype: torch.dtype) -> None:
    zeros = untouched_zeros((2, 3), dtype)
    assert zeros.dtype == dtype
    assert zeros.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert untouched_zeros((2, 0), dtype).shape == (2, 0)
