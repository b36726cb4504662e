"""Texts: what fails or costs too much is an error before computing; texts tokenized together are as if alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from pipeline_webserver.errors import ConfigurationError, InferenceFailed, Rejected, TooLarge
from pipeline_webserver.inference.model_inputs import Limits, PreparedInput
from pipeline_webserver.inference.pipeline_runner import PipelineRunner
from pipeline_webserver.inference.preprocessing.text import first_token
from tests.support.compare import assert_same
from tests.support.pipelines import (
    Panic,
    Parameters,
    count_rows,
    inputs_of,
    load_pipeline,
    open_pipeline,
    prepare,
    run,
    runner_of,
)


@pytest.fixture
def tokenizer_calls(monkeypatch: pytest.MonkeyPatch) -> Callable[[PipelineRunner], list[Any]]:
    """Fills up with the texts of each call of a pipeline's tokenizer."""

    def record(runner: PipelineRunner) -> list[Any]:
        calls: list[Any] = []
        original = type(runner.pipe.tokenizer).__call__

        def call(tokenizer: Any, text: Any, **options: Any) -> Any:
            calls.append(text)
            return original(tokenizer, text, **options)

        monkeypatch.setattr(type(runner.pipe.tokenizer), "__call__", call)
        return calls

    return record


@pytest.mark.parametrize(
    ("task", "text", "parameters", "error", "message"),
    [
        ("token-classification", "a", {"stride": 65}, Rejected, "'stride' is over half of the model's length, 64."),
        ("token-classification", "a", {"stride": 1, "aggregation_strategy": "none"}, Rejected, "`stride` was provided"),
        (
            "zero-shot-classification",
            "a " * 100,
            {"candidate_labels": ["x"] * 200},
            TooLarge,
            "makes over 16308 tokens; the server takes 16384.",
        ),
        ("zero-shot-classification", "", {"candidate_labels": ["x"]}, Rejected, "at least one sequence"),
    ],
)
def test_what_would_fail_or_cost_too_much_is_an_error_before_computing(
    task: str,
    text: str,
    parameters: Parameters,
    error: type[Exception],
    message: str,
    pipeline_of: Callable[[str], PipelineRunner],
) -> None:
    runner = pipeline_of(task)
    with count_rows(runner) as rows:
        (result,) = runner.preprocess([(text, parameters)])
    assert rows == []
    assert type(result) is error
    assert message in str(result)


def test_a_stride_up_to_the_limit_is_taken(pipeline_of: Callable[[str], PipelineRunner]) -> None:
    assert prepare(pipeline_of("token-classification"), "a", {"stride": 64}).tokens == 3


def test_more_tokens_than_the_model_takes_are_an_error_before_computing(
    pipeline_of: Callable[[str], PipelineRunner],
) -> None:
    runner = pipeline_of("fill-mask")
    with count_rows(runner) as rows:
        longest, too_long = runner.preprocess([("a " * 125 + "[MASK]", {}), ("a " * 126 + "[MASK]", {})])
    assert rows == []
    assert isinstance(too_long, TooLarge)
    assert str(too_long) == "The input has 129 tokens; the model takes at most 128."
    assert isinstance(longest, PreparedInput)
    assert longest.tokens == 128
    assert len(runner.run([longest])) == 1


@pytest.mark.parametrize("task", ["fill-mask", "text-classification", "feature-extraction"])
def test_with_truncate_long_inputs_are_truncated_to_what_the_model_takes(
    task: str, model_of: Callable[[str], Path]
) -> None:
    runner = open_pipeline(model_of(task), task, limits=Limits(truncate=True))
    text = "[MASK] " + "long " * 300
    prepared = prepare(runner, text)
    assert prepared.tokens == 128
    options = {"tokenizer_kwargs": {"truncation": True}} if task == "fill-mask" else {"truncation": True}
    assert_same(runner.run([prepared])[0], runner.pipe(text, **options))


@pytest.mark.parametrize(
    ("make_config", "tokenizer_limit", "max_tokens"),
    [
        (lambda: transformers.BertConfig(max_position_embeddings=64), 10**30, 64),
        (lambda: transformers.BertConfig(max_position_embeddings=64), 32, 64),
        (lambda: transformers.RobertaConfig(max_position_embeddings=66, pad_token_id=1), 10**30, 64),
        (lambda: transformers.ModernBertConfig(pad_token_id=0), 77, 77),
        (lambda: transformers.ModernBertConfig(pad_token_id=0), 10**30, 8192),
    ],
)
def test_the_limit_in_tokens_is_the_positions_the_model_has_or_else_the_tokenizers_limit(
    make_config: Callable[[], Any], tokenizer_limit: int, max_tokens: int | None, model_of: Callable[[str], Path]
) -> None:
    config = make_config()
    config.vocab_size, config.hidden_size, config.intermediate_size = 8192, 32, 64
    config.num_hidden_layers, config.num_attention_heads = 1, 2
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_of("feature-extraction"))
    tokenizer.model_max_length = tokenizer_limit
    model = transformers.AutoModel.from_config(config).eval()
    runner = runner_of(transformers.pipeline("feature-extraction", model=model, tokenizer=tokenizer, device="cpu"))
    assert runner.preprocess.max_tokens == max_tokens
    if max_tokens is not None:
        (longest,) = run(runner, [("a " * (max_tokens - 2), {})])
        assert len(longest[0]) == max_tokens


