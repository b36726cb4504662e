"""The pipeline taken apart gives what the pipeline gives, whatever else is in the batch."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from config import BUNDLED_MODEL
from errors import ConfigurationError, InferenceFailed, Rejected, TooLarge, Unavailable
from inference import LoadedPipeline, PipelineThread, PreparedInput, cut_padding, enough_tokens, plan_passes
from loading import load
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


def open_pipeline(folder: Path, task: str | None = None, **options: Any) -> LoadedPipeline:
    """A pipeline that pads as much as it can: any two rows share a pass."""
    loaded = LoadedPipeline(load(str(folder), task, None, "cpu", None, list(TASKS)), **options)
    loaded.can_pad, loaded.fixed_cost_tokens = True, 1e9
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
    assert loaded.can_pad is False
    texts = ["a [MASK]", "a b c d [MASK]", "b [MASK]", "a b c [MASK]", "b c d e [MASK]"]
    with hooked(loaded, lambda ids: None) as rows:
        results = run(loaded, [(text, {}) for text in texts])
    assert rows == [2, 1, 2]
    for text, result in zip(texts, results, strict=True):
        assert_same(result, loaded.pipe(text))


# Bad inputs


def test_one_bad_input_fails_alone_in_the_pipelines_words(pipeline_of: Callable[[str], LoadedPipeline]) -> None:
    loaded = pipeline_of("fill-mask")
    good: list[tuple[str, Parameters]] = [("a [MASK]", {}), ("paris is the [MASK] of france", {"top_k": 1})]
    first, bad, second = run(loaded, [good[0], ("no mask", {}), good[1]])
    assert isinstance(bad, Rejected)
    assert str(bad) == "No mask_token ([MASK]) found on the input"
    assert [first, second] == run(loaded, good)


def test_a_parameter_that_only_the_last_stage_refuses_fails_alone(pipeline_of: Callable[[str], LoadedPipeline]) -> None:
    good, bad = run(pipeline_of("fill-mask"), [("a [MASK]", {}), ("a [MASK]", {"top_k": 8193})])
    assert len(good) == 5
    assert isinstance(bad, Rejected)
    assert str(bad) == "The pipeline refuses the parameters top_k: selected index k out of range"


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


def test_a_poisonous_input_fails_alone_and_its_neighbours_are_answered(
    pipeline_of: Callable[[str], LoadedPipeline],
) -> None:
    loaded = pipeline_of("text-classification")
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
        assert_same(results[index], loaded.pipe(texts[index]))


def test_out_of_memory_is_answered_in_smaller_passes(pipeline_of: Callable[[str], LoadedPipeline]) -> None:
    loaded = pipeline_of("text-classification")

    def fail(ids: torch.Tensor) -> None:
        if len(ids) > 2:
            raise torch.OutOfMemoryError("out of memory")

    with hooked(loaded, fail) as rows:
        results = run(loaded, [("a b c", {})] * 8)
    assert rows == [8, 4, 2, 2, 4, 2, 2]
    assert_same(results, [loaded.pipe("a b c")] * 8)


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


# Decisions


@pytest.mark.parametrize(
    ("lengths", "max_tokens", "fixed", "passes"),
    [
        ([], 100, 10, []),
        ([5, 5, 5], 100, 0, [[0, 1, 2]]),  # no padding, one pass
        ([5, 6], 100, 0, [[0], [1]]),  # the padding costs more than a pass
        ([5, 6], 100, 1, [[0, 1]]),  # as much as a pass
        ([6, 50, 5, 51], 1000, 10, [[2, 0], [1, 3]]),  # short with short, long with long
        ([5, 5, 5], 10, 10, [[0, 1], [2]]),  # the limit on tokens
        ([5, 6, 7], 20, 100, [[0, 1], [2]]),  # which counts padding: 3 x 7 is 21
        ([99], 10, 10, [[99 - 99]]),  # a long one runs by itself
    ],
)
def test_rows_share_a_pass_while_their_padding_costs_less_than_a_pass(
    lengths: list[int], max_tokens: int, fixed: float, passes: list[list[int]]
) -> None:
    assert plan_passes(lengths, max_tokens, fixed) == passes


@pytest.mark.parametrize(("fixed", "longest", "tokens"), [(30, 512, 570), (1, 512, 512), (10_000, 512, 16_384)])
def test_enough_tokens_reach_95_percent_of_the_best_throughput(fixed: float, longest: int, tokens: int) -> None:
    assert enough_tokens(fixed, longest) == tokens
    if tokens not in {longest, 16_384}:
        assert tokens / (fixed + tokens) == pytest.approx(0.95)


def test_padding_is_cut_from_sequences_and_from_nothing_else() -> None:
    inputs = {"input_ids": torch.zeros(1, 2), "attention_mask": torch.zeros(1, 2)}
    outputs = {
        "last_hidden_state": torch.arange(12.0).reshape(1, 4, 3),
        "input_ids": torch.arange(4).reshape(1, 4),
        "logits": torch.zeros(1, 4),
        "pooled": torch.zeros(1, 7),
        "sentence": "text",
    }
    left = cut_padding(dict(outputs), inputs, 2, 4, left=True)
    right = cut_padding(dict(outputs), inputs, 2, 4, left=False)
    assert right["input_ids"].tolist() == [[0, 1]]
    assert left["input_ids"].tolist() == [[2, 3]]
    assert right["last_hidden_state"].shape == (1, 2, 3)
    assert right["logits"].shape == (1, 4)
    assert right["pooled"].shape == (1, 7)
    assert right["sentence"] == "text"


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


# Start-up and the thread


@pytest.mark.parametrize("task", CLASSES)
def test_warming_up_measures_the_costs_and_sets_the_token_limit(task: str, model_of: Callable[[str], Path]) -> None:
    loaded = LoadedPipeline(load(str(model_of(task)), task, None, "cpu", None, list(TASKS)))
    loaded.warm_up()
    assert loaded.can_pad is True
    assert loaded.fixed_cost_tokens >= 0
    assert loaded.max_batch_tokens == enough_tokens(loaded.fixed_cost_tokens, 128)


def test_a_token_limit_that_was_set_stays(model_of: Callable[[str], Path]) -> None:
    loaded = open_pipeline(model_of("fill-mask"), max_batch_tokens=7)
    loaded.warm_up()
    assert loaded.max_batch_tokens == 7


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
        thread = PipelineThread(lambda: open_pipeline(model_of("fill-mask")), threads=1)
        await thread.start()
        with hooked(thread.loaded, look):
            prepared = await thread.prepare([("a [MASK]", {})])
            (result,) = await thread.run(prepared)  # type: ignore[arg-type]
        thread.close()
        assert thread.task == "fill-mask"
        assert thread.max_batch_tokens == thread.loaded.max_batch_tokens
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
    assert seen == {("pipeline_0", 1)}


def test_every_task_of_the_contract_is_tested_here() -> None:
    assert set(CLASSES) == set(PARAMETERS) == set(TASKS)
    assert set(LABELS) <= set(TASKS)
