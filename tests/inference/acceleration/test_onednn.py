"""oneDNN's linear layers: equal, few kernels, and no weight twice. Whole models are in `test_selection`."""

from pathlib import Path

import pytest
import torch
import transformers

from pipeline_webserver.inference.acceleration.base import NotApplicable, encoder_layers
from pipeline_webserver.inference.acceleration.onednn import (
    PrepackedLinear,
    PrepackedWeights,
    computed_rows,
    has_onednn,
    is_intel,
)
from pipeline_webserver.inference.numerics import worst_difference
from tests.support.families import UNPADDABLE, make


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


def test_prepacking_replaces_the_linear_layers_of_the_encoder_and_frees_their_weights() -> None:
    model = make(UNPADDABLE["bert"]())
    bytes_before = sum(weight.nbytes for weight in encoder_layers(model).parameters())
    PrepackedWeights(model).apply()
    linear = [module for module in encoder_layers(model).modules() if isinstance(module, torch.nn.Linear)]
    prepacked = [module for module in encoder_layers(model).modules() if isinstance(module, PrepackedLinear)]
    assert (len(linear), len(prepacked)) == (0, 3 * 6)
    assert sum(weight.nbytes for weight in encoder_layers(model).parameters()) < bytes_before / 10  # biases and norms
    assert type(model.get_output_embeddings()) is torch.nn.Linear  # it shares its weight with the embeddings


def test_off_the_cpu_there_is_no_onednn() -> None:
    with torch.device("meta"):
        model = make(UNPADDABLE["bert"]())
    with pytest.raises(NotApplicable, match="computes on CPUs"):
        PrepackedWeights(model).apply()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_onednn_is_used_just_where_this_cpu_computes_the_type_with_it(dtype: torch.dtype) -> None:
    model = make(UNPADDABLE["bert"]()).to(dtype)
    inputs = torch.randn(4, 16, dtype=dtype)
    try:
        PrepackedLinear(torch.nn.Linear(16, 24, dtype=dtype))(inputs)
        computes = True
    except RuntimeError:
        computes = False
    assert has_onednn(model) is computes


@pytest.mark.parametrize(
    ("vendor", "expected"), [("vendor_id\t: GenuineIntel\n", True), ("vendor_id\t: AuthenticAMD\n", False), ("", False)]
)
def test_an_intel_cpu_is_known_by_what_the_system_reports(vendor: str, expected: bool, tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    assert is_intel(cpuinfo) is False  # the system reports nothing
    cpuinfo.write_text(f"processor\t: 0\n{vendor}")
    assert is_intel(cpuinfo) is expected


@pytest.mark.parametrize(("hidden_size", "is_large"), [(32, False), (512, True)])
def test_prepacking_is_the_default_for_large_layers_on_cpus_that_mkl_is_not_written_for(
    hidden_size: int, is_large: bool
) -> None:
    sizes = {"hidden_size": hidden_size, "num_hidden_layers": 1, "intermediate_size": 4 * hidden_size}
    with torch.device("meta"):
        model = transformers.BertModel(transformers.BertConfig(**sizes, num_attention_heads=4, vocab_size=8))
    assert PrepackedWeights(model).is_default is (is_large and not is_intel())


def test_prepacking_is_no_default_for_a_model_without_layers() -> None:
    assert not PrepackedWeights(make(UNPADDABLE["bert"](), "bare").pooler).is_default
