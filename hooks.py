"""What speed-ups are made of: hooks on a model that are put on and taken off together.

It must never know what is computed faster, nor whether it is kept.
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel


class DoesNotFit(Exception):
    """Why a speed-up is not for this model, in a few words."""


class Hooked:
    """What is put on a model, and taken off again together."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self._undo: list[Callable[[], object]] = []

    def off(self) -> None:
        while self._undo:
            self._undo.pop()()

    def _before(self, module: torch.nn.Module, hook: Callable[..., Any]) -> None:
        self._undo.append(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

    def _after(self, module: torch.nn.Module, hook: Callable[..., Any], *, always: bool = False) -> None:
        self._undo.append(module.register_forward_hook(hook, always_call=always).remove)


def change_tensors(value: Any, is_meant: Callable[[torch.Tensor], bool], change: Callable[..., torch.Tensor]) -> Any:
    """The same value, its tensors that are meant changed, in tuples and in a model's outputs, too."""
    if isinstance(value, torch.Tensor):
        return change(value) if is_meant(value) else value
    if isinstance(value, tuple):
        return tuple(change_tensors(item, is_meant, change) for item in value)
    if isinstance(value, dict):
        for key, item in value.items():
            value[key] = change_tensors(item, is_meant, change)
    return value


def stack_of(model: PreTrainedModel) -> torch.nn.ModuleList:
    """The layers of an encoder: the largest list of modules. Raises `DoesNotFit`."""
    stacks = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    if not stacks:
        raise DoesNotFit("this model has no stack of layers")
    return max(stacks, key=lambda stack: sum(weight.numel() for weight in stack.parameters()))
