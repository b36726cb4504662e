"""From the last hidden state of one text to one vector, by the kinds of modules that sentence-transformers has for it.

All tokens are real: there is no padding. It must never know where a configuration comes from, nor pipelines.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from pipeline_webserver.errors import Rejected

# `[length]` to `[length]`.
Step = Callable[[torch.Tensor], torch.Tensor]
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
# Those of torch that need no argument and hold no weights.
ACTIVATIONS = (
    *("CELU", "ELU", "GELU", "Hardsigmoid", "Hardswish", "Hardtanh", "Identity", "LeakyReLU", "LogSigmoid", "Mish"),
    *("ReLU", "ReLU6", "SELU", "Sigmoid", "SiLU", "Softplus", "Softsign", "Tanh", "Tanhshrink"),
)


@dataclass(frozen=True, slots=True)
class Pooling:
    """From all tokens to one vector, in the ways that are named, one behind the other."""

    modes: tuple[str, ...]
    include_prompt: bool = True

    def __call__(self, hidden: torch.Tensor, prompt_tokens: int) -> torch.Tensor:
        """`hidden` `[tokens, hidden]` to `[modes * hidden]`. Raises `Rejected` if there is nothing to read."""
        skipped = 0 if self.include_prompt else prompt_tokens
        if skipped >= len(hidden):
            where = f" behind the {skipped} of its prompt" if skipped else ""
            raise Rejected(f"The text has no tokens{where} to make an embedding of.")
        return torch.cat([_pooled(mode, hidden[skipped:], skipped) for mode in self.modes])


def _pooled(mode: str, read: torch.Tensor, skipped: int) -> torch.Tensor:
    if mode == "cls":  # with a prompt left out, it is the first token behind it
        return read[0]
    if mode == "lasttoken":
        return read[-1]
    if mode == "max":
        return read.amax(dim=0)
    if mode == "weightedmean":  # a prompt that is left out still counts for the positions
        weights = torch.arange(skipped + 1, skipped + len(read) + 1, dtype=read.dtype)[:, None]
        return (read * weights).sum(dim=0) / weights.sum()
    return read.sum(dim=0) / (len(read) if mode == "mean" else len(read) ** 0.5)


@dataclass(frozen=True, slots=True)
class Dense:
    """A layer. `residual` is what is added to its result, made of its input."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    activation: Step
    residual: Step | None = None

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        result = self.activation(functional.linear(values, self.weight, self.bias))
        return result if self.residual is None else result + self.residual(values)


@dataclass(frozen=True, slots=True)
class LayerNorm:
    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(values, self.weight.shape, self.weight, self.bias)


def unit_length(values: torch.Tensor) -> torch.Tensor:
    return functional.normalize(values, dim=-1)


def unchanged(values: torch.Tensor) -> torch.Tensor:
    return values


def activation(name: str) -> Step:
    """One of `ACTIVATIONS`."""
    function: Step = getattr(torch.nn, name)()
    return function
