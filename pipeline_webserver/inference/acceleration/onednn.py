"""Linear layers computed by oneDNN, with weights prepacked for it or plain.

PyTorch's default on a CPU is another library (MKL), and which is faster depends on the CPU and on the sizes. It must
never know pipelines, nor whether it pays.
"""

import torch
from transformers import PreTrainedModel

from pipeline_webserver.inference.acceleration.base import DoesNotFit, SpeedUp, stack_of


def computed_rows(rows: int) -> int:
    """The next number of rows that products are computed with: 1, multiples of 4 up to 128, of 32 above.

    oneDNN compiles a product for each number of rows, in half a millisecond, and keeps half a megabyte of each of the
    last 1,024 (PyTorch 2.13): with every length that comes along, 430 MB.
    """
    if rows == 1:
        return 1
    step = 4 if rows <= 128 else 32
    return -(-rows // step) * step


def product(weight: torch.Tensor, bias: torch.Tensor | None, inputs: torch.Tensor) -> torch.Tensor:
    """What `torch.nn.functional.linear` computes; `weight` is plain or prepacked."""
    rows = inputs.numel() // inputs.shape[-1]
    filler = computed_rows(rows) - rows
    if filler:
        filled = torch.nn.functional.pad(inputs.flatten(0, -2), (0, 0, 0, filler))
        return product(weight, bias, filled)[:rows].view(*inputs.shape[:-1], -1)
    output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return output


def has_onednn(model: PreTrainedModel) -> bool:
    """Whether oneDNN computes such a model: on a CPU, with a PyTorch that has it, in a type that the CPU can."""
    if model.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if model.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if model.dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return bool(model.dtype == torch.float32)


class PrepackedLinear(torch.nn.Module):
    """A linear layer whose weight lies in memory as oneDNN's product reads it."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = linear.bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return product(self.packed, self.bias, inputs)

    def unpacked(self) -> torch.nn.Linear:
        weight = self.packed.to_dense()
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta", dtype=weight.dtype)
        linear.weight = torch.nn.Parameter(weight, requires_grad=False)
        linear.bias = self.bias
        return linear.eval()


class PrepackedWeights(SpeedUp):
    """The linear layers of the stack; one by one, so that no more than one weight is there twice."""

    name = "prepacked_weights"

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self._checkpoint_is_mapped = True

    def on(self) -> None:
        if not has_onednn(self.model):
            raise DoesNotFit(
                "oneDNN does not compute this model: it is for CPUs, and types that they have instructions for"
            )
        for parent in list(stack_of(self.model).modules()):
            for name, child in list(parent.named_children()):
                if type(child) is torch.nn.Linear:
                    self._replace(parent, name, PrepackedLinear(child))
        if self._checkpoint_is_mapped:
            self._release_checkpoint()

    def _replace(self, parent: torch.nn.Module, name: str, packed: PrepackedLinear) -> None:
        setattr(parent, name, packed)
        self._undo.append(lambda: setattr(parent, name, packed.unpacked()))

    def _release_checkpoint(self) -> None:
        """Its file is mapped into memory as a whole, and stays there until nothing is a part of it any more."""
        for part in [*self.model.parameters(), *self.model.buffers()]:
            part.data = part.data.clone()
        self._checkpoint_is_mapped = False
