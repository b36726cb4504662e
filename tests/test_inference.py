"""The pipeline taken apart gives what the pipeline gives, whatever else is in the batch."""

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from acceleration import speed_ups_for
from config import BUNDLED_MODEL
from errors import ConfigurationError, InferenceFailed, Rejected, TooLarge, Unavailable
from hooks import DoesNotFit, stack_of
from inference import LoadedPipeline, PipelineThread, PreparedInput
from loading import load
from passes import LEAST_AUTO_TOKENS, enough_tokens
from protocol import TASKS
from tests.compare import assert_same
from tests.models import CLASSES, LABELS, make_model

Parameters = dict[str, object]
TEXTS = [
    "test",
    "",
    "paris is the capital of france .",
    "the quick brown fox jumps over the lazy dog , and then it does the same again in the other direction",
    "a",
    "albert einstein was born in ulm and worked in bern , berlin and princeton " * 2,
]
PARAMETERS: dict[str, list[Parameters]] = {
    "fill-mask": [{}, {"top_k": 2}, {"targets": ["france", "city", "dog"]}, {"top_k": 1, "targets": ["fox", "test"]}],
    "text-classification": [
        {},
        {"top_k": 2},
        {"top_k": 1},
        {"function_to_apply": "sigmoid"},
        {"function_to_apply": "none"},
    ],
    "token-classification": [
        {},
        {"ignore_labels": []},
        {"aggregation_strategy": "simple"},
        {"aggregation_strategy": "first", "ignore_labels": ["PER"]},
        {"aggregation_strategy": "average"},
        {"aggregation_strategy": "max", "stride": 4},
    ],
    "feature-extraction": [{}, {"truncation": True}],
    "zero-shot-classification": [
        {"candidate_labels": ["travel", "science"]},
        {"candidate_labels": ["a", "much longer label than the others", "b"], "multi_label": True},
        {"candidate_labels": ["one"], "hypothesis_template": "Is it {}?"},
    ],
}


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


class Panic(BaseException):
    """As pyo3 raises them for the tokenizer's Rust: no `Exception`."""


def open_pipeline(folder: Path, task: str | None = None, **options: Any) -> LoadedPipeline:
    """A pipeline that pads as much as it can: any two rows share a pass."""
    loaded = LoadedPipeline(load(str(folder), task, None, "cpu", None, list(TASKS)), **options)
    loaded.passes.why_not_padded, loaded.passes.fixed_cost_tokens = None, 1e9
    return loaded


@pytest.fixture(scope="module")
def pipeline_of(model_of: Callable[[str], Path]) -> Callable[[str], LoadedPipeline]:
    opened: dict[str, LoadedPipeline] = {}

    def get(task: str) -> LoadedPipeline:
        if task not in opened:
            opened[task] = open_pipeline(model_of(task), task)
        return opened[task]

    return get


def inputs_of(task: str) -> list[str]:
    if task == "fill-mask":
        return [f"{text} [MASK] {text}" for text in TEXTS] + ["two [MASK] of [MASK]"]
    return [text for text in TEXTS if text or task != "zero-shot-classification"]


def run(loaded: LoadedPipeline, work: list[tuple[str, Parameters]]) -> list[Any]:
    """One batch; the error or the output of each."""
    prepared = loaded.prepare(work)
    results = iter(loaded.run([item for item in prepared if isinstance(item, PreparedInput)]))
    return [next(results) if isinstance(item, PreparedInput) else item for item in prepared]


