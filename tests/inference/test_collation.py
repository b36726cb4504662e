"""Model inputs as one batch, its outputs apart again, and padding stripped from them."""

import pandas
import torch
from transformers.modeling_outputs import ImageClassifierOutput

from pipeline_webserver.inference.collation import concat_inputs, split_outputs, stack_inputs, strip_padding


def test_tensors_and_lists_are_concatenated_and_what_is_shared_is_kept_once() -> None:
    inputs = [
        {
            "pixel_values": torch.full((1, 3, 2, 2), float(index)),
            "target_size": [(index, index)],
            "candidate_labels": ["a", "b"],
            "is_last": True,
        }
        for index in range(2)
    ]
    batch = concat_inputs(inputs)
    assert batch["pixel_values"].shape == (2, 3, 2, 2)
    assert batch["pixel_values"][1].unique().tolist() == [1.0]
    assert batch["target_size"] == [(0, 0), (1, 1)]
    assert (batch["candidate_labels"], batch["is_last"]) == (["a", "b"], True)


def test_outputs_are_split_in_the_containers_they_came_in() -> None:
    logits = torch.arange(6.0).reshape(2, 3)
    layers = (logits + 1, logits + 2)
    first, second = split_outputs(ImageClassifierOutput(logits=logits, hidden_states=layers), 2)
    assert isinstance(first, ImageClassifierOutput)
    assert first["logits"].tolist() == [[0.0, 1.0, 2.0]]
    assert [layer.tolist() for layer in second["hidden_states"]] == [[[4.0, 5.0, 6.0]], [[5.0, 6.0, 7.0]]]


def test_as_many_labels_as_rows_are_not_split() -> None:
    outputs = {"candidate_labels": ["a", "b"], "logits": torch.eye(2), "target_size": [(1, 2), (3, 4)], "is_last": True}
    first, second = split_outputs(outputs, 2)
    assert first["candidate_labels"] == second["candidate_labels"] == ["a", "b"]
    assert second["logits"].tolist() == [[0.0, 1.0]]
    assert (first["target_size"], second["target_size"]) == ([(1, 2)], [(3, 4)])
    assert second["is_last"] is True


def test_what_has_no_rows_is_the_same_for_each_row() -> None:
    table = pandas.DataFrame({"a": ["1", "2"]})
    scale = torch.tensor(3.0)
    (first, _) = split_outputs({"inputs": {"ids": torch.eye(2)}, "table": table, "scale": scale, "loss": None}, 2)
    assert first["table"] is table
    assert first["scale"] is scale
    assert first["loss"] is None
    assert first["inputs"]["ids"].tolist() == [[1.0, 0.0]]


def test_model_inputs_of_equal_length_are_stacked_without_padding() -> None:
    inputs = [
        {"input_ids": torch.tensor([[1, 2]]), "sentence": "a"},
        {"input_ids": torch.tensor([[3, 4]]), "sentence": "b"},
    ]
    batch = stack_inputs(inputs)
    assert batch["input_ids"].tolist() == [[1, 2], [3, 4]]
    assert batch["sentence"] == ["a", "b"]


def test_padding_is_stripped_from_sequences_and_from_nothing_else() -> None:
    tensors = {"input_ids": torch.zeros(1, 2), "attention_mask": torch.zeros(1, 2)}
    outputs = {
        "last_hidden_state": torch.arange(12.0).reshape(1, 4, 3),
        "input_ids": torch.arange(4).reshape(1, 4),
        "logits": torch.zeros(1, 4),
        "pooled": torch.zeros(1, 7),
        "sentence": "text",
    }
    left = strip_padding(dict(outputs), tensors, 2, 4, left=True)
    right = strip_padding(dict(outputs), tensors, 2, 4, left=False)
    assert right["input_ids"].tolist() == [[0, 1]]
    assert left["input_ids"].tolist() == [[2, 3]]
    assert right["last_hidden_state"].shape == (1, 2, 3)
    assert right["logits"].shape == (1, 4)
    assert right["pooled"].shape == (1, 7)
    assert right["sentence"] == "text"


def test_generated_tokens_keep_their_place_behind_a_prompt_whose_padding_is_stripped() -> None:
    outputs = {"input_ids": torch.tensor([[0, 0, 7]]), "generated_sequence": torch.tensor([[[0, 0, 7, 8, 9]]])}
    stripped = strip_padding(outputs, {"input_ids": torch.zeros(1, 1)}, 1, 3, left=True)
    assert stripped["input_ids"].tolist() == [[7]]
    assert stripped["generated_sequence"].tolist() == [[[7, 8, 9]]]
