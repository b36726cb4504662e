"""Only what is read: a vocabulary's head and the last layer compute the positions that a pipeline reads, and no others.

It must never know pipelines, nor whether it pays.
"""

import math
import mmap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from pipeline_webserver.inference.acceleration.base import DoesNotFit, SpeedUp, change_tensors, stack_of
from pipeline_webserver.inference.acceleration.onednn import has_onednn, product
from pipeline_webserver.inference.acceleration.unpadding import NoPadding, packing_of_this_pass

# Which positions of `input_ids` `[rows, padded]` are read of a model's output; true where one is.
Reads = Callable[[torch.Tensor], torch.Tensor]


def first_token(input_ids: torch.Tensor) -> torch.Tensor:
    """For classifiers: the first token stands for the text."""
    reads = torch.zeros_like(input_ids, dtype=torch.bool)
    reads[:, 0] = True
    return reads


def untouched_zeros(shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """Zeros whose memory is not touched before it is used: of a vocabulary for each token, next to none is."""
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    size = max(1, math.prod(shape) * like.element_size())
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=like.dtype, count=math.prod(shape)).view(*shape)


class MaskedHead(SpeedUp):
    """The head of a masked language model sees the positions that are read; elsewhere its scores are zero.

    It runs by oneDNN, which reads the vocabulary's matrix for few rows two to three times as fast as MKL (PyTorch 2.13
    on an AMD EPYC): with MKL, cutting the rows could make a text alone slower.
    """

    name = "masked_head"

    def __init__(self, model: PreTrainedModel, reads: Reads | None) -> None:
        super().__init__(model)
        self.reads = reads

    def on(self) -> None:
        output = self.model.get_output_embeddings()
        heads = [child for child in self.model.children() if any(part is output for part in child.modules())]
        if not heads or self.reads is None:
            raise DoesNotFit("this model guesses no masked tokens")
        self._before(self.model, self._begin)
        self._before(heads[0], self._enter)
        self._after(heads[0], self._leave)
        if type(output) is torch.nn.Linear and has_onednn(self.model):
            self._replace_forward(output, lambda inputs: product(output.weight, output.bias, inputs))

    def _begin(self, model: torch.nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        assert self.reads is not None
        self._is_read = self.reads(kwargs["input_ids"])

    def _enter(self, head: torch.nn.Module, args: tuple[Any, ...], kwargs: Any) -> Any:
        shape = self._is_read.shape
        return change_tensors(
            (args, kwargs),
            lambda value: value.ndim == 3 and value.shape[:2] == shape,
            lambda value: value[self._is_read].unsqueeze(0),
        )

    def _leave(self, head: torch.nn.Module, args: Any, output: Any) -> Any:
        return change_tensors(output, lambda value: value.ndim == 3, self._scattered)

    def _scattered(self, value: torch.Tensor) -> torch.Tensor:
        scores = untouched_zeros((*self._is_read.shape, value.shape[2]), value)
        scores[self._is_read] = value[0]
        return scores


class LastLayer(SpeedUp):
    """Behind its attention, the last layer computes only the positions that are read; elsewhere its output is zero.

    For layers that add their input in modules of their own, as BERT's do: what enters those is cut, too.
    """

    name = "last_layer"

    def __init__(self, model: PreTrainedModel, reads: Reads | None, no_padding: NoPadding) -> None:
        super().__init__(model)
        self.reads = reads
        self.no_padding = no_padding

    def on(self) -> None:
        if self.reads is None:
            raise DoesNotFit("every position is read")
        if not self.no_padding.is_on:
            raise DoesNotFit(f"it goes with {NoPadding.name}")
        last = stack_of(self.model)[-1]
        self._before(self.model, self._begin)
        self._before(last, self._enter)
        for part in last.modules():
            if part is not last and next(part.children(), None) is not None:
                self._before(part, self._cut)

    def _begin(self, model: torch.nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        assert self.reads is not None
        if (packing := packing_of_this_pass()) is not None:
            packing.read = self.reads(kwargs["input_ids"]).flatten()[packing.tokens].nonzero().squeeze(1)

    def _enter(self, last: torch.nn.Module, args: Any, kwargs: Any) -> None:
        if (packing := packing_of_this_pass()) is not None:
            packing.is_last = True

    def _cut(self, part: torch.nn.Module, args: Any, kwargs: Any) -> Any:
        packing = packing_of_this_pass()
        if packing is None or not packing.is_cut:
            return None
        return change_tensors((args, kwargs), packing.is_whole, packing.cut)