@contextmanager
def hooked(loaded: LoadedPipeline, hook: Callable[[torch.Tensor], None]) -> Iterator[list[int]]:
    """Look at what the real model is given before each pass, and perhaps raise; the rows of each pass."""
    rows: list[int] = []

    def look(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        rows.append(len(kwargs["input_ids"]))
        hook(kwargs["input_ids"])

    handle = loaded.pipe.model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield rows
    finally:
        handle.remove()


# Equal to the pipeline


@pytest.mark.parametrize("task", CLASSES)
def test_each_result_of_a_mixed_batch_equals_the_pipeline_run_on_that_input_alone(
    task: str, pipeline_of: Callable[[str], LoadedPipeline]
) -> None:
    loaded = pipeline_of(task)
    work = [(text, parameters) for parameters in PARAMETERS[task] for text in inputs_of(task)]
    with hooked(loaded, lambda ids: None) as rows:
        results = run(loaded, work)
    assert max(rows) > len(inputs_of(task))  # it did batch, across parameters
    for (text, parameters), result in zip(work, results, strict=True):
        assert_same(result, loaded.pipe(text, **parameters))


@pytest.mark.parametrize("task", CLASSES)
def test_alone_in_its_batch_a_result_is_the_pipelines_to_the_last_bit(
    task: str, pipeline_of: Callable[[str], LoadedPipeline]
) -> None:
    loaded = pipeline_of(task)
    text, parameters = inputs_of(task)[2], PARAMETERS[task][-1]
    assert run(loaded, [(text, parameters)]) == [loaded.pipe(text, **parameters)]


def test_as_many_labels_as_tokens_are_not_taken_for_padding(tmp_path: Path) -> None:
    texts = ["a", "one two three four five six"]
    labels = [f"label {number}" for number in range(8)]
    loaded = open_pipeline(make_model("text-classification", tmp_path, labels))
    assert loaded.prepare_one(texts[1], {}).tokens == len(labels)  # type: ignore[union-attr]
    for text, result in zip(texts, run(loaded, [(text, {"top_k": 8}) for text in texts]), strict=True):
        assert_same(result, loaded.pipe(text, top_k=8))


def fnet(folder: Path) -> Path:
    """A family that has no attention mask: padding changes its answers."""
    torch.manual_seed(0)
    options = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64, "initializer_range": 0.5}
    config = transformers.FNetConfig(vocab_size=8192, pad_token_id=0, max_position_embeddings=128, **options)
    transformers.FNetForMaskedLM(config).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(BUNDLED_MODEL).save_pretrained(folder)
    return folder


def padded_on_the_left(folder: Path) -> Path:
    """Positions count from the padding, which changes the answers of this family too."""
    make_model("fill-mask", folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.save_pretrained(folder)
    return folder


def without_padding_token(folder: Path) -> Path:
    make_model("fill-mask", folder)
    transformers.AutoTokenizer.from_pretrained(folder, pad_token=None).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("make", [fnet, padded_on_the_left, without_padding_token])
def test_where_padding_is_wrong_or_impossible_only_equal_lengths_share_a_pass(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    loaded = LoadedPipeline(load(str(make(tmp_path)), "fill-mask", None, "cpu", None, list(TASKS)))
    loaded.warm_up()
    assert loaded.passes.can_pad is False
    texts = ["a [MASK]", "a b c d [MASK]", "b [MASK]", "a b c [MASK]", "b c d e [MASK]"]
    with hooked(loaded, lambda ids: None) as rows:
        results = run(loaded, [(text, {}) for text in texts])
    assert rows == [2, 1, 2]
    for text, result in zip(texts, results, strict=True):
        assert_same(result, loaded.pipe(text))


def test_a_model_that_takes_one_row_only_gets_one_at_a_time(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(BUNDLED_MODEL)
    torch.manual_seed(0)
    sizes = {"vocab_size": 8192, "n_embd": 32, "n_layer": 2, "n_head": 2, "initializer_range": 0.5}
    model = transformers.GPT2ForSequenceClassification(transformers.GPT2Config(**sizes, num_labels=3)).eval()
    assert model.config.pad_token_id is None
    pipe = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    theirs = [pipe(text) for text in TEXTS]
    loaded = LoadedPipeline(pipe)
    loaded.warm_up()
    assert "Each input has a pass of its own: Cannot handle batch sizes > 1" in caplog.text
    with hooked(loaded, lambda ids: None) as rows:
        results = run(loaded, [(text, {}) for text in TEXTS])
    assert rows == [1] * len(TEXTS)
    assert loaded.passes.max_tokens == LEAST_AUTO_TOKENS  # a larger batch brings nothing but waiting
    assert_same(results, theirs)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "dynamic", "factor": 4.0},
        {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [3.0] * 4, "factor": 4.0},
    ],
)
def test_a_model_whose_positions_stretch_with_the_longest_text_sees_each_text_alone(rope: dict[str, Any]) -> None:
    config = transformers.LlamaConfig(
        **{**LLAMA, "rope_parameters": {**rope, "rope_theta": 1e4, "original_max_position_embeddings": 8}}
    )
    torch.manual_seed(0)
    model = transformers.LlamaForSequenceClassification(config).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(BUNDLED_MODEL)
    pipe = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    theirs = []
    for text in TEXTS:  # what one text leaves behind would change the next
        fresh = transformers.LlamaForSequenceClassification(config).eval()
        fresh.load_state_dict(model.state_dict())
        theirs.append(
            transformers.pipeline("text-classification", model=fresh, tokenizer=tokenizer, device="cpu")(text)
        )
    loaded = LoadedPipeline(pipe)
    loaded.warm_up()
    loaded.passes.why_not_padded, loaded.passes.fixed_cost_tokens = None, 1e9
    for texts in ([TEXTS[-1]], TEXTS):
        assert_same(run(loaded, [(text, {}) for text in texts]), theirs[-len(texts) :])


