"""Unpadding: an encoder's layers are given the real tokens of a batch in one row, and attention runs row by row.

Embeddings, poolers, heads and pipelines get padded tensors as before. It must never know pipelines, nor whether it
pays.
"""

import itertools
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.models.mpnet.modeling_mpnet import MPNetSelfAttention

from pipeline_webserver.inference import internals
from pipeline_webserver.inference.acceleration.base import NotApplicable, Optimization, encoder_layers, map_tensors
from pipeline_webserver.inference.acceleration.onednn import computed_rows


@dataclass(slots=True)
class UnpaddedBatch:
    """Where the tokens of a padded batch are: row after row, by ascending length, so equal lengths are neighbours."""

    rows: int
    padded: int
    tokens: torch.Tensor  # indices into the flattened batch
    groups: list[tuple[int, int]]  # how many rows of which length
    filler: int  # tokens at the end that no row has
    read: torch.Tensor | None = None  # indices into `tokens`, where not all of them are read
    is_last_layer: bool = False  # the last layer runs; behind its attention it computes what is read only
    is_reduced: bool = False  # its attention is done

    @classmethod
    def of(cls, mask: torch.Tensor) -> "UnpaddedBatch":
        """`mask` is `[rows, padded]`, true where there is a token."""
        rows, padded = mask.shape
        if rows == 1 and mask.all():  # of a single client: the shortest way
            return cls(
                1, padded, torch.arange(padded, device=mask.device), [(1, padded)], computed_rows(padded) - padded
            )
        lengths, order = mask.sum(1).sort(stable=True)
        flat = torch.arange(rows * padded, device=mask.device).view(rows, padded)
        groups = [(len(list(equal)), length) for length, equal in itertools.groupby(lengths.tolist()) if length]
        tokens = flat[order][mask[order]]
        total = computed_rows(len(tokens))
        if total == padded and rows * padded > len(tokens):  # or the unpadded row would have a padded shape
            total = computed_rows(total + 1)
        return cls(rows, padded, tokens, groups, total - len(tokens))

    def is_padded(self, value: torch.Tensor) -> bool:
        """Whether it is `[rows, padded, numbers]`, or one row that stands for all (rotary positions)."""
        return value.ndim == 3 and value.shape[1] == self.padded and value.shape[0] in {1, self.rows}

    def is_whole(self, value: torch.Tensor) -> bool:
        """Whether it is unpadded, every token of it: `[1, tokens and filler, numbers]`."""
        return value.ndim == 3 and value.shape[:2] == (1, len(self.tokens) + self.filler)

    def is_unpadded(self, value: torch.Tensor) -> bool:
        """Whether it is unpadded, and reduced to what is read where the last layer has done that."""
        if self.read is None or not self.is_reduced:
            return self.is_whole(value)
        return value.ndim == 3 and value.shape[:2] == (1, len(self.read))

    def unpad(self, value: torch.Tensor) -> torch.Tensor:
        """`[rows, padded, numbers]` to `[1, tokens and filler, numbers]`."""
        if self.rows == 1 and len(self.tokens) == self.padded:
            return self.fill(value[0]).unsqueeze(0)
        return self.fill(value.expand(self.rows, -1, -1).flatten(0, 1)[self.tokens]).unsqueeze(0)

    def fill(self, value: torch.Tensor) -> torch.Tensor:
        """`[tokens, ...]` with zeros for the filler."""
        return torch.nn.functional.pad(value, (*(0, 0) * (value.ndim - 1), 0, self.filler)) if self.filler else value

    def reduce(self, value: torch.Tensor) -> torch.Tensor:
        """`[1, tokens and filler, numbers]` to `[1, tokens that are read, numbers]`."""
        return value[:, self.read]

    def pad(self, value: torch.Tensor) -> torch.Tensor:
        """What `is_unpadded` to `[rows, padded, numbers]`, with zeros for all other positions."""
        positions = self.tokens[self.read] if self.is_reduced else self.tokens
        flat = value.new_zeros(self.rows * self.padded, value.shape[2])
        flat[positions] = value[0, : len(positions)]
        return flat.view(self.rows, self.padded, -1)


# Of the pass that is running; None for a model without a mask.
_unpadded_batch: ContextVar[UnpaddedBatch | None] = ContextVar("unpadded_batch", default=None)


def current_unpadded_batch() -> UnpaddedBatch | None:
    """That of the pass that is running, if it is unpadded."""
    return _unpadded_batch.get()


def varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    position_bias: torch.Tensor | None = None,
    softcap: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention for `transformers.AttentionInterface`: each row attends to itself, without padding and so without a
    mask.

    `query`, `key` and `value` are `[1, heads, tokens, size]` where the batch is unpadded, `[rows, heads, length,
    size]` where it is not; the result has heads and tokens swapped. `position_bias` is the same for all rows.
    """
    if softcap is not None:
        raise NotApplicable("its attention caps scores")

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        length = query.shape[2]
        mask = _window_mask(length, sliding_window, query.device)
        if position_bias is not None:
            bias = position_bias[:1, :, :length, :length]
            mask = bias if mask is None else bias.masked_fill(~mask, -torch.inf)
        grouped = key.shape[1] != query.shape[1]
        output = scaled_dot_product_attention(query, key, value, mask, scale=scaling, enable_gqa=grouped)
        return output.transpose(1, 2)

    unpadded = _unpadded_batch.get()
    if unpadded is None:
        return attend(query, key, value), None
    sizes = [rows * length for rows, length in unpadded.groups] + [unpadded.filler]
    outputs = []
    parts_by_group = (part.split(sizes, 2) for part in (query, key, value))
    for (rows, length), *parts in zip(unpadded.groups, *parts_by_group, strict=False):  # nothing attends to the filler
        by_row = parts if rows == 1 else [part[0].unflatten(1, (rows, length)).transpose(0, 1) for part in parts]
        outputs.append(attend(*by_row).flatten(0, 1))
    outputs.append(outputs[0].new_zeros(unpadded.filler, *outputs[0].shape[1:]))
    unpadded.is_reduced = unpadded.is_last_layer
    return torch.cat(outputs).unsqueeze(0), None


def _window_mask(length: int, reach: int | None, device: torch.device) -> torch.Tensor | None:
    """Which tokens attend to which, `[length, length]`, in a window of `reach` tokens; None where all attend to all."""
    if reach is None or length <= reach:
        return None
    positions = torch.arange(length, device=device)
    return (positions[:, None] - positions).abs() < reach


def mpnet_varlen_attention(
    self: MPNetSelfAttention,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor]:
    """The forward pass of the one family that could attend by row, but does not look its attention up."""
    shape = (*hidden_states.shape[:2], self.num_attention_heads, self.attention_head_size)
    query, key, value = (part(hidden_states).view(shape).transpose(1, 2) for part in (self.q, self.k, self.v))
    output, _ = varlen_attention(self, query, key, value, None, position_bias=position_bias)
    return (self.o(output.flatten(2)),)


class Unpadding(Optimization):
    """The encoder's layers are given one row of real tokens; embeddings, poolers and heads get padded tensors."""

    name = "unpadding"
    removes_padding = frozenset({"encoder"})
    attention = "varlen"

    def __init__(self, model: PreTrainedModel, *, can_pad: bool = True) -> None:
        super().__init__(model)
        self.can_pad = can_pad

    def apply(self) -> None:
        model = self.model
        if not self.can_pad:
            raise NotApplicable("its tokenizer has no padding token")
        if model.main_input_name != "input_ids":
            raise NotApplicable("it is for texts only")
        if model.config.is_encoder_decoder or any(getattr(module, "is_causal", False) for module in model.modules()):
            raise NotApplicable("it is for encoders only")
        if model.config.output_hidden_states or model.config.output_attentions:
            raise NotApplicable("the model is configured to return hidden states or attentions")
        layers = encoder_layers(model)
        self._replace_attention()
        self._before(model, self._begin)
        for layer in layers:
            self._before(layer, self._enter)
        self._after(layers[-1], self._leave)
        self._after(model, self._end, always=True)

    def _replace_attention(self) -> None:
        """Raises `NotApplicable`."""
        model = self.model
        if own := [module for module in model.modules() if isinstance(module, MPNetSelfAttention)]:
            for module in own:
                self._replace_forward(module, MethodType(mpnet_varlen_attention, module))
        elif internals.can_set_attention(model):
            AttentionInterface.register(self.attention, varlen_attention)
            self._undo.append(partial(model.set_attn_implementation, internals.attention_of(model)))
            model.set_attn_implementation(self.attention)
        else:
            raise NotApplicable("this model computes attention in its own way")

    def _begin(self, model: torch.nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        mask = kwargs.get("attention_mask")
        _unpadded_batch.set(None if mask is None else UnpaddedBatch.of(mask.bool()))

    def _enter(self, layer: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        unpadded = _unpadded_batch.get()
        if unpadded is None:
            return None
        return map_tensors((args, kwargs), unpadded.is_padded, unpadded.unpad)

    def _leave(self, layer: torch.nn.Module, args: Any, output: Any) -> Any:
        unpadded = _unpadded_batch.get()
        return output if unpadded is None else map_tensors(output, unpadded.is_unpadded, unpadded.pad)

    def _end(self, model: torch.nn.Module, args: Any, output: Any) -> None:
        _unpadded_batch.set(None)
