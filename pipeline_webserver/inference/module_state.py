"""What forward passes change in the modules of a model, put back behind each: every pass finds the model as loaded.

Some families keep something of a pass: BigBird the kind of attention that its text was short enough for, RecurrentGemma
what it was about to say, dynamic rotary positions the longest text. The next input, of another client, would be
computed by it. It must never know pipelines, inputs, nor how passes are shared.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import is_
from typing import Any

import torch

from pipeline_webserver.errors import ConfigurationError
from pipeline_webserver.inference import internals

logger = logging.getLogger(__name__)


class ModuleState:
    """The attributes, buffers and modules of a model's modules, and their configurations.

    torch's own modules change nothing in a pass, and are left out. `changed` has the names of all that a pass has
    changed so far, `changed_by_last` of what the last one has; a value that is replaced by an equal one is no change.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.changed: set[str] = set()
        self.changed_by_last: set[str] = set()
        self._model = model
        self._buffers: list[tuple[str, torch.Tensor, torch.Tensor]] = []
        configs = {id(module.config): module.config for module in model.modules() if hasattr(module, "config")}
        self._stores = [(type(config).__name__, vars(config)) for config in configs.values()]
        for module in model.modules():
            if type(module).__module__.startswith("torch.nn."):
                continue
            name = type(module).__name__
            self._stores += [(name, store) for store in internals.attribute_stores(module)]
            self._buffers += [
                (f"{name}.{key}", buffer, buffer.clone()) for key, buffer in module.named_buffers(recurse=False)
            ]

    @contextmanager
    def kept(self) -> Iterator[None]:
        """The pass inside leaves the modules as it found them, also if it fails."""
        before = [dict(store) for _, store in self._stores]
        versions = [internals.version_of(buffer) for _, buffer, _ in self._buffers]
        try:
            yield
        finally:
            self._put_back(before, versions)

    def settle(self, first_pass: Callable[[], object]) -> None:
        """Run a first pass, and a second one. What the first does to weights stays done, with what it notes of it.

        RWKV scales some once. Raises `ConfigurationError` if the second pass changes weights, too: they are too large
        to be put back.
        """
        before = [dict(store) for _, store in self._stores]
        buffers = [internals.version_of(buffer) for _, buffer, _ in self._buffers]
        weights = self._weight_versions()
        try:
            first_pass()
        finally:
            settled = self._weight_versions()
            if settled == weights:
                self._put_back(before, buffers)
        with self.kept():
            first_pass()
        if self._weight_versions() != settled:
            raise ConfigurationError(
                "each pass changes the model's weights, so no two inputs would meet the same model"
            )

    def _weight_versions(self) -> list[int]:
        return [internals.version_of(weight) for weight in self._model.parameters()]

    def _put_back(self, before: Sequence[dict[str, Any]], versions: Sequence[int]) -> None:
        self.changed_by_last = set()
        for (name, store), saved in zip(self._stores, before, strict=True):
            if len(store) != len(saved) or not all(map(is_, store.values(), saved.values())):
                self.changed_by_last |= {f"{name}.{key}" for key in restore(store, saved)}
        for (name, buffer, loaded), version in zip(self._buffers, versions, strict=True):
            if internals.version_of(buffer) != version and is_changed(buffer, loaded):
                buffer.copy_(loaded)
                self.changed_by_last.add(name)
        if new := self.changed_by_last - self.changed:
            self.changed |= new
            logger.info("A pass changed %s of the model, which is put back behind each.", ", ".join(sorted(new)))


def restore(store: dict[str, Any], saved: dict[str, Any]) -> list[str]:
    """Make the store what it was; the names of what was another value. Other threads may read it meanwhile."""
    names = [name for name in store.keys() | saved.keys() if not internals.notes_hooks(name)]
    changed = [name for name in names if is_changed(store.get(name), saved.get(name))]
    for name in names:
        if name in saved:
            store[name] = saved[name]
        else:
            del store[name]
    return changed


def is_changed(now: Any, before: Any) -> bool:
    """Whether a value is another than before. What has no equality of its own is, unless it is the same object."""
    if now is before:
        return False
    if isinstance(now, torch.Tensor) and isinstance(before, torch.Tensor):
        is_alike = (now.shape, now.dtype, now.device) == (before.shape, before.dtype, before.device)
        return not (is_alike and torch.equal(now, before))
    plain = (str, int, float, bool, tuple, type(None))
    return not (isinstance(now, plain) and isinstance(before, plain) and now == before)