def sped_up(loaded: LoadedPipeline) -> LoadedPipeline:
    """The same with all speed-ups, whatever they gain here."""
    for speed_up in speed_ups_for(loaded.pipe.model, loaded.reads()):
        with suppress(DoesNotFit):
            speed_up.on()
    loaded.passes.padding_is_free = True
    return loaded


@pytest.mark.parametrize("task", CLASSES)
def test_with_the_speed_ups_each_result_of_a_mixed_batch_equals_the_untouched_pipelines(
    task: str, model_of: Callable[[str], Path], pipeline_of: Callable[[str], LoadedPipeline]
) -> None:
    untouched = pipeline_of(task).pipe
    loaded = sped_up(open_pipeline(model_of(task), task))
    work = [(text, parameters) for parameters in PARAMETERS[task] for text in inputs_of(task)]
    with hooked(loaded, lambda ids: None) as rows:
        results = run(loaded, work)
    assert max(rows) >= len(inputs_of(task))
    for (text, parameters), result in zip(work, results, strict=True):
        assert_same(result, untouched(text, **parameters))
        assert_same(run(loaded, [(text, parameters)]), [untouched(text, **parameters)])


def test_equal_inputs_of_a_batch_are_computed_once(pipeline_of: Callable[[str], LoadedPipeline]) -> None:
    loaded = pipeline_of("fill-mask")
    work: list[tuple[str, Parameters]] = [
        ("a [MASK]", {"top_k": 1}),
        ("b [MASK]", {"top_k": 1}),
        ("a [MASK]", {"top_k": 1}),
        ("a [MASK]", {"top_k": 2}),
    ]
    with hooked(loaded, lambda ids: None) as rows:
        results = run(loaded, work)
    assert rows == [3]
    assert_same(results, [loaded.pipe(text, **parameters) for text, parameters in work])


# Bad inputs


def test_one_bad_input_fails_alone_in_the_pipelines_words(pipeline_of: Callable[[str], LoadedPipeline]) -> None:
    loaded = pipeline_of("fill-mask")
    good: list[tuple[str, Parameters]] = [("a [MASK]", {}), ("paris is the [MASK] of france", {"top_k": 1})]
    first, bad, second = run(loaded, [good[0], ("no mask", {}), good[1]])
    assert isinstance(bad, Rejected)
    assert str(bad) == "No mask_token ([MASK]) found on the input"
    assert [first, second] == run(loaded, good)


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
    result = pipeline_of(task).prepare_one(text, parameters)
    assert isinstance(result, error or PreparedInput)
    assert words in str(result)


def test_a_panic_in_the_tokenizer_costs_only_its_own_input(model_of: Callable[[str], Path]) -> None:
    def preprocess(text: str, **parameters: object) -> Any:
        if text == "panic":
            raise Panic("at tokenizer.rs")
        return original(text, **parameters)

    loaded = open_pipeline(model_of("text-classification"))
    original, loaded.pipe.preprocess = loaded.pipe.preprocess, preprocess
    good, bad = run(loaded, [("a", {}), ("panic", {})])
    assert_same(good, loaded.pipe("a"))
    assert isinstance(bad, InferenceFailed)
    assert isinstance(bad.__cause__, Panic)


