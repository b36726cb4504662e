"""oneDNN's linear layers: equal, few kernels, and no weight twice. Whole models are in `test_acceleration`."""

import pytest
import torch

from pipeline_webserver.inference.acceleration.base import DoesNotFit, stack_of
from pipeline_webserver.inference.acceleration.onednn import (
    PrepackedLinear,
    PrepackedWeights,
    computed_rows,
    has_onednn,
)
from pipeline_webserver.inference.acceleration.selection import worst_difference
from tests.support.families import PACKED, make


@pytest.mark.parametrize(
    ("rows", "more"), [(1, 1), (2, 4), (8, 8), (9, 12), (128, 128), (129, 160), (160, 160), (1000, 1024)]
)
def test_few_numbers_of_rows_are_computed_with_so_that_few_kernels_are_kept(rows: int, more: int) -> None:
    assert computed_rows(rows) == more


@pytest.mark.parametrize("shape", [(16,), (1, 16), (5, 16), (2, 3, 16), (1, 4, 16)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_prepacked_layer_equals_the_plain_one_whatever_the_number_of_rows(bias: bool, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    linear, inputs = torch.nn.Linear(16, 24, bias=bias), torch.randn(shape)
    with torch.no_grad():
        assert worst_difference([linear(inputs)], [PrepackedLinear(linear)(inputs)]) < 1e-6


def test_prepacking_replaces_the_linear_layers_of_the_stack_and_frees_their_weights() -> None:
    model = make(PACKED["bert"]())
    bytes_before = sum(weight.nbytes for weight in stack_of(model).parameters())
    PrepackedWeights(model).on()
    linear = [module for module in stack_of(model).modules() if isinstance(module, torch.nn.Linear)]
    prepacked = [module for module in stack_of(model).modules() if isinstance(module, PrepackedLinear)]
    assert (len(linear), len(prepacked)) == (0, 3 * 6)
    assert sum(weight.nbytes for weight in stack_of(model).parameters()) < bytes_before / 10  # biases and norms
    assert type(model.get_output_embeddings()) is torch.nn.Linear  # it shares its weight with the embeddings


def test_off_the_cpu_there_is_no_onednn() -> None:
    with torch.device("meta"):
        model = make(PACKED["bert"]())
    with pytest.raises(DoesNotFit, match="it is for CPUs"):
        PrepackedWeights(model).on()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_onednn_is_used_just_where_this_cpu_computes_the_type_with_it(dtype: torch.dtype) -> None:
    model = make(PACKED["bert"]()).to(dtype)
    inputs = torch.randn(4, 16, dtype=dtype)
    try:
        PrepackedLinear(torch.nn.Linear(16, 24, dtype=dtype))(inputs)
        computes = True
    except RuntimeError:
        computes = False
    assert has_onednn(model) is computes
