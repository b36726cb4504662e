"""What the start learns: what a pass costs, and which model inputs may share one without a change in their outputs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from pipeline_webserver.inference.batch_plan import MIN_AUTO_TOKENS, PADDED, SAME_SHAPE, alone, saturating_tokens
from pipeline_webserver.inference.loading import BUNDLED_MODEL
from pipeline_webserver.inference.pipeline_runner import PipelineRunner
from tests.support.compare import assert_same
from tests.support.media_models import gpt2, make
from tests.support.models import CLASSES, make_model
from tests.support.pipelines import TEXTS, count_rows, load_pipeline, run, runner_of

LLAMA: dict[str, Any] = {
    "vocab_size": 8192,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 8,
    "initializer_range": 0.5,
    "pad_token_id": 0,
}
DYNAMIC_ROPES: dict[str, dict[str, Any]] = {
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "longrope": {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [3.0] * 4, "factor": 4.0},
}


def warmed_up(pipe: Any) -> PipelineRunner:
    runner = runner_of(pipe)
    runner.warm_up(accelerate=False)
    return runner


def pipeline_with_bundled_tokenizer(model: Any, task: str = "text-classification") -> Any:
    tokenizer = transformers.AutoTokenizer.from_pretrained(BUNDLED_MODEL)
    return transformers.pipeline(task, model=model, tokenizer=tokenizer, device="cpu")


@pytest.mark.parametrize("task", CLASSES)
def test_a_model_that_ignores_padding_pads_and_its_costs_set_the_token_limit(
    task: str, model_of: Callable[[str], Path]
) -> None:
    forward = warmed_up(load_pipeline(model_of(task), task)).forward
    assert forward.strategy == PADDED
    assert forward.fixed_cost_tokens >= 0
    assert forward.max_tokens == saturating_tokens(forward.fixed_cost_tokens)


def test_files_share_passes_by_their_shape(model_of: Callable[[str], Path]) -> None:
    task = "image-classification"
    assert warmed_up(load_pipeline(model_of(task), task)).forward.strategy == SAME_SHAPE


def test_a_token_limit_that_is_set_stays(model_of: Callable[[str], Path]) -> None:
    runner = runner_of(load_pipeline(model_of("fill-mask")), max_batch_tokens=7)
    runner.warm_up(accelerate=False)
    assert runner.forward.max_tokens == 7


def test_until_it_is_calibrated_nothing_is_padded(model_of: Callable[[str], Path]) -> None:
    runner = runner_of(load_pipeline(model_of("text-classification")))
    with count_rows(runner) as rows:
        run(runner, [("a", {}), ("b b", {}), ("c", {})])
    assert rows == [2, 1]


# Padding


def fnet(folder: Path) -> Path:
    """A family that has no attention mask: padding changes its outputs."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64, "initializer_range": 0.5}
    config = transformers.FNetConfig(vocab_size=8192, pad_token_id=0, max_position_embeddings=128, **sizes)
    transformers.FNetForMaskedLM(config).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(BUNDLED_MODEL).save_pretrained(folder)
    return folder


def padded_on_the_left(folder: Path) -> Path:
    """Positions count from the padding, which changes the outputs of this family, too."""
    make_model("fill-mask", folder)
    transformers.AutoTokenizer.from_pretrained(folder, padding_side="left").save_pretrained(folder)
    return folder


def without_padding_token(folder: Path) -> Path:
    make_model("fill-mask", folder)
    transformers.AutoTokenizer.from_pretrained(folder, pad_token=None).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("make_folder", "reason"),
    [
        (fnet, "padding changes the outputs by "),
        (padded_on_the_left, "padding changes the outputs by "),
        (without_padding_token, "the tokenizer has no padding token"),
    ],
)
def test_where_padding_is_wrong_or_impossible_only_equal_lengths_share_a_pass(
    make_folder: Callable[[Path], Path], reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runner = warmed_up(load_pipeline(make_folder(tmp_path)))
    assert runner.forward.strategy.kind == "same_length"
    assert str(runner.forward.strategy.reason).startswith(reason)
    assert f"Only inputs of equal length share a forward pass: {reason}" in caplog.text
    texts = ["a [MASK]", "a b c d [MASK]", "b [MASK]", "a b c [MASK]", "b c d e [MASK]"]
    with count_rows(runner) as rows:
        results = run(runner, [(text, {}) for text in texts])
    assert rows == [2, 1, 2]
    for text, result in zip(texts, results, strict=True):
        assert_same(result, runner.pipe(text))


def test_a_prompt_may_be_padded_without_a_padding_token_of_the_tokenizer(tmp_path: Path) -> None:
    pipe = load_pipeline(make(gpt2, tmp_path))
    assert pipe.tokenizer.pad_token_id is None
    assert warmed_up(pipe).forward.strategy == PADDED


# Alone


def test_a_model_that_takes_one_row_gets_one_row_a_pass(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 8192, "n_embd": 32, "n_layer": 2, "n_head": 2, "initializer_range": 0.5}
    model = transformers.GPT2ForSequenceClassification(transformers.GPT2Config(**sizes, num_labels=3)).eval()
    assert model.config.pad_token_id is None
    pipe = pipeline_with_bundled_tokenizer(model)
    expected = [pipe(text) for text in TEXTS]
    runner = warmed_up(pipe)
    assert "Each input has a forward pass of its own: Cannot handle batch sizes > 1" in caplog.text
    with count_rows(runner) as rows:
        results = run(runner, [(text, {}) for text in TEXTS])
    assert rows == [1] * len(TEXTS)
    assert runner.forward.max_tokens == MIN_AUTO_TOKENS  # a larger batch brings nothing but waiting
    assert_same(results, expected)


@pytest.mark.parametrize("rope", DYNAMIC_ROPES)
def test_a_model_whose_positions_scale_with_the_longest_text_shares_passes_of_one_length(rope: str) -> None:
    parameters = {**DYNAMIC_ROPES[rope], "rope_theta": 1e4, "original_max_position_embeddings": 8}
    config = transformers.LlamaConfig(**LLAMA, rope_parameters=parameters)
    torch.manual_seed(0)
    model = transformers.LlamaForSequenceClassification(config).eval()
    expected = []
    for text in TEXTS:  # what one text leaves behind would change the next
        fresh = transformers.LlamaForSequenceClassification(config).eval()
        fresh.load_state_dict(model.state_dict())
        expected.append(pipeline_with_bundled_tokenizer(fresh)(text))
    runner = runner_of(pipeline_with_bundled_tokenizer(model))
    runner.warm_up(accelerate=False)
    assert runner.forward.strategy.kind == "same_length"
    assert "a pass changes the model itself (LlamaRotaryEmbedding." in str(runner.forward.strategy.reason)
    for texts in ([TEXTS[-1]], TEXTS):
        assert_same(run(runner, [(text, {}) for text in texts]), expected[-len(texts) :])


def test_a_table_is_computed_alone_by_its_own_strategy(
    model_of: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    task = "table-question-answering"
    runner = warmed_up(load_pipeline(model_of(task), task))
    assert runner.forward.strategy == alone("tables come one at a time")
    assert "Each input has a forward pass of its own: tables come one at a time." in caplog.messages
