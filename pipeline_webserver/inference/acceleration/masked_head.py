"""The head of a masked language model, computed only at the positions that a pipeline reads.

It must never know pipelines, nor whether it pays.
"""

import math
import mmap
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from pipeline_webserver.inference.acceleration.base import NotApplicable, Optimization, map_tensors
from pipeline_webserver.inference.acceleration.onednn import has_onednn, linear
from pipeline_webserver.inference.model_inputs import PositionsRead


def untouched_zeros(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Zeros whose memory pages are not touched before they are used: of a vocabulary for each token, few ever are."""
    if 0 in shape:
        return torch.zeros(shape, dtype=dtype)
    pages = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=dtype, count=math.prod(shape)).view(*shape)


class MaskedHead(Optimization):
    """The head is given the positions that are read; elsewhere its scores mean nothing.

    It is computed by oneDNN, which reads the vocabulary's matrix for few rows two to three times as fast as MKL
    (PyTorch 2.13 on an AMD EPYC): with MKL, fewer rows could make a single text slower.
    """

    name = "masked_head"
    removes_padding = frozenset({"head"})

    def __init__(self, model: PreTrainedModel, positions_read: PositionsRead | None) -> None:
        super().__init__(model)
        self.positions_read = positions_read

    def apply(self) -> None:
        output = self.model.get_output_embeddings()
        heads = [child for child in self.model.children() if any(part is output for part in child.modules())]
        if not heads or self.positions_read is None:
            raise NotApplicable("this model predicts no masked tokens")
        self._before(self.model, self._begin)
        self._before(heads[0], self._enter)
        self._after(heads[0], self._leave)
        if type(output) is torch.nn.Linear and has_onednn(self.model):
            self._replace_forward(output, lambda inputs: linear(output.weight, output.bias, inputs))

    def _begin(self, model: torch.nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        assert self.positions_read is not None
        self._is_read = self.positions_read(kwargs["input_ids"])

    def _enter(self, head: torch.nn.Module, args: tuple[Any, ...], kwargs: Any) -> Any:
        shape = self._is_read.shape
        return map_tensors(
            (args, kwargs),
            lambda value: value.ndim == 3 and value.shape[:2] == shape,
            lambda value: value[self._is_read].unsqueeze(0),
        )

    def _leave(self, head: torch.nn.Module, args: Any, output: Any) -> Any:
        return map_tensors(output, lambda value: value.ndim == 3, self._scatter)

    def _scatter(self, value: torch.Tensor) -> torch.Tensor:
        """The scores `[1, read, vocabulary]` in the shape of the whole batch, `[rows, padded, vocabulary]`.

        On the CPU, whatever the model's device: from there they would be copied with all that is not read.
        """
        is_read, value = self._is_read.cpu(), value.cpu()
        rows, padded = is_read.shape
        if value.shape[1] == rows and bool((is_read.sum(dim=1) == 1).all()):
            return value[0].unsqueeze(1).expand(rows, padded, -1)  # without memory: each row is read at one position
        scores = untouched_zeros((rows, padded, value.shape[2]), value.dtype)
        scores[is_read] = value[0]
        return scores
