"""Model inputs as one batch, and a batch's outputs apart again.

It must never know pipelines, nor how a pass is run.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

# What model inputs that share a pass have in common, unbatched; their outputs have one of it, too.
SHARED = frozenset({"candidate_labels", "text_inputs", "is_last"})


def concat_inputs(inputs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Tensors `[1, ...]` of equal shapes as one `[rows, ...]`, lists one after the other."""
    return {name: _concat(name, [tensors[name] for tensors in inputs]) for name in inputs[0]}


def _concat(name: str, values: list[Any]) -> Any:
    if name in SHARED:
        return values[0]
    if isinstance(values[0], torch.Tensor):
        return torch.cat(values)
    return [item for value in values for item in value]


def split_outputs(outputs: Any, rows: int) -> list[Any]:
    """A batch's outputs, `[rows, ...]` or lists of `rows` items, as those of each row, in the same containers."""
    return [_row("", outputs, row, rows) for row in range(rows)]


def _row(name: str, value: Any, row: int, rows: int) -> Any:
    if name in SHARED:
        return value
    if isinstance(value, torch.Tensor):
        return value[row : row + 1] if value.ndim and value.shape[0] == rows else value
    if isinstance(value, dict):
        return type(value)({key: _row(key, item, row, rows) for key, item in value.items()})
    if isinstance(value, tuple):  # one for each layer
        return tuple(_row("", item, row, rows) for item in value)
    if isinstance(value, list) and len(value) == rows:
        return value[row : row + 1]
    return value


def stack_inputs(inputs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Model inputs of equal length as one batch, for tokenizers that have no padding token."""
    values = {name: [tensors[name] for tensors in inputs] for name in inputs[0]}
    return {
        name: torch.cat(column) if isinstance(column[0], torch.Tensor) else column for name, column in values.items()
    }


def unbatch_outputs(outputs: Mapping[str, Any], rows: int) -> list[dict[str, Any]]:
    """A collated batch's outputs as those of each row, as the pipelines' own iterator makes them.

    Tensors `[rows, ...]` become `[1, ...]`, also in the tuples that have one for each layer; lists become their items.
    Caches are left out. Plain dictionaries, since a `ModelOutput` for each row takes longer to make than to read.
    """
    columns = {name: _column(value, rows) for name, value in outputs.items() if not is_cache(name)}
    return [{name: column[row] for name, column in columns.items()} for row in range(rows)]


def is_cache(name: str) -> bool:
    """Whether an output is what a model remembers for its next step."""
    return name in {"cache", "past_key_values"}


def _column(value: Any, rows: int) -> Sequence[Any]:
    """One output, as a value for each row."""
    if value is None:
        return [None] * rows
    if isinstance(value, torch.Tensor):
        rows_of: Sequence[torch.Tensor] = value.split(1)
        return rows_of
    if isinstance(value, tuple):
        return list(zip(*(layer.split(1) for layer in value), strict=True))
    column: Sequence[Any] = value
    return column


def strip_padding(outputs: Any, tensors: Mapping[str, Any], length: int, padded: int, *, left: bool) -> Any:
    """One row's model outputs without what was computed for padding: `length` of `padded` tokens are real.

    Stripped along the second dimension: what came in as `[1, tokens]`, and what has the shape `[1, tokens, ...]`. `[1,
    labels]` stays whole, even where there are as many labels as tokens. Generated tokens follow their padded prompt.
    """
    if length == padded:
        return outputs
    if "generated_sequence" in outputs:
        outputs["generated_sequence"] = outputs["generated_sequence"][:, :, padded - length :]
    for name, value in outputs.items():
        is_sequence = isinstance(value, torch.Tensor) and value.ndim >= 2 and value.shape[1] == padded
        if is_sequence and (value.ndim >= 3 or name in tensors):
            outputs[name] = value[:, -length:] if left else value[:, :length]
    return outputs
