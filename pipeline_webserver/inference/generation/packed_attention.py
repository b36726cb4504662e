"""Attention over a packed step: the tokens of many sequences in one row, each of which attends to its own slot.

A step is one forward pass of `input_ids` `[1, tokens]`: one token of each sequence that decodes, and a chunk of each
prompt that is computed. So all products of the model are of all tokens at once, and no token is padding but for the few
at the end that make their number one that products are computed with. It must never know sampling, requests or loops.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.cache_utils import Cache, CacheLayerMixin

from pipeline_webserver.inference.acceleration.onednn import computed_rows
from pipeline_webserver.inference.generation.kv_cache import Arena, LayerStorage, Slot

ATTENTION = "packed_steps"
# Options of attention that change what it computes, and are not known here.
UNKNOWN_OPTIONS = ("head_mask", "position_bias", "block_indices")


class UnknownAttention(RuntimeError):
    """The model asks for a kind of attention that is not known here."""


@dataclass(slots=True)
class Chunk:
    """Tokens of one sequence in a step: `ids` behind the `start` that are in its slot already."""

    slot: Slot
    ids: list[int]
    start: int

    @property
    def decodes(self) -> bool:
        """Whether it is one token that follows others."""
        return len(self.ids) == 1 and self.start > 0


@dataclass(slots=True)
class DecodeGroup:
    """The sequences of one arena with one token each: packed tokens `begin` to `end`."""

    arena: Arena
    begin: int
    end: int
    rows: torch.Tensor  # [sequences], of the arena
    positions: torch.Tensor  # [sequences]
    is_every_row: bool  # whether `rows` are the first rows of the arena, in order
    read_rows: int  # the rows of the arena that attention reads
    read_length: int  # and how many tokens of each
    masks: dict[int | None, torch.Tensor] = field(default_factory=dict)  # by the reach of a sliding window

    def mask(self, heads: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
        """What is added to the scores `[rows x heads, queries, read_length]`: -inf where a row does not look."""
        if window not in self.masks:
            positions = self.positions
            if not self.is_every_row:
                positions = positions.new_zeros(self.read_rows).index_copy_(0, self.rows, self.positions)
            keys = torch.arange(self.read_length, device=positions.device)
            hidden = keys > positions[:, None]
            if window is not None:
                hidden |= keys <= positions[:, None] - window
            mask = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(hidden, -torch.inf)
            self.masks[window] = mask.repeat_interleave(heads, 0).unsqueeze(1)
        return self.masks[window]


def decode_groups(chunks: Sequence[Chunk], device: torch.device | None) -> list[DecodeGroup]:
    """Of chunks of one token each, in the order of their arenas and rows."""
    groups, begin = [], 0
    for _, members in itertools.groupby(chunks, lambda chunk: chunk.slot.arena.length):
        found = list(members)
        rows, positions = [chunk.slot.row for chunk in found], [chunk.start for chunk in found]
        end = begin + len(found)
        groups.append(
            DecodeGroup(
                found[0].slot.arena,
                begin,
                end,
                torch.tensor(rows, device=device),
                torch.tensor(positions, device=device),
                is_every_row=rows == list(range(len(rows))),
                read_rows=rows[-1] + 1,
                read_length=max(positions) + 1,
            )
        )
        begin = end
    return groups


@dataclass(slots=True)
class PackedStep:
    """Where the tokens of a step are. `layer` is the one that runs."""

    input_ids: torch.Tensor  # [1, tokens and filler]
    position_ids: torch.Tensor  # [1, tokens and filler]
    last: torch.Tensor  # [chunks], the packed index of the last token of each chunk, in their order
    decodes: list[DecodeGroup]
    prefills: list[tuple[int, Chunk]]  # with the packed index of its first token
    layer: int = -1

    @classmethod
    def of(cls, chunks: Sequence[Chunk], device: torch.device | None = None) -> "PackedStep":
        """Chunks of one token come first, those of one arena together, in the order of their rows."""
        decoding = [index for index, chunk in enumerate(chunks) if chunk.decodes]
        decoding.sort(key=lambda index: (chunks[index].slot.arena.length, chunks[index].slot.row))
        prefilling = [index for index, chunk in enumerate(chunks) if not chunk.decodes]
        ids: list[int] = []
        positions: list[int] = []
        last = [0] * len(chunks)
        prefills: list[tuple[int, Chunk]] = []
        for index in [*decoding, *prefilling]:
            chunk = chunks[index]
            if not chunk.decodes:
                prefills.append((len(ids), chunk))
            ids += chunk.ids
            positions += range(chunk.start, chunk.start + len(chunk.ids))
            last[index] = len(ids) - 1
        filler = [0] * (computed_rows(len(ids)) - len(ids))
        return cls(
            torch.tensor([ids + filler], device=device),
            torch.tensor([positions + filler], device=device),
            torch.tensor(last, device=device),
            decode_groups([chunks[index] for index in decoding], device),
            prefills,
        )

    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put the keys and values of all tokens, `[1, heads, tokens and filler, size]`, into their slots."""
        self.layer = layer
        for group in self.decodes:
            storage = group.arena.storage(layer, keys, values)
            for part, new in ((storage.keys, keys), (storage.values, values)):
                part[group.rows, :, group.positions] = new[0, :, group.begin : group.end].transpose(0, 1)
        for begin, chunk in self.prefills:
            storage = chunk.slot.arena.storage(layer, keys, values)
            end = chunk.start + len(chunk.ids)
            for part, new in ((storage.keys, keys), (storage.values, values)):
                part[chunk.slot.row, :, chunk.start : end] = new[0, :, begin : begin + len(chunk.ids)]