def test_a_classifier_reads_the_first_token_of_each_row() -> None:
    assert first_token(torch.tensor([[5, 6], [7, 8]])).tolist() == [[True, False], [True, False]]


# Tokenized together


@pytest.mark.parametrize("task", ["fill-mask", "text-classification", "feature-extraction"])
@pytest.mark.parametrize("truncate", [False, True])
def test_texts_that_arrive_together_are_tokenized_by_one_call_into_what_each_is_alone(
    task: str, truncate: bool, model_of: Callable[[str], Path], tokenizer_calls: Callable[[PipelineRunner], list[Any]]
) -> None:
    runner = open_pipeline(model_of(task), task, limits=Limits(truncate=truncate))
    texts = [*inputs_of(task), *["[MASK] " + "long " * 300] * truncate]
    alone = [prepare(runner, text) for text in texts]
    calls = tokenizer_calls(runner)
    together = runner.preprocess([(text, {}) for text in texts])
    assert calls == [texts]
    for item, expected in zip(together, alone, strict=True):
        assert isinstance(item, PreparedInput)
        assert item.tokens == expected.tokens
        (model_input,), (expected_input,) = item.model_inputs, expected.model_inputs
        assert list(model_input.tensors) == list(expected_input.tensors)
        assert model_input.batch_key == expected_input.batch_key
        for name, tensor in expected_input.tensors.items():
            assert model_input.tensors[name].dtype == tensor.dtype
            assert torch.equal(model_input.tensors[name], tensor)


def test_a_text_that_the_tokenizer_fails_on_fails_alone_among_those_tokenized_together(
    model_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = open_pipeline(model_of("text-classification"))
    expected = [runner.pipe(text) for text in "ab"]
    original = type(runner.pipe.tokenizer).__call__

    def call(tokenizer: Any, text: Any, **options: Any) -> Any:
        if "panic" in text:
            raise Panic("at tokenizer.rs")
        return original(tokenizer, text, **options)

    monkeypatch.setattr(type(runner.pipe.tokenizer), "__call__", call)
    first, bad, second = run(runner, [("a", {}), ("panic", {}), ("b", {})])
    assert isinstance(bad, InferenceFailed)
    assert isinstance(bad.__cause__, Panic)
    assert_same([first, second], expected)


def test_texts_with_different_truncation_are_not_tokenized_together(
    pipeline_of: Callable[[str], PipelineRunner],
) -> None:
    inputs: list[tuple[str, Parameters]] = [
        ("a " * 600, {"truncation": truncation}) for truncation in (True, False, True, False)
    ]
    results = pipeline_of("feature-extraction").preprocess(inputs)
    assert [item.tokens for item in results if isinstance(item, PreparedInput)] == [128, 128]
    whole = "The input has 602 tokens; the model takes at most 128."
    assert [str(item) for item in results if isinstance(item, TooLarge)] == [whole, whole]


@pytest.mark.parametrize(
    ("words", "count"), [(254, "256"), (255, "257"), (2_000, "2002"), (3_000, "over 2050")], ids=str
)
def test_a_text_that_is_too_long_is_an_error_with_its_exact_length_wherever_it_was_tokenized_whole(
    words: int, count: str, pipeline_of: Callable[[str], PipelineRunner]
) -> None:
    (error,) = pipeline_of("text-classification").preprocess([("a " * words, {})])
    assert str(error) == f"The input has {count} tokens; the model takes at most 128."


@pytest.mark.parametrize(
    "make_config",
    [
        lambda: transformers.GPT2Config(vocab_size=8192, n_positions=128, n_embd=32, n_layer=1, n_head=2),
        lambda: transformers.BartConfig(
            vocab_size=8192, d_model=32, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=64, decoder_ffn_dim=64,
            encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=128, eos_token_id=3,
        ),
        lambda: transformers.OPTConfig(
            vocab_size=8192, hidden_size=32, ffn_dim=64, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=128, word_embed_proj_dim=32,
        ),
    ],
    ids=["gpt2", "bart", "opt"],
)  # fmt: skip
def test_a_long_text_is_an_error_or_cut_and_never_indexes_past_a_table(
    make_config: Callable[[], Any], model_of: Callable[[str], Path]
) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_of("text-classification"))
    tokenizer.model_max_length = 10**30
    model = transformers.AutoModelForSequenceClassification.from_config(make_config()).eval()
    pipe = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    runner = runner_of(pipe)
    runner.warm_up(accelerate=False)
    text = "the server " * 100
    too_long, cut = runner.preprocess([(text, {}), (text, {"truncation": True})])
    assert str(too_long) == "The input has 302 tokens; the model takes at most 128."
    assert isinstance(cut, PreparedInput)
    assert cut.tokens == 128
    assert_same(runner.run([cut]), [pipe(text, truncation=True, max_length=128)])


