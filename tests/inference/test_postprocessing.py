"""Results of outputs: together where that is faster, and the same to the last bit; errors stay with their input."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline_webserver.errors import InferenceFailed
from pipeline_webserver.inference.model_inputs import PreparedInput
from pipeline_webserver.inference.pipeline_runner import PipelineRunner
from pipeline_webserver.inference.postprocessing import Postprocessor
from pipeline_webserver.inference.preprocessing.fill_mask import FillMaskPostprocessor
from tests.support.pipelines import Panic, Parameters, accelerated, open_pipeline, share_all

INPUTS: list[tuple[str, Parameters]] = [
    ("a [MASK] .", {}),
    ("two [MASK] of [MASK]", {}),
    ("paris is the [MASK] of france .", {"top_k": 2}),
    ("a dog is an [MASK] .", {}),
    ("it is [MASK]", {"targets": ["dog", "fox"]}),
    ("rome is the [MASK] of italy .", {"top_k": 2}),
]


def outputs_of(runner: PipelineRunner) -> tuple[list[PreparedInput], list[list[Any]]]:
    """The inputs, prepared, and their outputs from one forward pass."""
    prepared = [item for item in runner.preprocess(INPUTS) if isinstance(item, PreparedInput)]
    outputs = runner.forward.run([row for item in prepared for row in item.model_inputs], raise_errors=True)
    return prepared, [[output] for output in outputs]


class Recording(FillMaskPostprocessor):
    """Keeps how many inputs were postprocessed together, or fails on them."""

    def __init__(self, pipe: Any, error: BaseException | None = None) -> None:
        super().__init__(pipe)
        self.batches: list[int] = []
        self.error = error

    def batch(self, batch: Sequence[tuple[Any, Mapping[str, Any]]]) -> list[Any]:
        self.batches.append(len(batch))
        if self.error is not None:
            raise self.error
        return super().batch(batch)


@pytest.fixture(params=["untouched", "accelerated"])
def runner(request: pytest.FixtureRequest, model_of: Callable[[str], Path]) -> PipelineRunner:
    opened = open_pipeline(model_of("fill-mask"), "fill-mask")
    if request.param == "accelerated":
        return accelerated(opened)
    share_all(opened)
    return opened


def test_predictions_made_together_are_those_made_one_by_one_to_the_last_bit(runner: PipelineRunner) -> None:
    prepared, outputs = outputs_of(runner)
    one_by_one = FillMaskPostprocessor(runner.pipe)
    postprocessor = Postprocessor(runner.preprocess, runner.pipe)
    recording = postprocessor.postprocess = Recording(runner.pipe)
    results = postprocessor.results(prepared, outputs)
    assert results == [
        one_by_one(output, **item.postprocess_parameters) for (output,), item in zip(outputs, prepared, strict=True)
    ]
    assert recording.batches == [3, 2]  # of five predictions and of two; with targets, by itself


@pytest.mark.parametrize("error", [RuntimeError("too many"), Panic("at decoder.rs")])
def test_where_a_batch_fails_each_input_has_its_own_result(error: BaseException, runner: PipelineRunner) -> None:
    prepared, outputs = outputs_of(runner)
    postprocessor = Postprocessor(runner.preprocess, runner.pipe)
    expected = postprocessor.results(prepared, outputs)
    postprocessor.postprocess = Recording(runner.pipe, error)
    assert postprocessor.results(prepared, outputs) == expected


def test_an_input_whose_model_failed_has_its_error_and_the_others_their_results(runner: PipelineRunner) -> None:
    prepared, outputs = outputs_of(runner)
    postprocessor = Postprocessor(runner.preprocess, runner.pipe)
    expected = postprocessor.results(prepared, outputs)
    outputs[0] = [RuntimeError("device lost")]
    failed, *others = postprocessor.results(prepared, outputs)
    assert isinstance(failed, InferenceFailed)
    assert str(failed.__cause__) == "device lost"
    assert others == expected[1:]
