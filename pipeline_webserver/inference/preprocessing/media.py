"""What images and audio have in common on their way to a model input.

Their model inputs share a pass if all tensors have equal shapes. It must never know requests or HTTP.
"""

import hashlib
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import torch

from pipeline_webserver.inference.model_inputs import ModelInput
from pipeline_webserver.inference.preprocessing.base import CheckedInput, Preprocessor

# What a model input costs, in tokens: a patch of 16 x 16 pixels in three colours counts as one.
NUMBERS_PER_TOKEN = 768


def tensor_shapes(tensors: Mapping[str, Any]) -> Hashable:
    """The shape of each tensor, by name."""
    return tuple(
        sorted((name, tuple(value.shape)) for name, value in tensors.items() if isinstance(value, torch.Tensor))
    )


def largest_tensor_size(tensors: Mapping[str, Any]) -> int:
    """The numbers of the largest tensor."""
    return max(value.numel() for value in tensors.values() if isinstance(value, torch.Tensor))


class MediaPreprocessor(Preprocessor):
    """Files. Each is decoded when its turn comes: no two decoded files are in memory at once."""

    by_shape = True
    encodes_text = False

    def model_inputs(self, checked: CheckedInput) -> Iterable[ModelInput]:
        (tensors,) = self.run_preprocess(checked, self.decode(checked.input))
        self.check_tensors(tensors, checked)
        tokens = max(1, largest_tensor_size(tensors) // NUMBERS_PER_TOKEN)
        return [ModelInput(tensors, checked.forward, tokens, (tensor_shapes(tensors), repr(checked.preprocess)))]

    def dedup_key(self, checked: CheckedInput) -> Hashable:
        return (hashlib.blake2b(checked.input).digest(), repr(sorted(checked.parameters.items())))

    def decode(self, data: bytes) -> Any:
        """The content of a file. Raises `Rejected` or `TooLarge`."""
        raise NotImplementedError

    def check_tensors(self, tensors: Mapping[str, Any], checked: CheckedInput) -> None:
        """Raises `Rejected` or `TooLarge`."""
