"""The last layer computes what is read. That results stay the same, family by family, is in `test_selection`."""

import pytest

from pipeline_webserver.inference.acceleration.base import NotApplicable, encoder_layers
from pipeline_webserver.inference.acceleration.last_layer import LastLayer
from pipeline_webserver.inference.acceleration.unpadding import Unpadding
from pipeline_webserver.inference.model_inputs import PositionsRead
from pipeline_webserver.inference.numerics import worst_difference
from pipeline_webserver.inference.preprocessing.text import first_token
from tests.support.families import LENGTHS, UNPADDABLE, alone, make, masks, rows_of, together


@pytest.mark.parametrize(("head", "positions_read"), [("masked", masks), ("classifier", first_token)])
def test_behind_its_attention_the_last_layer_computes_what_is_read_and_the_others_all(
    head: str, positions_read: PositionsRead
) -> None:
    model, rows = make(UNPADDABLE["bert"](), head), rows_of(LENGTHS)
    untouched, unpadding = alone(model, rows), Unpadding(model)
    unpadding.apply()
    LastLayer(model, positions_read, unpadding).apply()
    positions: list[int] = []
    for layer in encoder_layers(model):
        dense = layer.get_submodule("output.dense")
        dense.register_forward_pre_hook(lambda module, args: positions.append(args[0].shape[1]))
    assert worst_difference(untouched, together(model, rows)) < 1e-5
    assert positions == [112, 112, len(LENGTHS)]  # 110 tokens, filled up; one position of each row


def test_the_last_layer_is_left_whole_where_every_position_is_read_or_padding_is_computed() -> None:
    model = make(UNPADDABLE["bert"]())
    unpadding = Unpadding(model)
    with pytest.raises(NotApplicable, match=r"^it needs unpadding$"):
        LastLayer(model, masks, unpadding).apply()
    unpadding.apply()
    with pytest.raises(NotApplicable, match=r"^every position is read$"):
        LastLayer(model, None, unpadding).apply()
