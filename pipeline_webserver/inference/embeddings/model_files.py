"""A model's files, in its folder or on the Hub: what stands in them, or one line that says why it cannot be read.

It must never know what a file is for.
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from pipeline_webserver.errors import ConfigurationError, first_line
from pipeline_webserver.inference import internals

Reader = Callable[[Path], Any]
# The files of a module's weights, the one that can hold no code first; sentence-transformers wrote the other until 2.3.
READERS: dict[str, Reader] = {
    "model.safetensors": load_file,
    "pytorch_model.bin": partial(torch.load, map_location="cpu", weights_only=True),
}


class ModelFiles:
    """Those of one model at one revision. Every method raises `ConfigurationError`."""

    def __init__(self, model: str, revision: str | None) -> None:
        self._model = model
        self._revision = revision

    def path(self, name: str) -> Path | None:
        """None if the model has no such file, or if neither the Hub nor the cache can give it."""
        if not self._model:  # constructed, not loaded
            return None
        try:
            return internals.cached_path(self._model, name, self._revision)
        except OSError as error:
            raise ConfigurationError(f"its {name} cannot be loaded: {first_line(error)}") from error

    def json(self, name: str) -> Any:
        """None if there is no such file."""
        path = self.path(name)
        try:
            return None if path is None else json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigurationError(f"its {name} is not JSON; download the model again") from error

    def settings(self, name: str) -> dict[str, Any]:
        """A JSON object, empty if there is no such file."""
        found = self.json(name)
        if found is not None and not isinstance(found, dict):
            raise ConfigurationError(f"its {name} is not a JSON object; download the model again")
        return found or {}

    def weights(self, folder: str, names: Sequence[str]) -> list[torch.Tensor]:
        """These and no others, as float32; without running code, also where the older form could hold some."""
        for name, read in READERS.items():
            path = self.path(f"{folder}/{name}")
            if path is not None:
                return self._read(f"{folder}/{name}", path, read, names)
        raise ConfigurationError(
            f"it has none of {', '.join(f'{folder}/{name}' for name in READERS)}; download it again"
        )

    def _read(self, name: str, path: Path, read: Reader, names: Sequence[str]) -> list[torch.Tensor]:
        try:
            tensors = read(path)
        except (SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
            raise ConfigurationError(f"its {name} cannot be read; download the model again") from error
        if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
            raise ConfigurationError(f"its {name} holds no tensors by name; download the model again")
        if tensors.keys() != set(names):
            raise ConfigurationError(
                f"its {name} holds {', '.join(sorted(tensors))} and not {', '.join(names)}; download the model again"
            )
        return [tensors[wanted].float() for wanted in names]
