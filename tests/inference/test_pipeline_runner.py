"""The pipeline taken apart gives what the pipeline gives, whatever else is in the batch."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from pipeline_webserver.errors import ConfigurationError, InferenceFailed, Unavailable
from pipeline_webserver.inference.acceleration.base import Optimization
from pipeline_webserver.inference.acceleration.masked_head import MaskedHead
from pipeline_webserver.inference.acceleration.onednn import PrepackedWeights
from pipeline_webserver.inference.acceleration.unpadding import Unpadding
from pipeline_webserver.inference.batch_plan import PADDED, UNPADDED, BatchStrategy, alone, same_length
from pipeline_webserver.inference.loading import BUNDLED_MODEL
from pipeline_webserver.inference.model_inputs import Limits, PreparedInput
from pipeline_webserver.inference.numerics import worst_difference
from pipeline_webserver.inference.pipeline_runner import (
    PipelineRunner,
    open_runner,
    optimized_strategy,
    with_own_tokenizer,
)
from pipeline_webserver.telemetry import metrics
from tests.inference.test_calibration import DYNAMIC_ROPES, fnet, without_padding_token
from tests.support.compare import assert_same
from tests.support.families import SMALL, SPECIAL, UNPADDABLE, make, masks
from tests.support.media import picture
from tests.support.models import CLASSES, make_model
from tests.support.pipelines import (
    PARAMETERS,
    PREPROCESSORS,
    TEXTS,
    Panic,
    Parameters,
    accelerated,
    count_rows,
    hooked,
    inputs_of,
    load_pipeline,
    open_pipeline,
    prepare,
    run,
    runner_of,
)

REPEATS = 20
OPTIMIZATIONS = ["masked_head", "unpadding", "last_layer", "prepacked_weights"]


def all_inputs_of(task: str) -> list[tuple[str, Parameters]]:
    return [(text, parameters) for parameters in PARAMETERS[task] for text in inputs_of(task)]


# Equal to the pipeline


@pytest.mark.parametrize("task", CLASSES)
def test_each_result_of_a_mixed_batch_equals_the_pipelines_for_that_input_alone(
    task: str, pipeline_of: Callable[[str], PipelineRunner]
) -> None:
    runner, inputs = pipeline_of(task), all_inputs_of(task)
    with count_rows(runner) as rows:
        results = run(runner, inputs)
    assert max(rows) > len(inputs_of(task))  # it did batch, across parameters
    for (text, parameters), result in zip(inputs, results, strict=True):
        assert_same(result, runner.pipe(text, **parameters))


@pytest.mark.parametrize("task", CLASSES)
def test_alone_in_its_batch_a_result_is_the_pipelines_to_the_last_bit(
    task: str, pipeline_of: Callable[[str], PipelineRunner]
) -> None:
    runner = pipeline_of(task)
    text, parameters = inputs_of(task)[2], PARAMETERS[task][-1]
    (result,) = run(runner, [(text, parameters)])
    assert (result.tolist() if isinstance(result, np.ndarray) else result) == runner.pipe(text, **parameters)


@pytest.mark.parametrize("task", CLASSES)
def test_with_all_optimizations_each_result_of_a_mixed_batch_equals_the_untouched_pipelines(
    task: str, model_of: Callable[[str], Path], pipeline_of: Callable[[str], PipelineRunner]
) -> None:
    untouched = pipeline_of(task).pipe
    runner, inputs = accelerated(open_pipeline(model_of(task), task)), all_inputs_of(task)
    with count_rows(runner) as rows:
        results = run(runner, inputs)
    assert max(rows) >= len(inputs_of(task))
    for (text, parameters), result in zip(inputs, results, strict=True):
        assert_same(result, untouched(text, **parameters))
        assert_same(run(runner, [(text, parameters)]), [untouched(text, **parameters)])


@pytest.mark.parametrize("max_batch_tokens", [None, 16])  # the chunks in one pass, or each in its own
@pytest.mark.parametrize("is_accelerated", [False, True])
def test_a_text_in_several_overlapping_chunks_equals_the_pipelines(
    is_accelerated: bool, max_batch_tokens: int | None, tmp_path: Path
) -> None:
    make_model("token-classification", tmp_path)
    transformers.AutoTokenizer.from_pretrained(tmp_path, model_max_length=16).save_pretrained(tmp_path)
    untouched = load_pipeline(tmp_path)
    runner = open_pipeline(tmp_path, max_batch_tokens=max_batch_tokens)
    if is_accelerated:
        accelerated(runner)
    parameters: Parameters = {"aggregation_strategy": "max", "stride": 4}
    assert len(prepare(runner, TEXTS[-1], parameters).model_inputs) == 3
    results = run(runner, [(TEXTS[-1], parameters), (TEXTS[2], parameters)])
    assert_same(results, [untouched(TEXTS[-1], **parameters), untouched(TEXTS[2], **parameters)])


@pytest.mark.parametrize("is_accelerated", [False, True])
def test_in_bfloat16_the_results_are_the_pipelines_in_bfloat16(
    is_accelerated: bool, model_of: Callable[[str], Path]
) -> None:
    folder = model_of("text-classification")
    runner, untouched = (runner_of(load_pipeline(folder, dtype="bfloat16")) for _ in range(2))
    runner.warm_up(accelerate=False)
    if is_accelerated:
        accelerated(runner)
    results = run(runner, [(text, {"top_k": 3}) for text in TEXTS])
    for text, result in zip(TEXTS, results, strict=True):
        expected = {item["label"]: item["score"] for item in untouched.pipe(text, top_k=3)}
        assert {item["label"]: item["score"] for item in result} == pytest.approx(expected, abs=0.05)


def test_equal_inputs_of_a_batch_are_computed_once(pipeline_of: Callable[[str], PipelineRunner]) -> None:
    runner = pipeline_of("fill-mask")
    inputs: list[tuple[str, Parameters]] = [
        ("a [MASK]", {"top_k": 1}),
        ("b [MASK]", {"top_k": 1}),
        ("a [MASK]", {"top_k": 1}),
        ("a [MASK]", {"top_k": 2}),
    ]
    before = metrics.DEDUPLICATED._value.get()
    with count_rows(runner) as rows:
        results = run(runner, inputs)
    assert rows == [3]
    assert metrics.DEDUPLICATED._value.get() == before + 1
    assert_same(results, [runner.pipe(text, **parameters) for text, parameters in inputs])


# Failures


def test_a_model_that_fails_on_every_input_and_on_a_plain_one_is_unavailable(model_of: Callable[[str], Path]) -> None:
    def fail(ids: torch.Tensor) -> None:
        raise RuntimeError("device lost")

    runner = open_pipeline(model_of("text-classification"))
    runner.warm_up(accelerate=False)
    with hooked(runner, fail), pytest.raises(Unavailable, match=r"^The model is broken: it fails on every input\.$"):
        run(runner, [("a", {}), ("b", {})])


def test_a_postprocess_that_fails_without_parameters_is_not_the_clients_fault(model_of: Callable[[str], Path]) -> None:
    runner = open_pipeline(model_of("text-classification"))
    runner.pipe.model.config.id2label = {}
    (result,) = run(runner, [("a", {})])
    assert isinstance(result, InferenceFailed)
    assert str(result) == "The model's output for this input could not be read."


def test_a_panic_in_the_postprocess_fails_its_own_input_only(model_of: Callable[[str], Path]) -> None:
    def postprocess(outputs: Any, **parameters: object) -> Any:
        if not panicked:
            panicked.append(True)
            raise Panic("at decoder.rs")
        return original(outputs, **parameters)

    runner = open_pipeline(model_of("text-classification"))
    panicked: list[bool] = []
    original, runner._postprocessor.postprocess = runner._postprocessor.postprocess, postprocess
    bad, good = run(runner, [("a", {}), ("b", {})])
    assert isinstance(bad, InferenceFailed)
    assert isinstance(bad.__cause__, Panic)
    assert_same(good, runner.pipe("b"))


# Start


@pytest.mark.parametrize("accelerate", [True, False])
def test_each_optimization_is_verified_and_the_default_ones_are_applied_or_none_is_tried(
    accelerate: bool, model_of: Callable[[str], Path]
) -> None:
    runner = runner_of(load_pipeline(model_of("fill-mask")))
    untouched = str(runner.pipe.model)
    runner.warm_up(accelerate=accelerate, timing_budget_s=0)
    defaults = dict.fromkeys(OPTIMIZATIONS, True) | {
        "prepacked_weights": PrepackedWeights(runner.pipe.model).is_default
    }
    assert {report.name: report.applied for report in runner.reports} == (defaults if accelerate else {})
    for report in runner.reports:
        assert report.difference is not None
        assert report.difference < 1e-5
    assert (runner.forward.strategy == UNPADDED) == accelerate
    assert ("Prepacked" in str(runner.pipe.model)) == (accelerate and defaults["prepacked_weights"])
    assert accelerate or str(runner.pipe.model) == untouched


def test_optimizations_are_tried_on_a_batch_of_all_probes_and_on_one_input_alone(
    pipeline_of: Callable[[str], PipelineRunner],
) -> None:
    runner = pipeline_of("fill-mask")
    measured, *probes = (runner.warmup_input(words).model_inputs[0] for words in (24, 3, 100, 8))
    tried = runner._probes(measured, probes)
    assert [(probe.name, len(probe.reference)) for probe in tried] == [("in a batch", 3), ("alone", 1)]
    for applied in ([], [Unpadding(runner.pipe.model)]):
        for probe, expected_rows in zip(tried, ([3], [1]), strict=True):
            with count_rows(runner) as rows:
                assert worst_difference(probe.reference, probe.run(applied)) < 1e-5
            assert rows == expected_rows


@pytest.mark.parametrize("make_folder", [fnet, without_padding_token])
def test_where_inputs_cannot_be_padded_the_head_is_verified_in_passes_of_equal_lengths(
    make_folder: Callable[[Path], Path], tmp_path: Path
) -> None:
    runner = runner_of(load_pipeline(make_folder(tmp_path)))
    runner.warm_up(accelerate=True, timing_budget_s=0)
    head, unpadding = runner.reports[:2]
    assert (head.name, head.applied) == ("masked_head", True)
    assert head.difference is not None
    assert head.difference < 1e-5
    assert (unpadding.name, unpadding.applied) == ("unpadding", False)
    assert runner.forward.strategy.kind == "same_length"


@pytest.mark.parametrize(
    ("strategy", "applied", "scores_vocabulary", "result"),
    [
        (PADDED, [], False, PADDED),
        (PADDED, [Unpadding], False, UNPADDED),
        (same_length("padding changes the outputs"), [Unpadding], False, UNPADDED),
        (alone("why"), [Unpadding], False, alone("why")),
        (PADDED, [Unpadding], True, PADDED),  # the head scores the whole vocabulary for each token of padding
        (PADDED, [MaskedHead], True, PADDED),
        (PADDED, [MaskedHead, Unpadding], True, UNPADDED),
        (PADDED, [PrepackedWeights], False, PADDED),
    ],
)
def test_inputs_share_passes_freely_where_padding_is_removed_from_all_that_computes_it(
    strategy: BatchStrategy,
    applied: list[Callable[..., Optimization]],
    scores_vocabulary: bool,
    result: BatchStrategy,
) -> None:
    bert = make(UNPADDABLE["bert"]())
    options: dict[Any, Any] = {MaskedHead: {"positions_read": masks}}
    optimizations = [optimization(bert, **options.get(optimization, {})) for optimization in applied]
    assert optimized_strategy(strategy, optimizations, scores_vocabulary=scores_vocabulary) == result


def test_a_change_that_only_a_long_text_makes_keeps_it_apart_from_others_also_without_padding() -> None:
    """Its positions scale with the longest text of a pass, which the short probes of the start do not show."""
    rope = {**DYNAMIC_ROPES["dynamic"], "rope_theta": 1e4, "original_max_position_embeddings": 200}
    sizes = {**SMALL, "vocab_size": 8192, "pad_token_id": 0, "max_position_embeddings": 200}
    config = transformers.EuroBertConfig(**sizes, **SPECIAL, rope_parameters=rope, mask_token_id=4)
    tokenizer = transformers.AutoTokenizer.from_pretrained(BUNDLED_MODEL)

    def pipe() -> Any:
        torch.manual_seed(0)
        model = transformers.EuroBertModel(config).eval()
        return transformers.pipeline("feature-extraction", model=model, tokenizer=tokenizer, device="cpu")

    runner = runner_of(pipe())
    runner.warm_up(accelerate=True, timing_budget_s=0)
    assert {report.name: report.applied for report in runner.reports}["unpadding"]
    assert runner.forward.strategy == UNPADDED
    texts = ["a dog", "the " * 300, "a cat and a dog", "a " * 250]
    assert_same(run(runner, [(text, {}) for text in texts]), [pipe()(text) for text in texts])
    assert runner.forward.strategy.kind == "same_length"
    with count_rows(runner) as rows:
        run(runner, [(text, {}) for text in [*texts, "a cow"]])
    assert sorted(rows) == [1, 1, 1, 2]


def test_a_model_with_few_positions_is_warmed_up_with_fewer_words(tmp_path: Path) -> None:
    runner = runner_of(load_pipeline(make_model("fill-mask", tmp_path, max_position_embeddings=8)))
    runner.warm_up(accelerate=False)
    assert runner.preprocess.max_tokens == 8
    assert runner.warmup_input(100).tokens <= 8


def test_a_warm_up_input_is_always_the_same(pipeline_of: Callable[[str], PipelineRunner]) -> None:
    runner = pipeline_of("fill-mask")
    first, second = (runner.warmup_input(24).model_inputs[0].tensors["input_ids"] for _ in range(2))
    assert torch.equal(first, second)


def test_a_model_that_fails_at_the_start_is_a_configuration_error(model_of: Callable[[str], Path]) -> None:
    def fail(ids: torch.Tensor) -> None:
        raise RuntimeError("no kernel image for this device\nand more")

    runner = open_pipeline(model_of("fill-mask"))
    with hooked(runner, fail), pytest.raises(ConfigurationError) as raised:
        runner.warm_up(accelerate=False)
    assert str(raised.value) == "the model fails on a plain input: no kernel image for this device"


def test_a_model_that_rejects_a_plain_input_is_a_configuration_error(tmp_path: Path) -> None:
    runner = runner_of(load_pipeline(make_model("fill-mask", tmp_path, max_position_embeddings=2)))
    with pytest.raises(ConfigurationError) as raised:
        runner.warm_up(accelerate=False)
    assert str(raised.value).startswith("the model rejects a plain input: The input has ")


def test_a_pipeline_is_opened_with_the_preprocessor_of_its_task_its_limits_and_warmed_up(
    model_of: Callable[[str], Path],
) -> None:
    folder = model_of("text-classification")
    runner = open_runner(lambda: load_pipeline(folder), PREPROCESSORS, Limits(truncate=True), 77, accelerate=False)
    assert type(runner.preprocess).__name__ == "TextClassificationPreprocessor"
    assert runner.preprocess.limits == Limits(truncate=True)
    assert runner.forward.max_tokens == 77
    assert runner.forward.strategy.kind == "padded"


# Information


def test_a_model_is_described_by_the_name_of_its_folder(model_of: Callable[[str], Path]) -> None:
    folder = model_of("fill-mask")
    info = runner_of(load_pipeline(folder)).describe(threads=3)
    assert info.as_json() == {
        "model": folder.name,  # and not its path
        "name": folder.name,
        "task": "fill-mask",
        "task_source": "architectures in config.json",
        "device": "cpu",
        "dtype": "float32",
        "threads": 3,
        "max_tokens": 128,
        "batching": {"strategy": "same_length", "reason": "it is not calibrated yet", "put_back": ()},
        "optimizations": (),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "mask_token": "[MASK]",
        "max_top_k": 4096,
    }


# Two threads: the tokenizers library lends a tokenizer to one caller at a time ("Already borrowed")


def test_the_thread_of_the_model_has_a_tokenizer_of_its_own_and_the_same_model(
    model_of: Callable[[str], Path],
) -> None:
    pipe = load_pipeline(model_of("text-classification"))
    twin = with_own_tokenizer(pipe)
    assert twin.tokenizer is not pipe.tokenizer
    assert twin.tokenizer._tokenizer is not pipe.tokenizer._tokenizer
    assert twin.tokenizer.get_vocab() == pipe.tokenizer.get_vocab()
    assert twin.model is pipe.model


@pytest.mark.parametrize("task", [*CLASSES, "text-generation", "zero-shot-image-classification"])
def test_passes_and_postprocessing_never_touch_the_tokenizer_of_preprocessing(
    task: str, model_of: Callable[[str], Path]
) -> None:
    runner = open_pipeline(model_of(task), task)
    parameters: dict[str, Parameters] = {
        "text-generation": {"do_sample": False, "max_new_tokens": 5, "stop_sequence": ["e"]},
        "zero-shot-image-classification": {"candidate_labels": ["a cat", "a dog"]},
        "zero-shot-classification": PARAMETERS["zero-shot-classification"][0],
    }
    prepared = prepare(runner, picture(1) if "image" in task else "a [MASK]", parameters.get(task))
    tokenizer_class = type(runner.pipe.tokenizer)

    class Lent(tokenizer_class):  # type: ignore[misc, valid-type]
        def __getattribute__(self, name: str) -> Any:
            assert name != "_tokenizer", "preprocessing may use it right now"
            return super().__getattribute__(name)

    (expected,) = runner.run([prepared])
    runner.pipe.tokenizer.__class__ = Lent
    with pytest.raises(AssertionError, match="preprocessing may use it right now"):
        runner.pipe.tokenizer("a")
    (result,) = runner.run([prepared])
    assert_same(result, expected.tolist() if isinstance(expected, np.ndarray) else expected)


TOKENIZER_OPTIONS: list[dict[str, object]] = [
    {},
    {"truncation": True, "max_length": 6},
    {"truncation": True, "max_length": 12, "padding": "max_length"},
]


@pytest.mark.parametrize(
    ("task", "name", "parameters"),
    [
        ("fill-mask", "tokenizer_kwargs", {"top_k": 50}),
        pytest.param(
            "text-generation",
            "tokenizer_encode_kwargs",
            {"do_sample": False, "max_new_tokens": 20, "stop_sequence": ["zz"]},
            marks=pytest.mark.extended,
        ),
    ],
)
def test_results_are_the_same_while_another_thread_preprocesses(
    task: str, name: str, parameters: Parameters, model_of: Callable[[str], Path]
) -> None:
    """Which changes how its tokenizer truncates and pads, and needs it undisturbed; running decodes all the time."""
    runner = open_pipeline(model_of(task), task)
    batch = [prepare(runner, f"{text} [MASK]", parameters) for text in ("a", "b")]
    inputs = [(f"[MASK] {'a b ' * count}", {name: options}) for count in range(1, 6) for options in TOKENIZER_OPTIONS]
    start = threading.Barrier(2)

    def preprocess() -> list[list[int]]:
        prepared = [item for item in runner.preprocess(inputs) if isinstance(item, PreparedInput)]
        return [item.model_inputs[0].tensors["input_ids"].flatten().tolist() for item in prepared]

    def repeat(step: Callable[[], Any]) -> list[Any]:
        start.wait()
        return [step() for _ in range(REPEATS)]

    tokens, results = preprocess(), runner.run(batch)
    assert [len(row) for row in tokens[:3]] == ([5, 5, 12] if task == "fill-mask" else [11, 6, 12])
    with ThreadPoolExecutor(2) as threads:
        in_one, in_other = threads.submit(repeat, preprocess), threads.submit(repeat, lambda: runner.run(batch))
    assert in_one.result() == [tokens] * REPEATS
    for result in in_other.result():
        assert_same(result, results)