def test_a_model_that_fails_on_the_longest_input_that_it_should_take_is_not_served(
    model_of: Callable[[str], Path],
) -> None:
    runner = runner_of(load_pipeline(model_of("text-classification"), "text-classification"))
    runner.preprocess.max_tokens = 129
    with pytest.raises(ConfigurationError, match=r"^the model fails on 129 tokens, which it should take \("):
        runner.warm_up(accelerate=False)


# Long texts


def test_a_text_that_is_far_too_long_is_an_error_by_its_beginning(
    pipeline_of: Callable[[str], PipelineRunner], tokenizer_calls: Callable[[PipelineRunner], list[Any]]
) -> None:
    runner = pipeline_of("text-classification")
    calls = tokenizer_calls(runner)
    (error,) = runner.preprocess([("a " * 100_000, {})])
    assert isinstance(error, TooLarge)
    assert str(error) == "The input has over 2050 tokens; the model takes at most 128."
    assert [len(text) for text in calls] == [4096]


def test_a_long_text_of_few_tokens_is_taken(pipeline_of: Callable[[str], PipelineRunner]) -> None:
    runner = pipeline_of("text-classification")
    text = "a" + " " * 50_000 + "b"
    assert_same(run(runner, [(text, {})]), [runner.pipe(text)])


def test_characters_that_would_take_long_to_tokenize_are_an_error(
    pipeline_of: Callable[[str], PipelineRunner],
) -> None:
    labels: Parameters = {"candidate_labels": ["x"] * 105}
    (error,) = pipeline_of("zero-shot-classification").preprocess([("a" * 10_000, labels)])
    assert isinstance(error, TooLarge)
    limit = "counted for each label; the server takes 1048576."
    assert str(error) == f"The input has 1050000 characters, {limit}"


def test_a_heartbeat_comes_after_each_long_text(pipeline_of: Callable[[str], PipelineRunner]) -> None:
    heartbeats: list[bool] = []
    inputs: list[tuple[str, Parameters]] = [("a " * 5_000, {}), ("b", {}), ("c " * 5_000, {})]
    pipeline_of("token-classification").preprocess(inputs, lambda: heartbeats.append(True))
    assert heartbeats == [True, True]


# Pairs


@pytest.mark.parametrize("parameters", [{}, {"top_k": 2}, {"function_to_apply": "none"}])
def test_pairs_of_texts_are_classified_as_the_pipeline_classifies_them(
    parameters: Parameters, pipeline_of: Callable[[str], PipelineRunner]
) -> None:
    runner = pipeline_of("text-classification")
    pairs = [{"text": "a dog", "text_pair": "an animal"}, {"text": "a dog", "text_pair": ""}]
    inputs = [*pairs, "a dog"]
    for value, result in zip(inputs, run(runner, [(value, parameters) for value in inputs]), strict=True):
        assert_same(result, runner.pipe(value, **parameters))


def test_both_texts_of_a_pair_count(pipeline_of: Callable[[str], PipelineRunner]) -> None:
    runner = pipeline_of("text-classification")
    tokens, characters = runner.preprocess(
        [({"text": "a " * 70, "text_pair": "b " * 70}, {}), ({"text": "a" * 2**20, "text_pair": "b"}, {})]
    )
    assert isinstance(tokens, TooLarge)
    assert str(tokens) == "The input has 143 tokens; the model takes at most 128."
    limit = "counted for each label; the server takes 1048576."
    assert str(characters) == f"The input has 1048577 characters, {limit}"


# Information


def test_the_longest_stride_is_described_for_the_task_that_has_one(
    pipeline_of: Callable[[str], PipelineRunner],
) -> None:
    assert pipeline_of("token-classification").describe(threads=1).max_stride == 64
    assert pipeline_of("text-classification").describe(threads=1).max_stride is None