@pytest.mark.parametrize("most_tokens", [None, 16])  # the chunks in one pass, or each in its own
@pytest.mark.parametrize("fast", [False, True])
def test_a_text_in_several_overlapping_chunks_equals_the_pipelines(
    fast: bool, most_tokens: int | None, tmp_path: Path
) -> None:
    make_model("token-classification", tmp_path)
    transformers.AutoTokenizer.from_pretrained(tmp_path, model_max_length=16).save_pretrained(tmp_path)
    untouched = open_pipeline(tmp_path).pipe
    loaded = open_pipeline(tmp_path, max_batch_tokens=most_tokens)
    if fast:
        sped_up(loaded)
    parameters: Parameters = {"aggregation_strategy": "max", "stride": 4}
    (prepared,) = loaded.prepare([(TEXTS[-1], parameters)])
    assert isinstance(prepared, PreparedInput)
    assert len(prepared.rows) == 3
    results = run(loaded, [(TEXTS[-1], parameters), (TEXTS[2], parameters)])
    assert_same(results, [untouched(TEXTS[-1], **parameters), untouched(TEXTS[2], **parameters)])


@pytest.mark.parametrize("prepare", [LoadedPipeline.warm_up, sped_up])
def test_in_bfloat16_the_answers_are_the_pipelines_in_bfloat16(
    prepare: Callable[[LoadedPipeline], object], model_of: Callable[[str], Path]
) -> None:
    folder = str(model_of("text-classification"))
    loaded, untouched = (
        LoadedPipeline(load(folder, None, None, "cpu", "bfloat16", list(TASKS)), speed_up=speed_up)
        for speed_up in (True, False)
    )
    prepare(loaded)
    results = run(loaded, [(text, {"top_k": 3}) for text in TEXTS])
    for text, result in zip(TEXTS, results, strict=True):
        theirs = {item["label"]: item["score"] for item in untouched.pipe(text, top_k=3)}
        assert {item["label"]: item["score"] for item in result} == pytest.approx(theirs, abs=0.05)


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
    loaded = open_pipeline(model_of(task), task, truncate=True)
    text = "[MASK] " + "long " * 300
    prepared = loaded.prepare_one(text, {})
    assert isinstance(prepared, PreparedInput)
    assert prepared.tokens == 128
    options = {"tokenizer_kwargs": {"truncation": True}} if task == "fill-mask" else {"truncation": True}
    assert_same(loaded.run([prepared])[0], loaded.pipe(text, **options))


# Faults in the model


@pytest.mark.parametrize("fast", [False, True])
def test_a_poisonous_input_fails_alone_and_its_neighbours_are_answered(
    fast: bool, model_of: Callable[[str], Path], pipeline_of: Callable[[str], LoadedPipeline]
) -> None:
    untouched = pipeline_of("text-classification")
    loaded = sped_up(open_pipeline(model_of("text-classification"))) if fast else untouched
    poison = loaded.pipe.tokenizer.convert_tokens_to_ids("poison")

    def fail(ids: torch.Tensor) -> None:
        if (ids == poison).any():
            raise RuntimeError("the size of tensor a must match")

    texts = ["one", "two two", "three", "poison", "five", "six", "seven"]
    with hooked(loaded, fail):
        results = run(loaded, [(text, {}) for text in texts])
        alone = run(loaded, [("poison", {})])
    assert isinstance(results[3], InferenceFailed)
    assert str(results[3].__cause__) == "the size of tensor a must match"
    assert isinstance(alone[0], InferenceFailed)  # one bad input by itself does not make the model broken
    for index in (0, 1, 2, 4, 5, 6):
        assert_same(results[index], untouched.pipe(texts[index]))


