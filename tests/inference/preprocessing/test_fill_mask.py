"""The faster postprocess of fill-mask gives what the pipeline's gives, to the last bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline_webserver.inference.loading import load
from pipeline_webserver.inference.preprocessing.fill_mask import FillMask


@pytest.fixture(scope="module")
def pipe(model_of: Callable[[str], Path]) -> Any:
    return load(str(model_of("fill-mask")), "fill-mask", None, "cpu", None, ["fill-mask"])


def outputs_of(pipe: Any, text: str) -> dict[str, torch.Tensor]:
    return dict(pipe.forward(pipe.preprocess(text)))


@pytest.mark.parametrize("text", ["a [MASK]", "[MASK] b", "don ' t [MASK] , i ' m here .", "[MASK] and [MASK] [MASK]"])
@pytest.mark.parametrize("parameters", [{}, {"top_k": 1}, {"top_k": 50}, {"targets": ["dog", "france"], "top_k": 5}])
def test_guesses_equal_the_pipelines(pipe: Any, text: str, parameters: dict[str, Any]) -> None:
    outputs = outputs_of(pipe, text)
    options = pipe._sanitize_parameters(**parameters)[2]
    assert FillMask(pipe)(outputs, **options) == pipe.postprocess(dict(outputs), **options)


def test_padding_is_no_part_of_the_text_nor_is_a_guess_of_it(pipe: Any) -> None:
    padded = pipe.tokenizer("a [MASK]", return_tensors="pt", padding="max_length", max_length=8)
    outputs = dict(pipe.forward(padded))
    outputs["logits"][0, :, pipe.tokenizer.pad_token_id] = 100.0  # so that it is the best guess
    guesses = FillMask(pipe)(outputs)
    assert guesses == pipe.postprocess(dict(outputs))
    assert guesses[0]["token_str"] == "[PAD]"
    assert guesses[0]["sequence"] == "a"


def test_what_a_token_reads_as_is_decoded_once(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, decoded = outputs_of(pipe, "a [MASK]"), []
    original = pipe.tokenizer.decode

    def decode(ids: Any, **options: Any) -> Any:
        decoded.append(ids)
        return original(ids, **options)

    monkeypatch.setattr(pipe.tokenizer, "decode", decode)
    fill_mask = FillMask(pipe)
    first, second = fill_mask(outputs), fill_mask(outputs)
    assert first == second
    assert sum(len(ids) == 1 for ids in decoded) == 5
    assert sum(len(ids) > 1 for ids in decoded) == 10
