"""What optimizations are made of: hooks and changes that are applied to a model and reverted together.

It must never know what is computed faster, nor whether it is kept.
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel


class NotApplicable(Exception):
    """Why an optimization is not for this model, in a few words."""


class Optimization:
    """One optimization of one model: `revert` undoes all that `apply` has changed."""

    name: str
    # From where it removes padding: "encoder" or "head".
    removes_padding: frozenset[str] = frozenset()

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self._undo: list[Callable[[], object]] = []

    @property
    def is_default(self) -> bool:
        """Whether it pays on this CPU as far as is known, where timing does not show otherwise."""
        return True

    @property
    def is_applied(self) -> bool:
        return bool(self._undo)

    def apply(self) -> None:
        """Raises `NotApplicable` if this model cannot be optimized so; `revert` is due then, too."""
        raise NotImplementedError

    def revert(self) -> None:
        """Raises the last error, after everything else is undone."""
        last_error: Exception | None = None
        while self._undo:
            try:
                self._undo.pop()()
            except Exception as error:
                last_error = error
        if last_error is not None:
            raise last_error

    def _before(self, module: torch.nn.Module, hook: Callable[..., Any]) -> None:
        self._undo.append(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

    def _after(self, module: torch.nn.Module, hook: Callable[..., Any], *, always: bool = False) -> None:
        self._undo.append(module.register_forward_hook(hook, always_call=always).remove)

    def _replace_forward(self, module: torch.nn.Module, forward: Callable[..., Any]) -> None:
        module.forward = forward
        self._undo.append(lambda: delattr(module, "forward"))


def map_tensors(value: Any, selects: Callable[[torch.Tensor], bool], change: Callable[..., torch.Tensor]) -> Any:
    """The same value, its selected tensors changed, in tuples and in a model's outputs, too."""
    if isinstance(value, torch.Tensor):
        return change(value) if selects(value) else value
    if isinstance(value, tuple):
        return tuple(map_tensors(item, selects, change) for item in value)
    if isinstance(value, dict):
        for key, item in value.items():
            value[key] = map_tensors(item, selects, change)
    return value


def encoder_layers(model: PreTrainedModel) -> torch.nn.ModuleList:
    """The layers of an encoder: the largest list of modules. Raises `NotApplicable`."""
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    if not lists:
        raise NotApplicable("this model has no list of layers")
    return max(lists, key=lambda layers: sum(weight.numel() for weight in layers.parameters()))
