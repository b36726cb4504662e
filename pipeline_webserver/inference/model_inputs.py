"""What the model is given: one input of the pipeline as one or more model inputs, and the limits of one input.

It must never know how model inputs share forward passes, nor what a task makes of them.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

# An input as it was admitted, and the pipeline's parameters for it.
RawInput = tuple[Any, Mapping[str, Any]]
# Reports that a long call goes on.
Heartbeat = Callable[[], None]
# Which positions of `input_ids` `[rows, padded]` a pipeline reads of the model's output; true where it reads one.
PositionsRead = Callable[[torch.Tensor], torch.Tensor]
# Tokenizers of models that take inputs of any length say a number of tokens beyond this.
NO_LIMIT = 10**9


def no_heartbeat() -> None:
    """For calls that nothing watches."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one input may be.

    `truncate`: whether a text is cut to the model's length. The others are in tokens, pixels and seconds.
    """

    truncate: bool = False
    max_new_tokens: int = 256
    max_image_pixels: int = 25_000_000
    max_audio_s: float = 60.0


@dataclass(slots=True)
class ModelInput:
    """One row for the model: tensors `[1, ...]`, and its length in tokens, or in what costs as much as so many tokens.

    Model inputs share a pass only if their `batch_key` is equal: the same tensors by name, the same forward parameters
    and the same `extra_key`. With a `seed`, what is random in its pass begins at it.
    """

    tensors: Mapping[str, Any]
    forward_parameters: dict[str, Any]
    num_tokens: int
    extra_key: Hashable = None
    seed: int | None = None
    batch_key: Hashable = field(init=False)

    def __post_init__(self) -> None:
        self.batch_key = (tuple(sorted(self.tensors)), hashable(self.forward_parameters), self.extra_key)


def hashable(value: Any) -> Hashable:
    """A parameter as a value with an equality and a hash: dictionaries and lists become tuples."""
    if isinstance(value, Mapping):
        return tuple(sorted((name, hashable(item)) for name, item in value.items()))
    if isinstance(value, list | tuple):
        return tuple(hashable(item) for item in value)
    key: Hashable = value
    return key


@dataclass(slots=True)
class PreparedInput:
    """An input that passed every check before computing, and how its outputs are postprocessed.

    Inputs of equal `dedup_key` have equal results. `new_tokens` may be generated, besides the tokens of its model
    inputs. `is_wrapped` where the pipeline puts the one result into a list.
    """

    model_inputs: list[ModelInput]
    parameters: Mapping[str, object]
    postprocess_parameters: dict[str, Any]
    dedup_key: Hashable
    new_tokens: int = 0
    is_wrapped: bool = False

    @property
    def tokens(self) -> int:
        return sum(model_input.num_tokens for model_input in self.model_inputs) + self.new_tokens
