"""The keys and values of running sequences, each in a slot of its own.

Slots of one length are the rows of an arena, its live rows first, so that attention reads them as one slice. It must
never know sequences, tokens or models.
"""

from dataclasses import dataclass, field

import numpy
import torch

# The shortest slot, in tokens; each longer kind of slot has room for twice as many.
MIN_SLOT_TOKENS = 256
# An arena shrinks after so many steps that need a quarter of it: to copy slots costs as much as some steps.
STEPS_TO_SHRINK = 100


@dataclass(slots=True)
class LayerStorage:
    """Keys and values of one layer, `[rows, heads, length, size]` each."""

    keys: torch.Tensor
    values: torch.Tensor


@dataclass(slots=True, eq=False)
class Slot:
    """Room for the keys and values of one sequence: a row of an arena. The row changes when others leave."""

    arena: "Arena"
    row: int


@dataclass(slots=True, eq=False)
class Arena:
    """The slots of one length. Live ones are the first rows."""

    length: int
    slots: list[Slot] = field(default_factory=list)
    layers: dict[int, LayerStorage] = field(default_factory=dict)
    capacity: int = 0
    slack_steps: int = 0  # how many steps in a row have needed a quarter of the capacity at most

    def take(self) -> Slot:
        """A new slot, behind the live ones."""
        if len(self.slots) == self.capacity:
            self._resize(max(1, 2 * self.capacity))
        slot = Slot(self, len(self.slots))
        self.slots.append(slot)
        return slot

    def give_back(self, slot: Slot, used: int) -> None:
        """Free a slot; the last one takes its row, with so many tokens that it has in `used`."""
        last = self.slots.pop()
        if last is not slot:
            self.copy(last, slot, used)
            last.row = slot.row
            self.slots[last.row] = last

    def tick(self) -> None:
        """A step has passed. Memory that many steps did not need is given back."""
        self.slack_steps = self.slack_steps + 1 if 4 * len(self.slots) <= self.capacity else 0
        if self.slack_steps >= STEPS_TO_SHRINK:
            self.slack_steps = 0
            self._resize(self.capacity // 2 if self.slots else 0)

    def storage(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> LayerStorage:
        """That of a layer, made on its first use; `keys` and `values` are `[1, heads, tokens, size]` of the layer."""
        if layer not in self.layers:
            self.layers[layer] = LayerStorage(self._zeros(keys), self._zeros(values))
        return self.layers[layer]

    def copy(self, source: Slot, target: Slot, tokens: int) -> None:
        """The first tokens of one slot to another."""
        for storage in self.layers.values():
            for part in (storage.keys, storage.values):
                part[target.row, :, :tokens] = part[source.row, :, :tokens]

    @property
    def bytes_per_token(self) -> int:
        """What the keys and values of one token take, once there are some."""
        parts = [part for storage in self.layers.values() for part in (storage.keys, storage.values)]
        return sum(part.shape[1] * part.shape[3] * part.element_size() for part in parts)

    def clear(self, slot: Slot) -> None:
        """Forget the numbers in a slot: not even a masked NaN may stay for the next sequence."""
        for storage in self.layers.values():
            storage.keys[slot.row].zero_()
            storage.values[slot.row].zero_()

    def _zeros(self, like: torch.Tensor) -> torch.Tensor:
        return zeros((self.capacity, like.shape[1], self.length, like.shape[3]), like)

    def _resize(self, capacity: int) -> None:
        self.capacity = capacity
        if capacity == 0:
            self.layers.clear()
        for storage in self.layers.values():
            storage.keys = self._resized(storage.keys)
            storage.values = self._resized(storage.values)

    def _resized(self, old: torch.Tensor) -> torch.Tensor:
        new = zeros((self.capacity, *old.shape[1:]), old)
        kept = min(self.capacity, len(old))
        new[:kept] = old[:kept]
        return new


def zeros(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """Zeros of the type and on the device of `like`. On a CPU, memory is taken only once it is written."""
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    count = int(numpy.prod(shape)) * like.element_size()
    return torch.from_numpy(numpy.zeros(count, numpy.uint8)).view(like.dtype).view(shape)


class KVCache:
    """All slots, in arenas by their length; none is longer than `max_length` tokens."""

    def __init__(self, max_length: int | None = None) -> None:
        self.max_length = max_length
        self.arenas: dict[int, Arena] = {}

    def slot_tokens(self, tokens: int) -> int:
        """The length of the slot for a sequence of so many tokens."""
        length = MIN_SLOT_TOKENS
        while length < tokens:
            length *= 2
        return max(tokens, min(length, self.max_length or length))

    def reserve(self, tokens: int) -> Slot:
        """A slot for so many tokens."""
        length = self.slot_tokens(tokens)
        return self.arenas.setdefault(length, Arena(length)).take()

    def tick(self) -> None:
        """A step has passed."""
        for arena in self.arenas.values():
            arena.tick()
