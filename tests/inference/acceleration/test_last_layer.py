"""Only what is read is computed. That the answers stay the same, family by family, is in `test_acceleration`."""

import pytest
import torch

from pipeline_webserver.inference.acceleration.base import DoesNotFit, stack_of
from pipeline_webserver.inference.acceleration.last_layer import LastLayer, MaskedHead, first_token, untouched_zeros
from pipeline_webserver.inference.acceleration.selection import worst_difference
from pipeline_webserver.inference.acceleration.unpadding import NoPadding
from tests.support.families import LENGTHS, MASK, PACKED, alone, make, masks, rows_of, together


def test_the_head_computes_masked_positions_only() -> None:
    model = make(PACKED["bert"]())
    ids = torch.tensor([[MASK, 20, MASK], [30, 40, MASK]])
    with torch.no_grad():
        full = model(input_ids=ids)["logits"]
        MaskedHead(model, masks).on()
        seen: list[torch.Size] = []
        model.get_output_embeddings().register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
        scores = model(input_ids=ids)["logits"]
    assert seen == [(1, 3, 32)]
    assert scores.shape == full.shape
    assert worst_difference([full[ids == MASK]], [scores[ids == MASK]]) < 1e-6
    assert scores[ids != MASK].abs().max() == 0


def test_the_head_keeps_the_weight_that_it_shares_with_the_embeddings() -> None:
    model, ids = make(PACKED["bert"]()), torch.tensor([[MASK, 20, MASK], [30, 40, MASK]])
    with torch.no_grad():
        MaskedHead(model, masks).on()
        before = model(input_ids=ids)["logits"]
        model.get_input_embeddings().weight.mul_(0)
        assert model.get_output_embeddings().weight.abs().max() == 0
        assert worst_difference([before], [model(input_ids=ids)["logits"]]) > 0.1


def test_off_the_cpu_the_head_computes_masked_positions_by_the_library_of_the_device() -> None:
    with torch.device("meta"):
        model = make(PACKED["bert"]())
    MaskedHead(model, masks).on()
    assert "forward" not in vars(model.get_output_embeddings())


@pytest.mark.parametrize("head", ["classifier", "bare"])
def test_a_model_without_a_vocabulary_head_has_none_to_mask(head: str) -> None:
    with pytest.raises(DoesNotFit, match="guesses no masked tokens"):
        MaskedHead(make(PACKED["bert"](), head), masks).on()


@pytest.mark.parametrize(("head", "reads", "read"), [("masked", masks, 6), ("classifier", first_token, 6)])
def test_behind_its_attention_the_last_layer_computes_what_is_read_and_the_others_all(
    head: str, reads: object, read: int
) -> None:
    model, rows = make(PACKED["bert"](), head), rows_of(LENGTHS)
    untouched, no_padding = alone(model, rows), NoPadding(model)
    no_padding.on()
    LastLayer(model, reads, no_padding).on()  # type: ignore[arg-type]
    seen: list[int] = []
    for layer in stack_of(model):
        dense = layer.get_submodule("output.dense")
        dense.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1]))
    assert worst_difference(untouched, together(model, rows)) < 1e-5
    assert seen == [112, 112, read]  # 110 tokens, filled up


def test_a_text_with_several_masks_and_one_with_none_share_a_pass() -> None:
    model, rows = make(PACKED["bert"]()), rows_of((4, 9, 5))
    rows[0][0] = MASK
    rows[1][0, 4] = 30
    untouched, no_padding = alone(model, rows), NoPadding(model)
    for speed_up in (MaskedHead(model, masks), no_padding, LastLayer(model, masks, no_padding)):
        speed_up.on()
    assert [len(scores) for scores in untouched] == [4, 0, 1]
    assert worst_difference(untouched, together(model, rows)) < 1e-5
    assert worst_difference(untouched, alone(model, rows)) < 1e-5


def test_the_last_layer_is_left_whole_where_every_position_is_read_or_padding_is_computed() -> None:
    model = make(PACKED["bert"]())
    no_padding = NoPadding(model)
    with pytest.raises(DoesNotFit, match="it goes with no_padding"):
        LastLayer(model, masks, no_padding).on()
    no_padding.on()
    with pytest.raises(DoesNotFit, match="every position is read"):
        LastLayer(model, None, no_padding).on()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_untouched_zeros_are_zeros_of_the_same_kind(dtype: torch.dtype) -> None:
    zeros = untouched_zeros((2, 3), torch.ones(1, dtype=dtype))
    assert zeros.dtype == dtype
    assert zeros.tolist() == [[0, 0, 0], [0, 0, 0]]
