"""Rows of equal shapes in one batch, and its outputs apart again."""

import pandas
import torch
from transformers.modeling_outputs import ImageClassifierOutput

from pipeline_webserver.inference.collation import joined, parts


def test_tensors_are_stacked_lists_put_together_and_what_is_common_is_kept_once() -> None:
    rows = [
        {
            "pixel_values": torch.full((1, 3, 2, 2), float(row)),
            "target_size": [(row, row)],
            "candidate_labels": ["a", "b"],
            "is_last": True,
        }
        for row in range(2)
    ]
    batch = joined(rows)
    assert batch["pixel_values"].shape == (2, 3, 2, 2)
    assert batch["pixel_values"][1].unique().tolist() == [1.0]
    assert batch["target_size"] == [(0, 0), (1, 1)]
    assert (batch["candidate_labels"], batch["is_last"]) == (["a", "b"], True)


def test_outputs_come_apart_in_what_they_came_in() -> None:
    logits = torch.arange(6.0).reshape(2, 3)
    layers = (logits + 1, logits + 2)
    first, second = parts(ImageClassifierOutput(logits=logits, hidden_states=layers), 2)
    assert isinstance(first, ImageClassifierOutput)
    assert first["logits"].tolist() == [[0.0, 1.0, 2.0]]
    assert [layer.tolist() for layer in second["hidden_states"]] == [[[4.0, 5.0, 6.0]], [[5.0, 6.0, 7.0]]]


def test_as_many_labels_as_rows_are_not_taken_for_rows() -> None:
    outputs = {"candidate_labels": ["a", "b"], "logits": torch.eye(2), "target_size": [(1, 2), (3, 4)], "is_last": True}
    first, second = parts(outputs, 2)
    assert first["candidate_labels"] == second["candidate_labels"] == ["a", "b"]
    assert second["logits"].tolist() == [[0.0, 1.0]]
    assert (first["target_size"], second["target_size"]) == ([(1, 2)], [(3, 4)])
    assert second["is_last"] is True


def test_what_is_neither_is_left_as_it_is() -> None:
    table = pandas.DataFrame({"a": ["1", "2"]})
    scale = torch.tensor(3.0)
    (part, _) = parts({"inputs": {"ids": torch.eye(2)}, "table": table, "scale": scale, "loss": None}, 2)
    assert part["table"] is table
    assert part["scale"] is scale
    assert part["loss"] is None
    assert part["inputs"]["ids"].tolist() == [[1.0, 0.0]]
