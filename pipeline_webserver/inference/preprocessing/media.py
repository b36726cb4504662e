"""Files: what is common to images and sound on their way to a row for the model.

Rows of files share a pass if all their tensors have equal shapes. It must never know requests or HTTP.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from pipeline_webserver.inference.forward import Row
from pipeline_webserver.inference.preprocessing.base import Draft, Preparation

# What a row costs, in tokens: a patch of 16 x 16 pixels in three colours counts as one.
NUMBERS_OF_A_TOKEN = 768


def shapes(inputs: Mapping[str, Any]) -> list[tuple[str, tuple[int, ...]]]:
    """Of its tensors."""
    return sorted((name, tuple(value.shape)) for name, value in inputs.items() if isinstance(value, torch.Tensor))


def numbers_in(inputs: Mapping[str, Any]) -> int:
    """Those of the largest tensor."""
    return max(value.numel() for value in inputs.values() if isinstance(value, torch.Tensor))


class FilePreparation(Preparation):
    """The file is read when its turn comes: no two are in memory, decoded, at once."""

    by_shape = True

    def rows(self, draft: Draft) -> Iterable[Row]:
        (inputs,) = self.made(draft, self.read(draft.input))
        self.check(inputs, draft)
        tokens = max(1, numbers_in(inputs) // NUMBERS_OF_A_TOKEN)
        forward = {**draft.forward, "stopping_criteria": self.tick} if self.writes else draft.forward
        return [Row(inputs, forward, tokens, repr((shapes(inputs), draft.preprocess)))]

    def identity(self, draft: Draft) -> object:
        return (hashlib.blake2b(draft.input).digest(), repr(sorted(draft.parameters.items())))

    def read(self, data: bytes) -> Any:
        raise NotImplementedError

    def check(self, inputs: Mapping[str, Any], draft: Draft) -> None:
        """Raises `Rejected` or `TooLarge`."""
