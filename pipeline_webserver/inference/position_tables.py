"""How many tokens a model has positions for, found by looking at what it looks up.

The names of tables of positions, and how many of their first rows stay unused, differ by family. What does not: for so
many more tokens, the highest row that is read moves by as many. It must never know tasks or tokenizers.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

# Where configurations have it, by family.
NAMES = ("max_position_embeddings", "n_positions", "n_ctx", "max_source_positions", "max_seq_len", "seq_length")


class LookupRecorder(TorchFunctionMode):
    """Keeps, of each table that an embedding is looked up in, its rows and the highest that was read."""

    def __init__(self) -> None:
        super().__init__()
        self.highest: dict[int, tuple[int, int]] = {}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.nn.functional.embedding:
            indices, table = (*args, *(kwargs or {}).values())[:2]
            if indices.numel():
                self.highest[id(table)] = (len(table), int(indices.max()))
        return function(*args, **(kwargs or {}))


def table_limit(run: Callable[[int], int]) -> int | None:
    """The most tokens that the smallest table of positions has rows for; None for a model without one.

    `run` runs the model on a text of so many equal words and returns how many tokens it had.
    """
    with torch.no_grad(), LookupRecorder() as few:
        few_tokens = run(1)
    with torch.no_grad(), LookupRecorder() as many:
        many_tokens = run(2)
    more = many_tokens - few_tokens
    limits = [
        rows - (highest - many_tokens + 1)
        for table, (rows, highest) in many.highest.items()
        if table in few.highest and highest - few.highest[table][1] == more > 0
    ]
    return min(limits, default=None)


def configured_limit(config: Any) -> int | None:
    """The positions that a configuration names; None if it names none, or scales rotary positions beyond them."""
    config = config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = {value for part in (rope, *rope.values()) if isinstance(part, dict) for value in [part.get("rope_type")]}
    if kinds - {None, "default"}:
        return None
    found = [getattr(config, name, None) for name in NAMES]
    return next((limit for limit in found if isinstance(limit, int) and limit > 0), None)
