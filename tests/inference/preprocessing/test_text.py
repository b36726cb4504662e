"""What fails or costs too much is told before computing; what is tokenised together is as if it were alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from pipeline_webserver.errors import InferenceFailed, Rejected, TooLarge
from pipeline_webserver.inference.pipeline_runner import LoadedPipeline
from pipeline_webserver.inference.preprocessing.base import Limits, PreparedInput
from tests.support.compare import assert_same
from tests.support.pipelines import Panic, Parameters, hooked, inputs_of, open_pipeline, run


@pytest.mark.parametrize(
    ("task", "text", "parameters", "error", "words"),
    [
        (
            "fill-mask",
            "a [MASK]",
            {"top_k": 8193},
            Rejected,
            "Parameter 'top_k' is over the 8192 words the model knows.",
        ),
        ("fill-mask", "[MASK] " * 100, {"top_k": 41}, TooLarge, "asks for 4100 guesses; the server makes 4096."),
        ("fill-mask", "a [MASK]", {"targets": ["dog"], "top_k": 9000}, None, ""),
        ("fill-mask", "a [MASK]", {"targets": []}, Rejected, "At least one target must be provided"),
        ("token-classification", "a", {"stride": 257}, Rejected, "'stride' is over half of the model's length, 256."),
        ("token-classification", "a", {"stride": 1}, None, ""),
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
def test_what_would_fail_or_cost_too_much_is_refused_before_computing_with_the_numbers(
    task: str,
    text: str,
    parameters: Parameters,
    error: type[Exception] | None,
    words: str,
    pipeline_of: Callable[[str], LoadedPipeline],
) -> None:
    (result,) = pipeline_of(task).prepare([(text, parameters)])
    assert isinstance(result, error or PreparedInput)
    assert words in str(result)


def test_more_tokens_than_the_model_takes_are_refused_before_computing(
    pipeline_of: Callable[[str], LoadedPipeline],
) -> None:
    loaded = pipeline_of("fill-mask")
    with hooked(loaded, lambda ids: None) as rows:
        longest, too_long = loaded.prepare([("a " * 125 + "[MASK]", {}), ("a " * 126 + "[MASK]", {})])
        assert rows == []
    assert isinstance(too_long, TooLarge)
    assert str(too_long) == "The input has 129 tokens; the model takes at most 128."
    assert isinstance(longest, PreparedInput)
    assert len(loaded.run([longest])) == 1  # the most it takes, it takes


@pytest.mark.parametrize("task", ["fill-mask", "text-classification", "feature-extraction"])
def test_with_truncate_long_inputs_are_cut_to_what_the_model_takes(task: str, model_of: Callable[[str], Path]) -> None:
    loaded = open_pipeline(model_of(task), task, limits=Limits(truncate=True))
    text = "[MASK] " + "long " * 300
    (prepared,) = loaded.prepare([(text, {})])
    assert isinstance(prepared, PreparedInput)
    assert prepared.tokens == 128
    options = {"tokenizer_kwargs": {"truncation": True}} if task == "fill-mask" else {"truncation": True}
    assert_same(loaded.run([prepared])[0], loaded.pipe(text, **options))


@pytest.mark.parametrize(
    ("make", "said", "most"),
    [
        (lambda: transformers.BertConfig(max_position_embeddings=64), 10**30, 64),
        (lambda: transformers.BertConfig(max_position_embeddings=64), 32, 64),
        (lambda: transformers.RobertaConfig(max_position_embeddings=66, pad_token_id=1), 10**30, 64),
        (lambda: transformers.ModernBertConfig(pad_token_id=0), 77, 77),
        (lambda: transformers.ModernBertConfig(pad_token_id=0), 10**30, None),
    ],
)
def test_the_most_tokens_are_the_positions_the_model_has_or_what_its_tokenizer_says(
    make: Callable[[], Any], said: int, most: int | None, model_of: Callable[[str], Path]
) -> None:
    config = make()
    config.vocab_size, config.hidden_size, config.intermediate_size = 8192, 32, 64
    config.num_hidden_layers, config.num_attention_heads = 1, 2
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_of("feature-extraction"))
    tokenizer.model_max_length = said
    model = transformers.AutoModel.from_config(config).eval()
    loaded = LoadedPipeline(transformers.pipeline("feature-extraction", model=model, tokenizer=tokenizer, device="cpu"))
    assert loaded.prepare.max_tokens == most
    if most is not None:
        (longest,) = run(loaded, [("a " * (most - 2), {})])
        assert len(longest[0]) == most


# Tokenised together


@pytest.mark.parametrize("task", ["fill-mask", "text-classification", "feature-extraction"])
@pytest.mark.parametrize("truncate", [False, True])
def test_texts_that_came_together_are_tokenised_by_one_call_to_what_each_would_be(
    task: str, truncate: bool, model_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = open_pipeline(model_of(task), task, limits=Limits(truncate=truncate))
    texts = [*inputs_of(task), *["[MASK] " + "long " * 300] * truncate]
    alone = [loaded.prepare([(text, {})])[0] for text in texts]
    calls: list[object] = []
    original = type(loaded.pipe.tokenizer).__call__

    def call(tokenizer: Any, text: object, **options: Any) -> Any:
        calls.append(text)
        return original(tokenizer, text, **options)

    monkeypatch.setattr(type(loaded.pipe.tokenizer), "__call__", call)
    together = loaded.prepare([(text, {}) for text in texts])
    assert calls == [texts]
    for one, other in zip(together, alone, strict=True):
        assert isinstance(one, PreparedInput)
        assert isinstance(other, PreparedInput)
        assert one.tokens == other.tokens
        (row,), (theirs,) = one.rows, other.rows
        assert list(row.inputs) == list(theirs.inputs)
        for name, value in theirs.inputs.items():
            assert row.inputs[name].dtype == value.dtype
            assert torch.equal(row.inputs[name], value)


def test_a_text_that_the_tokenizer_cannot_take_costs_only_itself_among_those_tokenised_together(
    model_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = open_pipeline(model_of("text-classification"))
    original = type(loaded.pipe.tokenizer).__call__

    def call(tokenizer: Any, text: Any, **options: Any) -> Any:
        if "panic" in text:
            raise Panic("at tokenizer.rs")
        return original(tokenizer, text, **options)

    monkeypatch.setattr(type(loaded.pipe.tokenizer), "__call__", call)
    first, bad, second = run(loaded, [("a", {}), ("panic", {}), ("b", {})])
    assert isinstance(bad, InferenceFailed)
    assert isinstance(bad.__cause__, Panic)
    assert_same([first, second], [loaded.pipe("a"), loaded.pipe("b")])


def test_texts_that_are_to_be_cut_differently_are_not_tokenised_together(
    pipeline_of: Callable[[str], LoadedPipeline],
) -> None:
    loaded = pipeline_of("feature-extraction")
    work: list[tuple[str, Parameters]] = [
        ("a " * 600, {"truncation": truncation}) for truncation in (True, False, True, False)
    ]
    cut, whole = (f"The input has {tokens} tokens; the model takes at most 128." for tokens in (512, 602))
    assert [str(error) for error in loaded.prepare(work)] == [cut, whole, cut, whole]


# Long texts


def test_a_text_that_is_far_too_long_is_refused_by_its_beginning(
    pipeline_of: Callable[[str], LoadedPipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = pipeline_of("text-classification")
    seen: list[int] = []
    original = type(loaded.pipe.tokenizer).__call__

    def call(tokenizer: Any, text: str, **options: Any) -> Any:
        seen.append(len(text))
        return original(tokenizer, text, **options)

    monkeypatch.setattr(type(loaded.pipe.tokenizer), "__call__", call)
    (error,) = loaded.prepare([("a " * 100_000, {})])
    assert isinstance(error, TooLarge)
    assert str(error) == "The input has over 2050 tokens; the model takes at most 128."
    assert seen == [4096]


def test_a_long_text_of_few_tokens_is_taken(pipeline_of: Callable[[str], LoadedPipeline]) -> None:
    loaded = pipeline_of("text-classification")
    text = "a" + " " * 50_000 + "b"
    assert_same(run(loaded, [(text, {})]), [loaded.pipe(text)])


def test_characters_that_would_take_long_to_tokenise_are_refused(pipeline_of: Callable[[str], LoadedPipeline]) -> None:
    loaded = pipeline_of("zero-shot-classification")
    (error,) = loaded.prepare([("a" * 10_000, {"candidate_labels": ["x"] * 105})])
    assert isinstance(error, TooLarge)
    words = "The input has 1050000 characters, counted for each label; the server takes 1048576."
    assert str(error) == words


def test_between_long_texts_it_is_told_that_the_call_goes_on(model_of: Callable[[str], Path]) -> None:
    loaded = open_pipeline(model_of("token-classification"))
    told: list[bool] = []
    loaded.prepare.on_progress = lambda: told.append(True)
    loaded.prepare([("a " * 5_000, {}), ("b", {}), ("c " * 5_000, {})])
    assert told == [True, True]


# Pairs


@pytest.mark.parametrize("parameters", [{}, {"top_k": 2}, {"function_to_apply": "none"}])
def test_pairs_of_texts_are_classified_as_the_pipeline_classifies_them(
    parameters: Parameters, pipeline_of: Callable[[str], LoadedPipeline]
) -> None:
    loaded = pipeline_of("text-classification")
    pairs = [{"text": "a dog", "text_pair": "an animal"}, {"text": "a dog", "text_pair": ""}]
    results = run(loaded, [(pair, parameters) for pair in pairs] + [("a dog", parameters)])
    for result, given in zip(results, [*pairs, "a dog"], strict=True):
        assert_same(result, loaded.pipe(given, **parameters))


def test_both_texts_of_a_pair_count(pipeline_of: Callable[[str], LoadedPipeline]) -> None:
    (result,) = pipeline_of("text-classification").prepare([({"text": "a " * 70, "text_pair": "b " * 70}, {})])
    assert isinstance(result, TooLarge)
    assert str(result) == "The input has 143 tokens; the model takes at most 128."
    (result,) = pipeline_of("text-classification").prepare([({"text": "a" * 2**20, "text_pair": "b"}, {})])
    assert str(result) == "The input has 1048577 characters, counted for each label; the server takes 1048576."


def test_the_longest_stride_is_told_of_the_task_that_has_one(pipeline_of: Callable[[str], LoadedPipeline]) -> None:
    assert pipeline_of("token-classification").prepare.describe() == {"max_stride": 256}
    assert pipeline_of("text-classification").prepare.describe() == {}
