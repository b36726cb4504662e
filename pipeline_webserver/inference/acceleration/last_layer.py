"""The last layer of an encoder, computed only at the positions that a pipeline reads.

It must never know pipelines, nor whether it pays.
"""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from pipeline_webserver.inference.acceleration.base import NotApplicable, Optimization, encoder_layers, map_tensors
from pipeline_webserver.inference.acceleration.unpadding import Unpadding, current_unpadded_batch
from pipeline_webserver.inference.model_inputs import PositionsRead


class LastLayer(Optimization):
    """Behind its attention, the last layer computes the positions that are read; elsewhere its output is zero.

    For layers that add their input in modules of their own, as BERT's do: the input of those is reduced, too.
    """

    name = "last_layer"

    def __init__(self, model: PreTrainedModel, positions_read: PositionsRead | None, unpadding: Unpadding) -> None:
        super().__init__(model)
        self.positions_read = positions_read
        self.unpadding = unpadding

    def apply(self) -> None:
        if self.positions_read is None:
            raise NotApplicable("every position is read")
        if not self.unpadding.is_applied:
            raise NotApplicable(f"it needs {Unpadding.name}")
        last = encoder_layers(self.model)[-1]
        self._before(self.model, self._begin)
        self._before(last, self._enter)
        for part in last.modules():
            if part is not last and next(part.children(), None) is not None:
                self._before(part, self._reduce)

    def _begin(self, model: torch.nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        assert self.positions_read is not None
        if (batch := current_unpadded_batch()) is not None:
            batch.read = self.positions_read(kwargs["input_ids"]).flatten()[batch.tokens].nonzero().squeeze(1)

    def _enter(self, last: torch.nn.Module, args: Any, kwargs: Any) -> None:
        if (batch := current_unpadded_batch()) is not None:
            batch.is_last_layer = True

    def _reduce(self, part: torch.nn.Module, args: Any, kwargs: Any) -> Any:
        batch = current_unpadded_batch()
        if batch is None or not batch.is_reduced:
            return None
        return map_tensors((args, kwargs), batch.is_whole, batch.reduce)
