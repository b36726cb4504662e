"""Fill-mask: how many predictions may be made, and that they are the pipeline's, to the last bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline_webserver.errors import Rejected, TooLarge
from pipeline_webserver.inference.pipeline_runner import PipelineRunner
from pipeline_webserver.inference.preprocessing.fill_mask import FillMaskPostprocessor
from tests.support.pipelines import Parameters, load_pipeline, prepare


@pytest.fixture(scope="module")
def pipe(model_of: Callable[[str], Path]) -> Any:
    return load_pipeline(model_of("fill-mask"), "fill-mask")


def outputs_of(pipe: Any, text: str) -> dict[str, torch.Tensor]:
    return dict(pipe.forward(pipe.preprocess(text)))


@pytest.mark.parametrize("text", ["a [MASK]", "[MASK] b", "don ' t [MASK] , i ' m here .", "[MASK] and [MASK] [MASK]"])
@pytest.mark.parametrize("parameters", [{}, {"top_k": 1}, {"top_k": 50}, {"targets": ["dog", "france"], "top_k": 5}])
def test_predictions_equal_the_pipelines(pipe: Any, text: str, parameters: dict[str, Any]) -> None:
    outputs = outputs_of(pipe, text)
    options = pipe._sanitize_parameters(**parameters)[2]
    assert FillMaskPostprocessor(pipe)(outputs, **options) == pipe.postprocess(dict(outputs), **options)


def test_padding_is_no_part_of_the_text_nor_is_a_prediction_of_it(pipe: Any) -> None:
    padded = pipe.tokenizer("a [MASK]", return_tensors="pt", padding="max_length", max_length=8)
    outputs = dict(pipe.forward(padded))
    outputs["logits"][0, :, pipe.tokenizer.pad_token_id] = 100.0  # so that it is the best prediction
    predictions = FillMaskPostprocessor(pipe)(outputs)
    assert predictions == pipe.postprocess(dict(outputs))
    assert predictions[0]["token_str"] == "[PAD]"
    assert predictions[0]["sequence"] == "a"


def test_the_text_of_a_token_is_decoded_once(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, decoded = outputs_of(pipe, "a [MASK]"), []
    original = pipe.tokenizer.decode

    def decode(ids: Any, **options: Any) -> Any:
        decoded.append(ids)
        return original(ids, **options)

    monkeypatch.setattr(pipe.tokenizer, "decode", decode)
    fill_mask = FillMaskPostprocessor(pipe)
    first, second = fill_mask(outputs), fill_mask(outputs)
    assert first == second
    assert [len(ids) for ids in decoded] == [1] * 5


@pytest.mark.parametrize(
    ("text", "parameters", "error", "message"),
    [
        ("a [MASK]", {"top_k": 8193}, Rejected, "Parameter 'top_k' is over the 8192 words the model knows."),
        ("[MASK] " * 100, {"top_k": 41}, TooLarge, "The input asks for 4100 predictions; the server makes 4096."),
        ("a [MASK]", {"targets": []}, Rejected, "At least one target must be provided when passed."),
        ("no mask", {}, Rejected, "No mask_token ([MASK]) found on the input"),
    ],
)
def test_predictions_that_cannot_be_made_are_an_error_before_computing(
    text: str,
    parameters: Parameters,
    error: type[Exception],
    message: str,
    pipeline_of: Callable[[str], PipelineRunner],
) -> None:
    (result,) = pipeline_of("fill-mask").preprocess([(text, parameters)])
    assert type(result) is error
    assert str(result) == message


def test_no_more_predictions_count_than_there_are_targets(pipeline_of: Callable[[str], PipelineRunner]) -> None:
    assert prepare(pipeline_of("fill-mask"), "a [MASK]", {"targets": ["dog"], "top_k": 9000}).tokens == 4


def test_only_masked_positions_are_read(pipeline_of: Callable[[str], PipelineRunner]) -> None:
    runner = pipeline_of("fill-mask")
    (model_input,) = prepare(runner, "a [MASK] b [MASK]").model_inputs
    ids = model_input.tensors["input_ids"]
    assert runner.preprocess.positions_read is not None
    assert runner.preprocess.positions_read(ids).tolist() == [[False, False, True, False, True, False]]
    outputs = {"logits": torch.arange(12.0).reshape(1, 6, 2)}
    assert runner.preprocess.numbers_read(model_input, outputs).tolist() == [[4, 5], [8, 9]]