def test_out_of_memory_is_answered_in_smaller_passes(pipeline_of: Callable[[str], LoadedPipeline]) -> None:
    loaded = pipeline_of("text-classification")

    def fail(ids: torch.Tensor) -> None:
        if len(ids) > 2:
            raise torch.OutOfMemoryError("out of memory")

    with hooked(loaded, fail) as rows:
        results = run(loaded, [(f"a b {last}", {}) for last in "cdefghij"])
    assert rows == [8, 4, 2, 2, 4, 2, 2]
    assert_same(results, [loaded.pipe(f"a b {last}") for last in "cdefghij"])


@pytest.mark.parametrize("task", ["fill-mask", "text-classification"])
def test_out_of_memory_in_the_middle_of_a_sped_up_pass_is_answered_in_smaller_passes(
    task: str, model_of: Callable[[str], Path], pipeline_of: Callable[[str], LoadedPipeline]
) -> None:
    untouched = pipeline_of(task).pipe
    loaded = sped_up(open_pipeline(model_of(task), task))

    def fail(module: torch.nn.Module, args: tuple[torch.Tensor]) -> None:
        if args[0].shape[1] > 2:  # one position of each text: this is behind the last layer's attention
            raise torch.OutOfMemoryError("out of memory")

    stack_of(loaded.pipe.model)[-1].get_submodule("intermediate").register_forward_pre_hook(fail)
    texts = [f"{'a b ' * count} [MASK] c" for count in range(8)]
    with hooked(loaded, lambda ids: None) as rows:
        results = run(loaded, [(text, {}) for text in texts])
    assert rows == [8, 4, 2, 2, 4, 2, 2]
    assert_same(results, [untouched(text) for text in texts])


def test_one_chunk_that_fails_fails_its_input_only(pipeline_of: Callable[[str], LoadedPipeline]) -> None:
    loaded = pipeline_of("zero-shot-classification")
    poison = loaded.pipe.tokenizer.convert_tokens_to_ids("poison")

    def fail(ids: torch.Tensor) -> None:
        if (ids == poison).any():
            raise RuntimeError

    with hooked(loaded, fail):
        bad, good = run(loaded, [("a", {"candidate_labels": ["b", "poison"]}), ("a", {"candidate_labels": ["b", "c"]})])
    assert isinstance(bad, InferenceFailed)
    assert_same(good, loaded.pipe("a", candidate_labels=["b", "c"]))


def test_a_model_that_fails_on_everything_is_unavailable(pipeline_of: Callable[[str], LoadedPipeline]) -> None:
    def fail(ids: torch.Tensor) -> None:
        raise RuntimeError("device lost")

    loaded = pipeline_of("text-classification")
    with hooked(loaded, fail), pytest.raises(Unavailable, match="fails on every input"):
        run(loaded, [("a", {}), ("b", {})])


def test_a_postprocess_that_fails_without_parameters_is_not_the_clients_fault(model_of: Callable[[str], Path]) -> None:
    loaded = open_pipeline(model_of("text-classification"))
    loaded.pipe.model.config.id2label = {}
    (result,) = run(loaded, [("a", {})])
    assert isinstance(result, InferenceFailed)


def test_a_panic_in_the_postprocess_costs_only_its_own_input(model_of: Callable[[str], Path]) -> None:
    def postprocess(outputs: Any, **parameters: object) -> Any:
        if not panicked:
            panicked.append(True)
            raise Panic("at decoder.rs")
        return original(outputs, **parameters)

    loaded = open_pipeline(model_of("text-classification"))
    panicked: list[bool] = []
    original, loaded._postprocess = loaded._postprocess, postprocess
    bad, good = run(loaded, [("a", {}), ("b", {})])
    assert isinstance(bad, InferenceFailed)
    assert isinstance(bad.__cause__, Panic)
    assert_same(good, loaded.pipe("b"))


# Start-up and the thread


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
    assert loaded.max_tokens == most
    if most is not None:
        (longest,) = run(loaded, [("a " * (most - 2), {})])
        assert len(longest[0]) == most


@pytest.mark.parametrize("task", CLASSES)
def test_warming_up_measures_the_costs_and_sets_the_token_limit(task: str, model_of: Callable[[str], Path]) -> None:
    loaded = LoadedPipeline(load(str(model_of(task)), task, None, "cpu", None, list(TASKS)))
    loaded.warm_up()
    assert loaded.passes.can_pad is True
    assert loaded.passes.fixed_cost_tokens >= 0
    assert loaded.passes.max_tokens == enough_tokens(loaded.passes.fixed_cost_tokens)


