"""No padding: an encoder's layers see the real tokens of a batch in one row, and attention runs row by row.

Embeddings, poolers, heads and pipelines see what they always saw. It must never know pipelines, nor whether it pays.
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

from pipeline_webserver.inference.acceleration.base import DoesNotFit, SpeedUp, change_tensors, stack_of
from pipeline_webserver.inference.acceleration.onednn import computed_rows


@dataclass(slots=True)
class Packing:
    """Where the tokens of a padded batch are: row after row, the rows by length, so that equal ones are neighbours."""

    rows: int
    padded: int
    tokens: torch.Tensor  # indices into the batch laid flat
    groups: list[tuple[int, int]]  # how many rows of which length
    filler: int  # tokens at the end that stand for nothing
    read: torch.Tensor | None = None  # indices into `tokens`, where not all of them are read
    is_last: bool = False  # the last layer that has attention is running, and goes on with what is read only
    is_cut: bool = False  # its attention is done

    @classmethod
    def of(cls, mask: torch.Tensor) -> "Packing":
        """`mask` is `[rows, padded]`, true where there is a token."""
        rows, padded = mask.shape
        if rows == 1 and mask.all():  # as a lone client sends it: the shortest way
            return cls(
                1, padded, torch.arange(padded, device=mask.device), [(1, padded)], computed_rows(padded) - padded
            )
        lengths, order = mask.sum(1).sort(stable=True)
        flat = torch.arange(rows * padded, device=mask.device).view(rows, padded)
        groups = [(len(list(alike)), length) for length, alike in itertools.groupby(lengths.tolist()) if length]
        tokens = flat[order][mask[order]]
        total = computed_rows(len(tokens))
        if total == padded and rows * padded > len(tokens):  # or the packed row would look like a padded one
            total = computed_rows(total + 1)
        return cls(rows, padded, tokens, groups, total - len(tokens))

    def is_padded(self, value: torch.Tensor) -> bool:
        """Whether it is `[rows, padded, numbers]`, or one row that stands for all (rotary positions)."""
        return value.ndim == 3 and value.shape[1] == self.padded and value.shape[0] in {1, self.rows}

    def is_whole(self, value: torch.Tensor) -> bool:
        """Whether it is packed: `[1, tokens and filler, numbers]`."""
        return value.ndim == 3 and value.shape[:2] == (1, len(self.tokens) + self.filler)

    def is_packed(self, value: torch.Tensor) -> bool:
        """Whether it is packed, and cut if that is due."""
        if self.read is None or not self.is_cut:
            return self.is_whole(value)
        return value.ndim == 3 and value.shape[:2] == (1, len(self.read))

    def pack(self, value: torch.Tensor) -> torch.Tensor:
        """`[rows, padded, numbers]` to `[1, tokens and filler, numbers]`."""
        if self.rows == 1 and len(self.tokens) == self.padded:
            return self.fill(value[0]).unsqueeze(0)
        return self.fill(value.expand(self.rows, -1, -1).flatten(0, 1)[self.tokens]).unsqueeze(0)

    def fill(self, value: torch.Tensor) -> torch.Tensor:
        """`[tokens, ...]` with zeros for the filler."""
        return torch.nn.functional.pad(value, (*(0, 0) * (value.ndim - 1), 0, self.filler)) if self.filler else value

    def cut(self, value: torch.Tensor) -> torch.Tensor:
        """`[1, tokens and filler, numbers]` to `[1, tokens that are read, numbers]`."""
        return value[:, self.read]

    def unpack(self, value: torch.Tensor) -> torch.Tensor:
        """What is packed, and cut if that is due, to `[rows, padded, numbers]`, with zeros for all else."""
        places = self.tokens[self.read] if self.is_cut else self.tokens
        flat = value.new_zeros(self.rows * self.padded, value.shape[2])
        flat[places] = value[0, : len(places)]
        return flat.view(self.rows, self.padded, -1)


# The packing of the pass that is running; None for a model without a mask.
_packing: ContextVar[Packing | None] = ContextVar("packing", default=None)


def packing_of_this_pass() -> Packing | None:
    return _packing.get()


def attend_by_row(
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
    """Attention for `transformers.AttentionInterface`: each row sees itself, without padding and so without a mask.

    `query`, `key` and `value` are `[1, heads, tokens, size]` where the batch is packed, `[rows, heads, length, size]`
    where it is not; the result has heads and tokens swapped. `position_bias` is the same for all rows.
    """
    if softcap is not None:
        raise DoesNotFit("its attention caps scores")

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        length = query.shape[2]
        mask = _window(length, sliding_window, query.device)
        if position_bias is not None:
            bias = position_bias[:1, :, :length, :length]
            mask = bias if mask is None else bias.masked_fill(~mask, -torch.inf)
        grouped = key.shape[1] != query.shape[1]
        output = scaled_dot_product_attention(query, key, value, mask, scale=scaling, enable_gqa=grouped)
        return output.transpose(1, 2)

    packing = _packing.get()
    if packing is None:
        return attend(query, key, value), None
    sizes = [rows * length for rows, length in packing.groups] + [packing.filler]
    outputs = []
    alike = (part.split(sizes, 2) for part in (query, key, value))
    for (rows, length), *parts in zip(packing.groups, *alike, strict=False):  # nothing attends to the filler
        by_row = parts if rows == 1 else [part[0].unflatten(1, (rows, length)).transpose(0, 1) for part in parts]
        outputs.append(attend(*by_row).flatten(0, 1))
    outputs.append(outputs[0].new_zeros(packing.filler, *outputs[0].shape[1:]))
    packing.is_cut = packing.is_last
    return torch.cat(outputs).unsqueeze(0), None


def _window(length: int, reach: int | None, device: torch.device) -> torch.Tensor | None:
    """Which tokens see which when each sees those nearer than `reach`; None when all see all."""
    if reach is None or length <= reach:
        return None
    positions = torch.arange(length, device=device)
    return (positions[:, None] - positions).abs() < reach


def attend_in_mpnet(
    self: MPNetSelfAttention,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor]:
    """The forward pass of the one family that could attend by row, but does not ask the interface how to attend."""
    shape = (*hidden_states.shape[:2], self.num_attention_heads, self.attention_head_size)
    query, key, value = (part(hidden_states).view(shape).transpose(1, 2) for part in (self.q, self.k, self.v))
    output, _ = attend_by_row(self, query, key, value, None, position_bias=position_bias)
    return (self.o(output.flatten(2)),)


class NoPadding(SpeedUp):
    """The encoder's layers see one row of real tokens; embeddings, poolers and heads see what they always saw."""

    name = "no_padding"
    attention = "by_row"

    def __init__(self, model: PreTrainedModel, *, can_pad: bool = True) -> None:
        super().__init__(model)
        self.can_pad = can_pad

    def on(self) -> None:
        model = self.model
        if not self.can_pad:
            raise DoesNotFit("its tokenizer has no padding token")
        if model.main_input_name != "input_ids":
            raise DoesNotFit("it is for texts only")
        if model.config.is_encoder_decoder or any(getattr(module, "is_causal", False) for module in model.modules()):
            raise DoesNotFit("it is for encoders only")
        if model.config.output_hidden_states or model.config.output_attentions:
            raise DoesNotFit("the model is set to return what is inside of it")
        layers = stack_of(model)
        self._replace_attention()
        self._before(model, self._begin)
        for layer in layers:
            self._before(layer, self._enter)
        self._after(layers[-1], self._leave)
        self._after(model, self._end, always=True)

    def _replace_attention(self) -> None:
        """Raises `DoesNotFit`."""
        model = self.model
        if own := [module for module in model.modules() if isinstance(module, MPNetSelfAttention)]:
            for module in own:
                self._replace_forward(module, MethodType(attend_in_mpnet, module))
        elif model._can_set_attn_implementation():
            AttentionInterface.register(self.attention, attend_by_row)
            self._undo.append(partial(model.set_attn_implementation, model.config._attn_implementation))
            model.set_attn_implementation(self.attention)
        else:
            raise DoesNotFit("this model computes attention in its own way")

    def _begin(self, model: torch.nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        mask = kwargs.get("attention_mask")
        _packing.set(None if mask is None else Packing.of(mask.bool()))

    def _enter(self, layer: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        packing = _packing.get()
        if packing is None:
            return None
        return change_tensors((args, kwargs), packing.is_padded, packing.pack)

    def _leave(self, layer: torch.nn.Module, args: Any, output: Any) -> Any:
        packing = _packing.get()
        return output if packing is None else change_tensors(output, packing.is_packed, packing.unpack)

    def _end(self, model: torch.nn.Module, args: Any, output: Any) -> None:
        _packing.set(None)
