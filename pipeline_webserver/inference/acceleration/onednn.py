"""Linear layers computed by oneDNN, with weights prepacked for it or plain.

PyTorch's default on a CPU is another library (MKL), and which is faster depends on the CPU and on the sizes. It must
never know pipelines, nor whether it pays.
"""

from contextlib import suppress
from pathlib import Path

import torch
from transformers import PreTrainedModel

from pipeline_webserver.inference import internals
from pipeline_webserver.inference.acceleration.base import NotApplicable, Optimization, encoder_layers

# Numbers in the weights of an encoder's layers. Those of a BERT of 2 layers of 128 have 0.4 million, and were 5 to 9 %
# slower prepacked; of 6 layers of 384, 10.6 million, 17 to 47 % faster (AMD EPYC with AVX-512, PyTorch 2.13).
MIN_DEFAULT_WEIGHTS = 2**21


def computed_rows(rows: int) -> int:
    """The next number of rows that products are computed with: 1, multiples of 4 up to 128, of 32 above.

    oneDNN compiles a product for each number of rows, in half a millisecond, and keeps half a megabyte of each of the
    last 1,024 (PyTorch 2.13): with every length that comes along, 430 MB.
    """
    if rows == 1:
        return 1
    step = 4 if rows <= 128 else 32
    return -(-rows // step) * step


def linear(weight: torch.Tensor, bias: torch.Tensor | None, inputs: torch.Tensor) -> torch.Tensor:
    """What `torch.nn.functional.linear` computes of `inputs` `[..., in]`: `[..., out]`.

    `weight` is `[out, in]`, plain or prepacked.
    """
    rows = inputs.numel() // inputs.shape[-1]
    filler = computed_rows(rows) - rows
    if filler:
        filled = torch.nn.functional.pad(inputs.flatten(0, -2), (0, 0, 0, filler))
        return linear(weight, bias, filled)[:rows].view(*inputs.shape[:-1], -1)
    return internals.onednn_linear(weight, bias, inputs)


def has_onednn(model: PreTrainedModel) -> bool:
    """Whether oneDNN computes such a model: on a CPU, with a PyTorch that has it, in a type that the CPU can."""
    if model.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return internals.onednn_supports(model.dtype)


def is_intel(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU is Intel's, for which MKL is written; False where the system does not say."""
    try:
        return "GenuineIntel" in cpuinfo.read_text()
    except OSError:
        return False


class PrepackedLinear(torch.nn.Module):
    """A linear layer whose weight is in the memory layout that oneDNN's product reads."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        super().__init__()
        self.packed = internals.onednn_prepack(layer.weight.detach())
        self.bias = layer.bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return linear(self.packed, self.bias, inputs)

    def unpacked(self) -> torch.nn.Linear:
        """The layer as it was."""
        weight = self.packed.to_dense()
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta", dtype=weight.dtype)
        layer.weight = torch.nn.Parameter(weight, requires_grad=False)
        layer.bias = self.bias
        return layer.eval()


class PrepackedWeights(Optimization):
    """The linear layers of the encoder or decoder, and the head of one that generates.

    One by one, so that no more than one weight is in memory twice.
    """

    name = "prepacked_weights"

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self._is_checkpoint_mapped = True
        self._weights = 0  # numbers in them, before they are prepacked
        with suppress(NotApplicable):
            self._weights = sum(weight.numel() for weight in encoder_layers(model).parameters())

    @property
    def is_default(self) -> bool:
        """On CPUs that MKL is not written for, unless the layers are so small that a call costs more than a product."""
        return not is_intel() and self._weights >= MIN_DEFAULT_WEIGHTS

    def apply(self) -> None:
        if not has_onednn(self.model):
            raise NotApplicable("oneDNN computes on CPUs, in types that they have instructions for")
        for parent in list(encoder_layers(self.model).modules()):
            for name, child in list(parent.named_children()):
                if type(child) is torch.nn.Linear:
                    self._replace(parent, name, PrepackedLinear(child))
        self._replace_head()
        if self._is_checkpoint_mapped:
            self._release_checkpoint()

    def _replace_head(self) -> None:
        """The head of a model that generates, which each token goes through, unless it is the embeddings, too."""
        head = self.model.get_output_embeddings() if self.model.can_generate() else None
        if type(head) is not torch.nn.Linear or head.weight is self.model.get_input_embeddings().weight:
            return
        for name, child in self.model.named_children():
            if child is head:
                self._replace(self.model, name, PrepackedLinear(head))

    def _replace(self, parent: torch.nn.Module, name: str, packed: PrepackedLinear) -> None:
        setattr(parent, name, packed)
        self._undo.append(lambda: setattr(parent, name, packed.unpacked()))

    def _release_checkpoint(self) -> None:
        """Its file is mapped into memory as a whole, and stays there until nothing refers to it."""
        for part in [*self.model.parameters(), *self.model.buffers()]:
            part.data = part.data.clone()
        self._is_checkpoint_mapped = False
