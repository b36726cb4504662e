"""What rows of files have in common, and what they cost."""

from collections.abc import Callable

import torch

from pipeline_webserver.inference.pipeline_runner import LoadedPipeline
from pipeline_webserver.inference.preprocessing.base import PreparedInput
from pipeline_webserver.inference.preprocessing.media import numbers_in, shapes
from tests.support.media import picture


def test_shapes_are_those_of_the_tensors_by_name() -> None:
    inputs = {"pixel_values": torch.zeros(1, 3, 8, 8), "target_size": [(5, 5)], "pixel_mask": torch.zeros(1, 8, 8)}
    assert shapes(inputs) == [("pixel_mask", (1, 8, 8)), ("pixel_values", (1, 3, 8, 8))]
    assert numbers_in(inputs) == 192


def test_rows_of_other_shapes_or_labels_are_kept_apart(pipeline_of: Callable[[str], LoadedPipeline]) -> None:
    def kinds(task: str, *work: tuple[bytes, dict[str, object]]) -> list[str]:
        prepared = pipeline_of(task).prepare(work)
        return [item.rows[0].kind for item in prepared if isinstance(item, PreparedInput)]

    same, alike, wide = kinds("object-detection", (picture(1), {}), (picture(2), {}), (picture(3, 20, 60), {}))
    assert same == alike != wide
    labels: list[dict[str, object]] = [
        {"candidate_labels": ["a", "b"]},
        {"candidate_labels": ["a", "c"]},
        {"candidate_labels": ["a", "b"], "hypothesis_template": "{}"},
    ]
    assert len(set(kinds("zero-shot-image-classification", *((picture(1), some) for some in labels)))) == 3


def test_a_broken_file_costs_its_neighbours_nothing(pipeline_of: Callable[[str], LoadedPipeline]) -> None:
    good, bad, fine = pipeline_of("image-classification").prepare([(picture(1), {}), (b"", {}), (picture(2), {})])
    assert isinstance(good, PreparedInput)
    assert isinstance(fine, PreparedInput)
    assert "no image" in str(bad)
