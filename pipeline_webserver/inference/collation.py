"""Rows of equal shapes as one batch, and a batch's outputs apart again.

It must never know pipelines, nor how a pass is run.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

# What rows that share a pass have in common as it stands, and so has what comes out: there is one of it.
COMMON = frozenset({"candidate_labels", "text_inputs", "is_last"})


def joined(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Tensors `[1, ...]` as one `[rows, ...]`, lists one after the other."""
    return {name: _joined(name, [row[name] for row in rows]) for name in rows[0]}


def _joined(name: str, values: list[Any]) -> Any:
    if name in COMMON:
        return values[0]
    if isinstance(values[0], torch.Tensor):
        return torch.cat(values)
    return [item for value in values for item in value]


def parts(outputs: Any, rows: int) -> list[Any]:
    """A batch's outputs, `[rows, ...]` or lists of so many, as each row's, in what it came in."""
    return [_part("", outputs, row, rows) for row in range(rows)]


def _part(name: str, value: Any, row: int, rows: int) -> Any:
    if name in COMMON:
        return value
    if isinstance(value, torch.Tensor):
        return value[row : row + 1] if value.ndim and value.shape[0] == rows else value
    if isinstance(value, dict):
        return type(value)({key: _part(key, item, row, rows) for key, item in value.items()})
    if isinstance(value, tuple):  # one for each layer
        return tuple(_part("", item, row, rows) for item in value)
    if isinstance(value, list) and len(value) == rows:
        return value[row : row + 1]
    return value
