"""Unpadding changes nothing but the speed, and leaves alone what it is not for. Families are in `test_selection`."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from pipeline_webserver.inference.acceleration.base import NotApplicable, encoder_layers
from pipeline_webserver.inference.acceleration.unpadding import UnpaddedBatch, Unpadding, varlen_attention
from pipeline_webserver.inference.numerics import worst_difference
from tests.support.device import DEVICE
from tests.support.families import LENGTHS, UNPADDABLE, alone, make, read, rows_of, together


def test_a_pass_that_fails_leaves_nothing_behind_for_the_next() -> None:
    model, rows = make(UNPADDABLE["bert"]()), rows_of(LENGTHS)
    untouched = alone(model, rows)
    Unpadding(model).apply()
    breaking = encoder_layers(model)[1].register_forward_pre_hook(lambda module, args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        together(model, rows)
    breaking.remove()
    assert worst_difference(untouched, alone(model, rows)) < 1e-5


def test_unpadding_puts_rows_of_equal_length_together_wherever_their_padding_is() -> None:
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 1, 1]], dtype=torch.bool)
    unpadded = UnpaddedBatch.of(mask)
    assert unpadded.tokens.tolist() == [0, 1, 7, 8, 3, 4, 5]
    assert unpadded.groups == [(2, 2), (1, 3)]
    values = torch.arange(1.0, 10).view(3, 3, 1)
    assert unpadded.unpad(values).flatten().tolist() == [1, 2, 8, 9, 4, 5, 6, 0]  # filled up to a multiple of four
    assert unpadded.pad(unpadded.unpad(values)).flatten().tolist() == [1, 2, 0, 4, 5, 6, 0, 8, 9]
    positions = torch.tensor([0.0, 1, 2]).view(1, 3, 1)  # one row that stands for all
    assert unpadded.unpad(positions).flatten().tolist() == [0, 1, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize("lengths", [(5,), (29,), (2, 3), (20, 12)])
def test_rows_that_come_padded_themselves_are_unpadded_too(lengths: tuple[int, ...]) -> None:
    model, rows = make(UNPADDABLE["bert"]()), rows_of(lengths)
    untouched = alone(model, rows)
    Unpadding(model).apply()
    ids = torch.ones(len(rows), 32, dtype=torch.long, device=DEVICE)
    for index, row in enumerate(rows):
        ids[index, : row.shape[1]] = row
    with torch.no_grad():
        output = model(input_ids=ids, attention_mask=(ids != 1).long())
    assert worst_difference(untouched, [read(output, index, row) for index, row in enumerate(rows)]) < 1e-5


@pytest.mark.parametrize("heads", [4, 2])  # of keys and values
@pytest.mark.parametrize("reach", [None, 3])
@pytest.mark.parametrize("biased", [False, True])
def test_attention_equals_that_of_transformers_with_the_same_window_and_bias(
    biased: bool, reach: int | None, heads: int
) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, count, 9, 8) for count in (4, heads, heads))
    near = (torch.arange(9)[:, None] - torch.arange(9)).abs() < (reach or 9)
    bias = torch.randn(1, 4, 9, 9) if biased else None
    module = torch.nn.Module()
    module.num_key_value_groups = 4 // heads  # type: ignore[assignment]
    theirs, _ = sdpa_attention_forward(
        module, query, key, value, near, scaling=0.3, position_bias=bias, is_causal=False
    )
    ours, _ = varlen_attention(module, query, key, value, None, scaling=0.3, position_bias=bias, sliding_window=reach)
    assert worst_difference([theirs], [ours]) < 1e-6


def test_a_model_that_caps_its_scores_is_not_for_attention_by_row() -> None:
    query, key, value = torch.randn(3, 1, 2, 4, 8)
    with pytest.raises(NotApplicable, match="caps scores"):
        varlen_attention(torch.nn.Module(), query, key, value, None, softcap=50.0)


@pytest.mark.parametrize("setting", ["output_hidden_states", "output_attentions"])
def test_a_model_that_returns_hidden_states_or_attentions_is_left_untouched(setting: str) -> None:
    config = UNPADDABLE["bert"]()
    setattr(config, setting, True)
    with pytest.raises(NotApplicable, match="return hidden states"):
        Unpadding(make(config)).apply()


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: transformers.GPT2Model(transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2)), "encoders only"),
        (
            lambda: transformers.BartModel(
                transformers.BartConfig(d_model=32, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=64)
            ),
            "encoders only",
        ),
        (
            lambda: transformers.ViTModel(transformers.ViTConfig(hidden_size=32, num_attention_heads=2, image_size=32)),
            "texts only",
        ),
        (
            lambda: transformers.Wav2Vec2Model(
                transformers.Wav2Vec2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
            ),
            "texts only",
        ),
    ],
)
def test_decoders_images_and_audio_are_left_untouched(model: Callable[[], Any], reason: str) -> None:
    left = model().eval()
    before = str(left), left.config._attn_implementation
    with pytest.raises(NotApplicable, match=reason):
        Unpadding(left).apply()
    assert (str(left), left.config._attn_implementation) == before
    assert not left._forward_pre_hooks