@pytest.mark.parametrize("speed_up", [True, False])
def test_each_speed_up_is_tried_at_the_start_and_reported_or_none_is(
    speed_up: bool, model_of: Callable[[str], Path]
) -> None:
    loaded = LoadedPipeline(
        load(str(model_of("fill-mask")), "fill-mask", None, "cpu", None, list(TASKS)), speed_up=speed_up
    )
    untouched = str(loaded.pipe.model)
    loaded.warm_up()
    names = ["masked_head", "no_padding", "last_layer", "prepacked_weights"]
    assert [outcome.name for outcome in loaded.speed_ups] == (names if speed_up else [])
    kept = {outcome.name for outcome in loaded.speed_ups if outcome.on}
    for outcome in loaded.speed_ups:
        if outcome.name == "last_layer" and "no_padding" not in kept:
            assert outcome.why == "it goes with no_padding"
        else:
            assert outcome.difference is not None
            assert outcome.difference < 1e-5
            assert outcome.gains is not None
            assert list(outcome.gains) == ["in a batch", "alone"]
    assert loaded.passes.padding_is_free == ({"no_padding", "masked_head"} <= kept)
    assert ("Prepacked" in str(loaded.pipe.model)) == ("prepacked_weights" in kept)
    assert speed_up or str(loaded.pipe.model) == untouched


def test_a_token_limit_that_was_set_stays(model_of: Callable[[str], Path]) -> None:
    loaded = open_pipeline(model_of("fill-mask"), max_batch_tokens=7)
    loaded.warm_up()
    assert loaded.passes.max_tokens == 7


def test_a_model_with_few_positions_warms_up_too(tmp_path: Path) -> None:
    loaded = open_pipeline(make_model("fill-mask", tmp_path, max_position_embeddings=8))
    loaded.warm_up()
    assert loaded.max_tokens == 8


def test_a_model_that_fails_at_the_start_is_a_configuration_error(model_of: Callable[[str], Path]) -> None:
    def fail(ids: torch.Tensor) -> None:
        raise RuntimeError("no kernel image for this device")

    loaded = open_pipeline(model_of("fill-mask"))
    with hooked(loaded, fail), pytest.raises(ConfigurationError, match="fails on a plain text: no kernel image"):
        loaded.warm_up()


def test_everything_runs_in_the_one_named_thread_with_its_own_thread_count(model_of: Callable[[str], Path]) -> None:
    seen: set[tuple[str, int]] = set()

    def look(ids: torch.Tensor) -> None:
        seen.add((threading.current_thread().name, torch.get_num_threads()))

    async def main() -> object:
        thread = PipelineThread(
            lambda: load(str(model_of("fill-mask")), None, None, "cpu", None, list(TASKS)), threads=1
        )
        await thread.start()
        with hooked(thread.loaded, look):
            prepared = await thread.prepare([("a [MASK]", {})])
            (result,) = await thread.run(prepared)  # type: ignore[arg-type]
        thread.close()
        assert "pipeline" not in {running.name for running in threading.enumerate()}
        assert gc.get_freeze_count() > 100_000  # what the start has made, collections leave alone
        assert thread.task == "fill-mask"
        assert thread.max_batch_tokens == thread.loaded.passes.max_tokens
        described = thread.describe()
        assert {key: described[key] for key in ("task", "device", "dtype", "threads", "max_tokens")} == {
            "task": "fill-mask",
            "device": "cpu",
            "dtype": "float32",
            "threads": 1,
            "max_tokens": 128,
        }
        assert "/" not in str(described["model"])  # a folder is named, its path is nobody's business
        return result

    assert len(asyncio.run(main())) == 5  # type: ignore[arg-type]
    assert seen == {("pipeline", 1)}


def test_every_task_of_the_contract_is_tested_here() -> None:
    assert set(CLASSES) == set(PARAMETERS) == set(TASKS)
    assert set(LABELS) <= set(TASKS)
