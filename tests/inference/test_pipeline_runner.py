"""The pipeline taken apart gives what the pipeline gives, whatever else is in the batch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from pipeline_webserver.api.tasks import TASKS
from pipeline_webserver.errors import ConfigurationError, InferenceFailed, Rejected, Unavailable
from pipeline_webserver.inference.acceleration.base import stack_of
from pipeline_webserver.inference.batch_plan import LEAST_AUTO_TOKENS, enough_tokens
from pipeline_webserver.inference.forward import PASSES_TO_GROW
from pipeline_webserver.inference.loading import BUNDLED_MODEL, load
from pipeline_webserver.inference.pipeline_runner import LoadedPipeline
from pipeline_webserver.inference.preprocessing.base import PreparedInput
from pipeline_webserver.telemetry import metrics
from tests.support.compare import assert_same
from tests.support.models import CLASSES, LABELS, make_model
from tests.support.pipelines import PARAMETERS, TEXTS, Panic, Parameters, hooked, inputs_of, open_pipeline, run, sped_up

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
    (result,) = run(loaded, [(text, parameters)])
    assert (result.tolist() if isinstance(result, np.ndarray) else result) == loaded.pipe(text, **parameters)


def test_as_many_labels_as_tokens_are_not_taken_for_padding(tmp_path: Path) -> None:
    texts = ["a", "one two three four five six"]
    labels = [f"label {number}" for number in range(8)]
    loaded = open_pipeline(make_model("text-classification", tmp_path, labels))
    assert loaded.prepare([(texts[1], {})])[0].tokens == len(labels)  # type: ignore[union-attr]
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


def test_out_of_memory_is_answered_in_smaller_passes_and_the_size_that_was_safe_is_remembered(
    model_of: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    loaded = open_pipeline(model_of("text-classification"))
    before = metrics.OUT_OF_MEMORY._value.get()

    def fail(ids: torch.Tensor) -> None:
        if len(ids) > 2:
            raise torch.OutOfMemoryError("out of memory")

    with hooked(loaded, fail) as rows:
        results = run(loaded, [(f"a b {last}", {}) for last in "cdefghij"])
        assert rows == [8, 4, 2, 2, 4, 2, 2]
        assert loaded.passes.max_tokens == 10  # two rows of five
        assert "Out of memory with 20 tokens; from now on, 10." in caplog.text
        assert metrics.OUT_OF_MEMORY._value.get() == before + 3
        assert_same(run(loaded, [(f"a b {last}", {}) for last in "cdefghij"]), results)
        assert rows[7:] == [2, 2, 2, 2]
    assert_same(results, [loaded.pipe(f"a b {last}") for last in "cdefghij"])


def test_after_many_passes_that_fit_into_memory_larger_ones_are_tried_again(model_of: Callable[[str], Path]) -> None:
    loaded = open_pipeline(model_of("text-classification"), max_batch_tokens=64)
    short_of_memory = True

    def fail(ids: torch.Tensor) -> None:
        if short_of_memory and len(ids) > 2:
            raise torch.OutOfMemoryError("out of memory")

    with hooked(loaded, fail):
        run(loaded, [(f"a b {last}", {}) for last in "cdefghij"])
        assert loaded.passes.max_tokens == 10
        short_of_memory, sizes = False, []
        for count in (PASSES_TO_GROW - 3, 1, PASSES_TO_GROW, PASSES_TO_GROW, PASSES_TO_GROW):  # two went well already
            for _ in range(count):
                run(loaded, [("a", {})])
            sizes.append(loaded.passes.max_tokens)
    assert sizes == [10, 20, 40, 64, 64]


def test_one_text_that_does_not_fit_into_memory_fails_alone(model_of: Callable[[str], Path]) -> None:
    loaded = open_pipeline(model_of("text-classification"))

    def fail(ids: torch.Tensor) -> None:
        if ids.numel() > 10:
            raise torch.OutOfMemoryError("out of memory")

    with hooked(loaded, fail):
        long, short = run(loaded, [("a " * 20, {}), ("a", {})])
        assert_same(short, loaded.pipe("a"))
    assert isinstance(long, InferenceFailed)
    assert isinstance(long.__cause__, torch.OutOfMemoryError)
    assert long.__cause__.__traceback__ is None  # it would keep what the pass had computed


def test_a_long_batch_tells_between_its_passes_that_it_goes_on(pipeline_of: Callable[[str], LoadedPipeline]) -> None:
    loaded = pipeline_of("text-classification")
    told: list[int] = []
    loaded.passes.on_progress, loaded.passes.max_tokens = lambda: told.append(len(rows)), 10
    with hooked(loaded, lambda ids: None) as rows:
        run(loaded, [(f"a b {last}", {}) for last in "cdefg"])
        assert (rows, told) == ([2, 2, 1], [1, 2])
        run(loaded, [("a", {})])
        assert told == [1, 2]
    loaded.passes.on_progress, loaded.passes.max_tokens = lambda: None, 16_384


@pytest.mark.parametrize(("fast", "padding"), [(False, 3), (True, 0)])
def test_the_padding_that_a_batch_computed_is_counted(
    fast: bool, padding: int, model_of: Callable[[str], Path]
) -> None:
    loaded = open_pipeline(model_of("text-classification"))
    if fast:
        sped_up(loaded)
    run(loaded, [("a", {}), ("a b c d", {}), ("a b c d", {})])
    assert loaded.passes.padding_tokens == padding


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
    assert loaded.prepare.max_tokens == 8


def test_a_model_that_fails_at_the_start_is_a_configuration_error(model_of: Callable[[str], Path]) -> None:
    def fail(ids: torch.Tensor) -> None:
        raise RuntimeError("no kernel image for this device")

    loaded = open_pipeline(model_of("fill-mask"))
    with hooked(loaded, fail), pytest.raises(ConfigurationError, match="fails on a plain input: no kernel image"):
        loaded.warm_up()


def test_every_task_of_the_contract_is_tested_here() -> None:
    assert (
        set(CLASSES)
        == set(PARAMETERS)
        == {name for name, task in TASKS.items() if task.takes == "text"} - {"text-generation"}
    )
    assert set(LABELS) <= set(TASKS)
