"""What speed-ups are made of: hooks and changes that are put on a model and taken off together.

It must never know what is computed faster, nor whether it is kept.
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel


class DoesNotFit(Exception):
    """Why a speed-up is not for this model, in a few words."""


class SpeedUp:
    """One speed-up of one model: what `on` puts on the model, `off` takes off."""

    name: str

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self._undo: list[Callable[[], object]] = []

    @property
    def is_on(self) -> bool:
        return bool(self._undo)

    def on(self) -> None:
        """Raises `DoesNotFit` when the model is none that it can speed up. `off` is due then, too."""
        raise NotImplementedError

    def off(self) -> None:
        """Raises what went wrong last, after everything else was taken off."""
        wrong: Exception | None = None
        while self._undo:
            try:
                self._undo.pop()()
            except Exception as error:
                wrong = error
        if wrong is not None:
            raise wrong

    def _before(self, module: torch.nn.Module, hook: Callable[..., Any]) -> None:
        self._undo.append(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

    def _after(self, module: torch.nn.Module, hook: Callable[..., Any], *, always: bool = False) -> None:
        self._undo.append(module.register_forward_hook(hook, always_call=always).remove)

    def _replace_forward(self, module: torch.nn.Module, forward: Callable[..., Any]) -> None:
        module.forward = forward
        self._undo.append(lambda: delattr(module, "forward"))


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
