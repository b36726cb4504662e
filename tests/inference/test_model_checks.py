"""A model that cannot answer is not served: each way in which it cannot is one line."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from pipeline_webserver.errors import ConfigurationError
from pipeline_webserver.inference.model_checks import are_equal, untrained_weights
from pipeline_webserver.inference.pipeline_runner import PipelineRunner
from tests.support.compare import assert_same
from tests.support.media_models import MAKERS
from tests.support.models import CLASSES, make_model
from tests.support.pipelines import TEXTS, load_pipeline, run, runner_of

ModelOf = Callable[[str], Path]


def started(folder: Path | str, task: str | None = None, dtype: str | None = None, **options: bool) -> PipelineRunner:
    runner = runner_of(load_pipeline(folder, task, dtype))
    runner.warm_up(accelerate=False, **options)
    return runner


def error_of(folder: Path | str, task: str | None = None, dtype: str | None = None) -> str:
    with pytest.raises(ConfigurationError) as raised:
        started(folder, task, dtype)
    assert "\n" not in str(raised.value)
    return str(raised.value)


Weights = dict[str, torch.Tensor]


def with_weights(folder: Path, change: Callable[[Weights], Weights]) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors", {"format": "pt"})


def filled_with(number: float) -> Callable[[Weights], Weights]:
    return lambda weights: {name: torch.full_like(weight, number) for name, weight in weights.items()}


# Weights that were never trained


@pytest.mark.parametrize(
    ("saved_as", "task", "missing"),
    [
        ("fill-mask", "text-classification", "bert.pooler.dense.bias, bert.pooler.dense.weight, classifier.bias, "),
        ("fill-mask", "token-classification", "classifier.bias, classifier.weight would"),
        ("feature-extraction", "fill-mask", "cls.predictions.bias, cls.predictions.decoder.bias, "),
        ("text-classification", "fill-mask", "cls.predictions.bias, cls.predictions.decoder.bias, "),
        ("feature-extraction", "zero-shot-classification", "classifier.bias, classifier.weight would"),
        ("image-feature-extraction", "image-classification", "classifier.bias, classifier.weight would"),
        ("automatic-speech-recognition", "audio-classification", "classifier.bias, classifier.weight, projector."),
    ],
)
def test_a_head_that_was_never_trained_stops_the_start_with_the_task_that_fits(
    saved_as: str, task: str, missing: str, model_of: ModelOf
) -> None:
    line = error_of(model_of(saved_as), task)
    assert line.startswith(
        f"'{model_of(saved_as)}' has no trained weights for the task '{task}' (PIPELINE_TASK): {missing}"
    )
    assert line.endswith(
        f": set PIPELINE_TASK={saved_as}, or choose another model, or set PIPELINE_ALLOW_UNTRAINED=true"
    )


def test_untrained_weights_are_served_where_the_operator_allows_it_and_logged(
    model_of: ModelOf, caplog: pytest.LogCaptureFixture
) -> None:
    folder = model_of("fill-mask")
    runner = started(folder, "token-classification", allow_untrained=True)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning == (
        f"'{folder}' has no trained weights for the task 'token-classification' (PIPELINE_TASK): "
        "classifier.bias, classifier.weight would be random: answers are noise until it is trained."
    )
    assert_same(run(runner, [(TEXTS[2], {})]), [runner.pipe(TEXTS[2])])  # random, and not what was tried on them


@pytest.mark.parametrize(
    ("saved_as", "task", "words"),
    [
        (
            "text-classification",
            "token-classification",
            "was saved as BertForSequenceClassification: its head was not trained for the task 'token-classification'",
        ),
        (
            "text-classification",
            "zero-shot-classification",
            "has no label of entailment, which the task 'zero-shot-classification' reads, but '",
        ),
    ],
)
def test_a_head_that_fits_and_was_trained_for_another_task_stops_the_start(
    saved_as: str, task: str, words: str, model_of: ModelOf, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        runner_of(load_pipeline(model_of(saved_as), task)).warm_up(accelerate=False)
    runner_of(load_pipeline(model_of(saved_as), task)).warm_up(accelerate=False, allow_untrained=True)
    assert any(words in message for message in caplog.messages)


# One of each kind of input.
ALWAYS = {"fill-mask", "text-generation", "image-classification", "audio-classification"}


@pytest.mark.parametrize(
    "task",
    [pytest.param(task, marks=() if task in ALWAYS else pytest.mark.extended) for task in [*CLASSES, *MAKERS]],
)
def test_a_model_is_served_for_the_task_that_it_was_saved_for(task: str, model_of: ModelOf) -> None:
    assert started(model_of(task), task).task == task


@pytest.mark.parametrize("saved_as", ["fill-mask", "token-classification"])
def test_missing_weights_that_no_answer_reads_are_none_of_the_tasks(saved_as: str, model_of: ModelOf) -> None:
    """Saved without its pooler, which features are not made of."""
    runner = started(model_of(saved_as), "feature-extraction")
    assert runner.pipe.untrained == ("pooler.dense.bias", "pooler.dense.weight")
    assert_same(run(runner, [(TEXTS[2], {})]), [runner.pipe(TEXTS[2])])


def test_an_image_models_untrained_pooler_is_refused_to_those_who_ask_for_it(model_of: ModelOf) -> None:
    runner = started(model_of("image-classification"), "image-feature-extraction")
    value, _ = runner.preprocess.warmup_input(1)
    (features,) = run(runner, [(value, {})])
    assert features.ndim == 3
    (error,) = run(runner, [(value, {"pool": True})])
    assert str(error) == "Parameter 'pool': the weights of the pooled output are in none of this model's files."


@pytest.mark.parametrize("name", ["bert.encoder.layer.1.output.dense.weight", "bert.embeddings.LayerNorm.bias"])
def test_one_missing_weight_within_a_model_stops_the_start(name: str, tmp_path: Path) -> None:
    with_weights(
        make_model("text-classification", tmp_path),
        lambda weights: {kept: weight for kept, weight in weights.items() if kept != name},
    )
    assert error_of(tmp_path) == (
        f"'{tmp_path}' has no trained weights for the task 'text-classification' (architectures in config.json): "
        f"{name} would be random; it was saved as BertForSequenceClassification; choose another model, or set "
        "PIPELINE_ALLOW_UNTRAINED=true"
    )


def test_a_missing_buffer_counts_only_where_it_is_learnt() -> None:
    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(2)
            self.register_buffer("sines", torch.ones(2))

    names = ("norm.weight", "norm.running_mean", "norm.num_batches_tracked", "sines", "of_another_name")
    pipe: Any = SimpleNamespace(model=Module(), untrained=names)
    assert [*untrained_weights(pipe)] == ["norm.weight", "norm.running_mean"]


# The tokenizer


@pytest.mark.parametrize("task", ["text-classification", "fill-mask", "zero-shot-image-classification"])
def test_a_folder_without_a_tokenizer_is_not_served_with_an_invented_one(
    task: str, model_of: ModelOf, tmp_path: Path
) -> None:
    folder = shutil.copytree(model_of(task), tmp_path / "model")
    for pattern in ("token*", "vocab*", "merges*", "special*"):
        for path in folder.glob(pattern):
            path.unlink()
    assert error_of(folder) == (
        f"'{folder}' has no tokenizer, which the task '{task}' needs; call tokenizer.save_pretrained on the same folder"
    )


@pytest.mark.parametrize(
    "config",
    [
        transformers.GPT2Config(n_embd=32, n_layer=1, n_head=2),
        transformers.LlamaConfig(
            hidden_size=32, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=99
        ),
        transformers.Qwen2Config(
            hidden_size=32, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
            vocab_size=99,
        ),
    ],
    ids=lambda config: str(config.model_type),
)  # fmt: skip
def test_no_family_is_served_without_a_tokenizer(config: transformers.PreTrainedConfig, tmp_path: Path) -> None:
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    assert error_of(tmp_path) == (
        f"'{tmp_path}' has no tokenizer, which the task 'text-generation' needs; "
        "call tokenizer.save_pretrained on the same folder"
    )


def test_a_tokenizer_with_more_tokens_than_the_model_has_embeddings_stops_the_start(tmp_path: Path) -> None:
    make_model("text-classification", tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.add_tokens(["<company>", "<person>"])
    tokenizer.save_pretrained(tmp_path)
    assert error_of(tmp_path) == (
        "the tokenizer gives ids up to 8193, and the model has embeddings for 8192: they are not of one model; "
        "save both again, behind model.resize_token_embeddings(len(tokenizer)) if some were added"
    )


def test_a_model_with_more_embeddings_than_tokens_is_served(tmp_path: Path) -> None:
    make_model("text-classification", tmp_path, vocab_size=8256)
    assert started(tmp_path).task == "text-classification"


# Answers


@pytest.mark.parametrize("task", ["text-classification", "fill-mask", "feature-extraction", "token-classification"])
def test_weights_of_zeros_stop_the_start(task: str, model_of: ModelOf, tmp_path: Path) -> None:
    folder = shutil.copytree(model_of(task), tmp_path / "model")
    with_weights(folder, filled_with(0.0))
    assert error_of(folder) == (
        "the model gives the same answer, to the last bit, to 5 unlike inputs: its weights or its tokenizer are broken"
        "; save or download the model again"
    )


def test_an_image_model_of_zeros_stops_the_start(model_of: ModelOf, tmp_path: Path) -> None:
    folder = shutil.copytree(model_of("image-classification"), tmp_path / "model")
    with_weights(folder, filled_with(0.0))
    assert "the same answer, to the last bit, to 5 unlike inputs" in error_of(folder)


@pytest.mark.parametrize("task", ["text-classification", "feature-extraction", "image-classification"])
def test_a_model_that_computes_no_numbers_stops_the_start(task: str, model_of: ModelOf, tmp_path: Path) -> None:
    folder = shutil.copytree(model_of(task), tmp_path / "model")
    with_weights(folder, filled_with(torch.nan))
    assert error_of(folder) == (
        "the model computes no numbers (nan) on plain inputs: its weights are broken; save or download the model again"
    )
    assert error_of(folder, dtype="bfloat16") == (
        "the model computes no numbers (nan) on plain inputs: its weights are broken, or bfloat16 is too small for them"
        "; set PIPELINE_DTYPE=float32, or save or download the model again"
    )


def test_equal_labels_are_no_equal_answers(tmp_path: Path) -> None:
    """One label has a score of one for every text, or the same label the highest one."""
    assert started(make_model("text-classification", tmp_path, labels=["only"])).task == "text-classification"


def test_answers_are_compared_as_far_as_they_are_long() -> None:
    one, two = torch.tensor([1.0, 2.0]), torch.tensor([[1.0, 3.0]])
    assert are_equal([one, one[:1], torch.tensor([[1.0], [5.0]])])
    assert not are_equal([one, two])
    assert not are_equal([one])
    assert not are_equal([])
    assert not are_equal([torch.empty(0), torch.empty(0)])


# The parts


def test_a_model_without_its_image_processor_is_one_line(model_of: ModelOf, tmp_path: Path) -> None:
    folder = shutil.copytree(model_of("image-classification"), tmp_path / "model")
    for path in folder.glob("*processor*"):
        path.unlink()
    assert error_of(folder) == (
        f"'{folder}' has no image processor, which the task 'image-classification' needs; "
        "call image_processor.save_pretrained on the same folder"
    )
