"""What is left once padding is cut, and what counts as out of memory. What passes compute is in `test_inference`."""

import pytest
import torch

from pipeline_webserver.inference.forward import cut_padding, is_out_of_memory, stack


def test_padding_is_cut_from_sequences_and_from_nothing_else() -> None:
    inputs = {"input_ids": torch.zeros(1, 2), "attention_mask": torch.zeros(1, 2)}
    outputs = {
        "last_hidden_state": torch.arange(12.0).reshape(1, 4, 3),
        "input_ids": torch.arange(4).reshape(1, 4),
        "logits": torch.zeros(1, 4),
        "pooled": torch.zeros(1, 7),
        "sentence": "text",
    }
    left = cut_padding(dict(outputs), inputs, 2, 4, left=True)
    right = cut_padding(dict(outputs), inputs, 2, 4, left=False)
    assert right["input_ids"].tolist() == [[0, 1]]
    assert left["input_ids"].tolist() == [[2, 3]]
    assert right["last_hidden_state"].shape == (1, 2, 3)
    assert right["logits"].shape == (1, 4)
    assert right["pooled"].shape == (1, 7)
    assert right["sentence"] == "text"


def test_rows_of_equal_length_are_stacked_without_padding() -> None:
    rows = [
        {"input_ids": torch.tensor([[1, 2]]), "sentence": "a"},
        {"input_ids": torch.tensor([[3, 4]]), "sentence": "b"},
    ]
    batch = stack(rows)
    assert batch["input_ids"].tolist() == [[1, 2], [3, 4]]
    assert batch["sentence"] == ["a", "b"]


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("the size of tensor a must match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_pytorch_says_when_memory_is_short_is_understood(error: Exception, is_memory: bool) -> None:
    assert is_out_of_memory(error) is is_memory
