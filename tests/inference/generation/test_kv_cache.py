"""Slots: what is in them stays theirs while others come and go, and memory is given back."""

import torch

from pipeline_webserver.inference.generation.kv_cache import STEPS_TO_SHRINK, Arena, KVCache, Slot

HEADS, SIZE = 2, 3


def write(slot: Slot, number: float) -> None:
    like = torch.zeros(1, HEADS, 1, SIZE)
    storage = slot.arena.storage(0, like, like)
    storage.keys[slot.row], storage.values[slot.row] = number, -number


def numbers(slot: Slot, tokens: int) -> set[float]:
    storage = slot.arena.layers[0]
    parts = (storage.keys[slot.row, :, :tokens], -storage.values[slot.row, :, :tokens])
    return {number for part in parts for number in part.flatten().tolist()}


def test_a_slot_is_as_long_as_its_sequence_needs_by_powers_of_two_and_never_longer_than_the_model() -> None:
    assert [KVCache().slot_tokens(tokens) for tokens in (1, 256, 257, 1000)] == [256, 256, 512, 1024]
    assert [KVCache(300).slot_tokens(tokens) for tokens in (1, 257, 300)] == [256, 300, 300]
    assert KVCache(100).slot_tokens(1) == 100


def test_slots_of_one_length_are_rows_of_one_arena() -> None:
    cache = KVCache()
    first, second, long = cache.reserve(9), cache.reserve(200), cache.reserve(500)
    assert (first.row, second.row, long.row) == (0, 1, 0)
    assert first.arena is second.arena is not long.arena


def test_the_last_slot_takes_the_row_of_one_that_leaves_with_the_tokens_it_has() -> None:
    arena = Arena(4)
    slots = [arena.take() for _ in range(3)]
    for index, slot in enumerate(slots):
        write(slot, index + 1)
    arena.give_back(slots[0], used=2)
    assert [slot.row for slot in slots[1:]] == [1, 0]
    assert arena.slots == [slots[2], slots[1]]
    assert numbers(slots[2], 2) == {3.0}
    assert numbers(slots[1], 4) == {2.0}


def test_what_is_in_slots_survives_that_the_arena_grows_and_shrinks() -> None:
    arena = Arena(4)
    slots = [arena.take() for _ in range(9)]
    assert arena.capacity == 16
    for index, slot in enumerate(slots):
        write(slot, index + 1)
    for slot in slots[3:][::-1]:
        arena.give_back(slot, used=4)
    for _ in range(STEPS_TO_SHRINK):
        assert arena.capacity == 16
        arena.tick()
    assert arena.capacity == 8
    assert [numbers(slot, 4) for slot in slots[:3]] == [{1.0}, {2.0}, {3.0}]


def test_an_arena_without_slots_gives_all_its_memory_back_in_time() -> None:
    arena = Arena(4)
    slot = arena.take()
    write(slot, 1)
    arena.give_back(slot, 0)
    for _ in range(STEPS_TO_SHRINK):
        assert arena.layers
        arena.tick()
    assert (arena.layers, arena.capacity) == ({}, 0)


def test_a_copy_has_the_first_tokens_and_a_cleared_slot_none() -> None:
    arena = Arena(4)
    first, second = arena.take(), arena.take()
    write(first, float("nan"))
    write(second, 2)
    arena.copy(second, first, 4)
    assert numbers(first, 4) == {2.0}
    write(first, float("nan"))
    arena.clear(first)
    assert numbers(first, 4) == {0.0}
    assert numbers(second, 4) == {2.0}


def test_the_bytes_of_a_token_are_those_of_all_layers() -> None:
    arena = Arena(4)
    write(arena.take(), 1)
    assert arena.bytes_per_token == 2 * HEADS * SIZE * 4
