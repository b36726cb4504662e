"""What the model inputs of files have in common, and what they cost."""

from collections.abc import Callable, Hashable

import torch

from pipeline_webserver.inference.model_inputs import PreparedInput
from pipeline_webserver.inference.pipeline_runner import PipelineRunner
from pipeline_webserver.inference.preprocessing.media import largest_tensor_size, tensor_shapes
from tests.support.media import picture


def test_shapes_are_those_of_the_tensors_by_name() -> None:
    inputs = {"pixel_values": torch.zeros(1, 3, 8, 8), "target_size": [(5, 5)], "pixel_mask": torch.zeros(1, 8, 8)}
    assert tensor_shapes(inputs) == (("pixel_mask", (1, 8, 8)), ("pixel_values", (1, 3, 8, 8)))
    assert largest_tensor_size(inputs) == 192


def test_model_inputs_of_other_shapes_or_labels_do_not_share_a_pass(
    pipeline_of: Callable[[str], PipelineRunner],
) -> None:
    def keys(task: str, *inputs: tuple[bytes, dict[str, object]]) -> list[Hashable]:
        prepared = pipeline_of(task).preprocess(inputs)
        return [item.model_inputs[0].batch_key for item in prepared if isinstance(item, PreparedInput)]

    same, alike, wide = keys("object-detection", (picture(1), {}), (picture(2), {}), (picture(3, 20, 60), {}))
    assert same == alike != wide
    labels: list[dict[str, object]] = [
        {"candidate_labels": ["a", "b"]},
        {"candidate_labels": ["a", "c"]},
        {"candidate_labels": ["a", "b"], "hypothesis_template": "{}"},
    ]
    assert len(set(keys("zero-shot-image-classification", *((picture(1), some) for some in labels)))) == 3


def test_a_broken_file_costs_its_neighbours_nothing(pipeline_of: Callable[[str], PipelineRunner]) -> None:
    good, bad, fine = pipeline_of("image-classification").preprocess([(picture(1), {}), (b"", {}), (picture(2), {})])
    assert isinstance(good, PreparedInput)
    assert isinstance(fine, PreparedInput)
    assert "no image" in str(bad)


def test_a_heartbeat_comes_after_each_file(pipeline_of: Callable[[str], PipelineRunner]) -> None:
    heartbeats: list[bool] = []
    inputs: list[tuple[bytes, dict[str, object]]] = [(picture(1), {}), (b"", {}), (picture(2), {})]
    pipeline_of("image-classification").preprocess(inputs, lambda: heartbeats.append(True))
    assert heartbeats == [True] * 3
