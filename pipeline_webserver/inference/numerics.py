"""Comparing what a model computed in two ways: by how much the numbers differ, and how much counts as equal.

It must never know why two computations may differ.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch


def tolerance_of(dtype: torch.dtype) -> float:
    """The largest difference that counts as equal, relative to the largest number: another order of sums makes it."""
    return {torch.float16: 1e-2, torch.bfloat16: 5e-2}.get(dtype, 1e-4)


def worst_difference(reference: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> float:
    """The largest difference of two outputs' numbers, relative to the largest number if that is over one.

    Infinite where shapes differ or a number is not finite.
    """
    worst = 0.0
    for expected, actual in zip(reference, outputs, strict=True):
        if expected.shape != actual.shape or not expected.isfinite().all():
            return math.inf
        if expected.numel():
            scale = max(1.0, expected.abs().max().item())
            worst = max(worst, (expected - actual).abs().max().nan_to_num(math.inf).item() / scale)
    return worst


def flatten_outputs(outputs: Any) -> torch.Tensor:
    """All numbers that a model computed for one input, `[numbers]`.

    Where it computed tokens only, the digits of their ids, base 16: ids are equal or not, however close they are.
    """
    tensors = list(iterate_tensors(outputs))
    floats = [tensor.flatten() for tensor in tensors if tensor.is_floating_point()]
    digits = [tensor.flatten()[:, None] >> torch.arange(0, 64, 4) & 15 for tensor in tensors if is_token_ids(tensor)]
    return torch.cat(floats or [part.flatten().float() for part in digits])


def is_token_ids(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds whole numbers; masks do not count."""
    return not tensor.is_floating_point() and tensor.dtype != torch.bool


def iterate_tensors(outputs: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested mappings, tuples and lists."""
    if isinstance(outputs, torch.Tensor):
        yield outputs
    elif isinstance(outputs, Mapping | tuple | list):
        for value in outputs.values() if isinstance(outputs, Mapping) else outputs:
            yield from iterate_tensors(value)