# The step that is running.
_step: ContextVar[PackedStep] = ContextVar("packed_step")


@contextmanager
def running(step: PackedStep) -> Iterator[None]:
    """Inside, the model's cache and attention are those of this step."""
    token = _step.set(step)
    try:
        yield
    finally:
        _step.reset(token)


class PackedLayer(CacheLayerMixin):  # type: ignore[misc]
    """What a layer of the model takes for its cache: the slots of the step that is running."""

    is_sliding = False

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.layer = layer

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to make: storage is the arenas'."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        _step.get().write(self.layer, key_states, value_states)
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1


class PackedCache(Cache):  # type: ignore[misc]
    """As many layers as the model has."""

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[PackedLayer(layer) for layer in range(layers)])


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    slopes: torch.Tensor | None = None,
    s_aux: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention for `transformers.AttentionInterface`: of a step's tokens `[1, heads, tokens and filler, size]`.

    Each sees what its own sequence has in its slot, up to itself. `slopes` `[heads]` are of a bias that grows with the
    position of the key (ALiBi); `s_aux` `[heads]` are scores that take attention and give nothing (sinks). The result
    has heads and tokens swapped. Raises `UnknownAttention`.
    """
    if unknown := [name for name in UNKNOWN_OPTIONS if options.get(name) is not None]:
        raise UnknownAttention(f"its attention has {unknown[0]!r}")
    step = _step.get()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    settings = Settings(scale, sliding_window, softcap, slopes, s_aux)
    output = query.new_zeros(query.shape[2], query.shape[1], value.shape[3])
    for group in step.decodes:
        storage = group.arena.layers[step.layer]
        output[group.begin : group.end] = decode(query[0, :, group.begin : group.end], group, storage, settings)
    for begin, chunk in step.prefills:
        end = begin + len(chunk.ids)
        if chunk.start:
            storage = chunk.slot.arena.layers[step.layer]
            seen = chunk.start + len(chunk.ids)
            keys, values = storage.keys[chunk.slot.row, :, :seen], storage.values[chunk.slot.row, :, :seen]
        else:
            keys, values = key[0, :, begin:end], value[0, :, begin:end]
        output[begin:end] = prefill(query[0, :, begin:end], keys, values, settings)
    return output.unsqueeze(0), None


@dataclass(frozen=True, slots=True)
class Settings:
    """How a layer attends."""

    scale: float
    window: int | None
    softcap: float | None
    slopes: torch.Tensor | None
    sinks: torch.Tensor | None


def decode(query: torch.Tensor, group: DecodeGroup, storage: LayerStorage, settings: Settings) -> torch.Tensor:
    """`query` `[heads, sequences, size]` of one token a sequence: `[sequences, heads, size]`."""
    heads, _, size = query.shape
    rows, length = group.read_rows, group.read_length
    kv_heads = storage.keys.shape[1]
    by_row = query.transpose(0, 1)
    if not group.is_every_row:
        by_row = query.new_zeros(rows, heads, size).index_copy_(0, group.rows, by_row)
    by_row = by_row.reshape(rows * kv_heads, heads // kv_heads, size)
    keys = storage.keys[:rows].flatten(0, 1)[:, :length]
    values = storage.values[:rows].flatten(0, 1)[:, :length]
    mask = group.mask(kv_heads, settings.window, query)
    if settings.slopes is not None:
        bias = torch.outer(settings.slopes, torch.arange(length, device=query.device)).to(query.dtype)
        mask = mask + bias.view(1, heads, 1, length).expand(rows, -1, -1, -1).reshape(mask.shape[0], -1, length)
    scores = scored(mask, by_row, keys, settings)
    sinks = None if settings.sinks is None else settings.sinks.view(1, kv_heads, -1, 1).expand(rows, -1, -1, -1)
    output = torch.bmm(probabilities(scores, sinks), values)
    output = output.view(rows, heads, -1)
    return output if group.is_every_row else output[group.rows]


def scored(mask: torch.Tensor, query: torch.Tensor, keys: torch.Tensor, settings: Settings) -> torch.Tensor:
    """The scores `[groups, queries, keys]` with what is added to them."""
    if settings.softcap is None:
        return torch.baddbmm(mask, query, keys.transpose(1, 2), alpha=settings.scale)
    scores = torch.bmm(query, keys.transpose(1, 2)) * settings.scale
    return torch.tanh(scores / settings.softcap) * settings.softcap + mask


def probabilities(scores: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
    """Of `scores` `[groups, queries, keys]`; `sinks`, as many as there are groups and queries, or for all queries."""
    if sinks is None:
        return torch.softmax(scores, -1, dtype=torch.float32).to(scores.dtype)
    sinks = sinks.reshape(scores.shape[0], -1, 1).expand(-1, scores.shape[1], -1).to(scores.dtype)
    return torch.softmax(torch.cat([scores, sinks], -1), -1, dtype=torch.float32)[..., :-1].to(scores.dtype)


def prefill(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, settings: Settings) -> torch.Tensor:
    """`query` `[heads, tokens, size]` of the last tokens of those in `keys` `[heads, seen, size]`, each up to itself.

    Returns `[tokens, heads, size]`.
    """
    heads, count, _ = query.shape
    kv_heads, seen, _ = keys.shape
    is_plain = settings.softcap is None and settings.slopes is None and settings.sinks is None
    if is_plain and count == seen and (settings.window is None or settings.window >= seen):
        output = scaled_dot_product_attention(
            query[None],
            keys[None],
            values[None],
            is_causal=count > 1,
            scale=settings.scale,
            enable_gqa=heads != kv_heads,
        )
        return output[0].transpose(0, 1)
    at = torch.arange(seen - count, seen, device=query.device)[:, None]
    positions = torch.arange(seen, device=query.device)
    hidden = positions > at
    if settings.window is not None:
        hidden |= positions <= at - settings.window
    mask = torch.zeros(count, seen, dtype=query.dtype, device=query.device).masked_fill_(hidden, -torch.inf)
    if is_plain:
        output = scaled_dot_product_attention(
            query[None], keys[None], values[None], mask, scale=settings.scale, enable_gqa=heads != kv_heads
        )
        return output[0].transpose(0, 1)
    keys, values = (part.repeat_interleave(heads // kv_heads, 0) for part in (keys, values))
    bias = mask.expand(heads, -1, -1)
    if settings.slopes is not None:
        bias = bias + torch.outer(settings.slopes, positions).to(query.dtype).unsqueeze(1)
    return torch.bmm(probabilities(scored(bias, query, keys, settings), settings.sinks), values).transpose(0, 1)
