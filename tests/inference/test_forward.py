"""Forward passes: which are run, what happens when one fails, and what is reported of them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline_webserver.errors import InferenceFailed
from pipeline_webserver.inference import forward
from pipeline_webserver.inference.acceleration.base import encoder_layers
from pipeline_webserver.inference.forward import (
    ProgressCallback,
    is_out_of_memory,
    seeded,
)
from pipeline_webserver.inference.pipeline_runner import PipelineRunner
from pipeline_webserver.telemetry import metrics
from tests.support.compare import assert_same
from tests.support.models import make_model
from tests.support.pipelines import Parameters, accelerated, count_rows, hooked, open_pipeline, prepare, run, share_all

# Eight inputs of five tokens.
INPUTS: list[tuple[str, Parameters]] = [(f"a b {last}", {}) for last in "cdefghij"]


@pytest.fixture(scope="module")
def untouched(pipeline_of: Callable[[str], PipelineRunner]) -> PipelineRunner:
    return pipeline_of("text-classification")


@pytest.fixture
def runner(model_of: Callable[[str], Path]) -> PipelineRunner:
    return open_pipeline(model_of("text-classification"))


# Running


def test_model_inputs_of_one_key_share_passes_and_outputs_come_in_the_order_of_inputs(
    untouched: PipelineRunner,
) -> None:
    inputs = [row for text in ("a b c", "d", "e f", "g") for row in prepare(untouched, text).model_inputs]
    inputs[1].batch_key = inputs[3].batch_key = "another"
    with count_rows(untouched) as rows:
        outputs = untouched.forward.run(inputs)
    assert rows == [2, 2]
    for model_input, output in zip(inputs, outputs, strict=True):
        assert_same(output["logits"].tolist(), untouched.forward.forward([model_input])[0]["logits"].tolist())


def test_as_many_labels_as_tokens_are_not_taken_for_padding(tmp_path: Path) -> None:
    texts = ["a", "one two three four five six"]
    labels = [f"label {number}" for number in range(8)]
    runner = open_pipeline(make_model("text-classification", tmp_path, labels))
    assert prepare(runner, texts[1]).tokens == len(labels)
    for text, result in zip(texts, run(runner, [(text, {"top_k": 8}) for text in texts]), strict=True):
        assert_same(result, runner.pipe(text, top_k=8))


def test_random_numbers_begin_at_a_seed_inside_and_continue_outside() -> None:
    torch.manual_seed(7)
    from_seven = torch.rand(2).tolist()
    torch.manual_seed(5)
    from_five = torch.rand(3).tolist()
    torch.manual_seed(5)
    outside = [torch.rand(1).item()]
    for _ in range(2):
        with seeded(7):
            assert torch.rand(2).tolist() == from_seven
        with seeded(None):
            outside.append(torch.rand(1).item())
    assert outside == from_five


# Heartbeats


def test_a_heartbeat_comes_after_each_pass(untouched: PipelineRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untouched.forward, "max_tokens", 10)
    prepared = [prepare(untouched, text) for text, _ in INPUTS[:5]]
    passes_at_heartbeats: list[int] = []
    with count_rows(untouched) as rows:
        untouched.run(prepared, lambda: passes_at_heartbeats.append(len(rows)))
    assert (rows, passes_at_heartbeats) == ([2, 2, 1], [1, 2, 3])


def test_a_heartbeat_comes_after_a_pass_that_fails_too(untouched: PipelineRunner) -> None:
    """Or a failed pass and its first half would count as one call that makes no progress."""

    def fail(ids: torch.Tensor) -> None:
        if len(ids) > 1:
            raise RuntimeError

    prepared = [prepare(untouched, text) for text, _ in INPUTS[:2]]
    passes_at_heartbeats: list[int] = []
    with hooked(untouched, fail) as rows:
        untouched.run(prepared, lambda: passes_at_heartbeats.append(len(rows)))
    assert (rows, passes_at_heartbeats) == ([2, 1, 1], [1, 2, 3])


def test_a_heartbeat_after_a_token_ends_no_sequence() -> None:
    calls: list[bool] = []
    ends = ProgressCallback(lambda: calls.append(True))(torch.zeros(3, 5, dtype=torch.long), None)
    assert (ends.tolist(), calls) == ([False] * 3, [True])


# Failures


@pytest.mark.parametrize("is_accelerated", [False, True])
def test_an_input_that_fails_fails_alone_and_its_neighbours_have_results(
    is_accelerated: bool, runner: PipelineRunner, untouched: PipelineRunner
) -> None:
    runner.warm_up(accelerate=False)
    share_all(runner)
    if is_accelerated:
        accelerated(runner)
    poison = runner.pipe.tokenizer.convert_tokens_to_ids("poison")

    def fail(ids: torch.Tensor) -> None:
        if (ids == poison).any():
            raise RuntimeError("the size of tensor a must match")

    texts = ["one", "two two", "three", "poison", "five", "six", "seven"]
    with hooked(runner, fail):
        results = run(runner, [(text, {}) for text in texts])
        alone = run(runner, [("poison", {})])
    assert isinstance(results[3], InferenceFailed)
    assert str(results[3].__cause__) == "the size of tensor a must match"
    assert isinstance(alone[0], InferenceFailed)  # one bad input alone does not mean that the model is broken
    for index in (0, 1, 2, 4, 5, 6):
        assert_same(results[index], untouched.pipe(texts[index]))


def test_one_chunk_that_fails_fails_its_input_only(pipeline_of: Callable[[str], PipelineRunner]) -> None:
    runner = pipeline_of("zero-shot-classification")
    poison = runner.pipe.tokenizer.convert_tokens_to_ids("poison")

    def fail(ids: torch.Tensor) -> None:
        if (ids == poison).any():
            raise RuntimeError

    with hooked(runner, fail):
        bad, good = run(runner, [("a", {"candidate_labels": ["b", "poison"]}), ("a", {"candidate_labels": ["b", "c"]})])
    assert isinstance(bad, InferenceFailed)
    assert_same(good, runner.pipe("a", candidate_labels=["b", "c"]))


def test_what_the_model_raises_is_raised_where_that_is_asked_for(untouched: PipelineRunner) -> None:
    def fail(ids: torch.Tensor) -> None:
        raise RuntimeError("why")

    inputs = prepare(untouched, "a").model_inputs
    with hooked(untouched, fail) as rows, pytest.raises(RuntimeError, match=r"^why$"):
        untouched.forward.run(inputs * 2, raise_errors=True)
    assert rows == [2]


# Memory


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("the size of tensor a must match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_pytorch_raises_when_memory_runs_out_is_recognized(error: Exception, is_memory: bool) -> None:
    assert is_out_of_memory(error) is is_memory


def test_when_memory_runs_out_smaller_passes_are_run_and_their_size_is_remembered(
    runner: PipelineRunner, caplog: pytest.LogCaptureFixture
) -> None:
    before = metrics.OUT_OF_MEMORY._value.get()

    def fail(ids: torch.Tensor) -> None:
        if len(ids) > 2:
            raise torch.OutOfMemoryError("out of memory")

    with hooked(runner, fail) as rows:
        results = run(runner, INPUTS)
        assert rows == [8, 4, 2, 2, 4, 2, 2]
        assert runner.forward.max_tokens == 10  # two rows of five
        assert "Out of memory with 20 tokens; the limit of a pass is now 10." in caplog.messages
        assert "A forward pass of 8 inputs failed (out of memory); retrying its halves." in caplog.messages
        assert metrics.OUT_OF_MEMORY._value.get() == before + 3
        assert_same(run(runner, INPUTS), results)
        assert rows[7:] == [2, 2, 2, 2]
    assert_same(results, [runner.pipe(text) for text, _ in INPUTS])


def test_after_many_passes_within_memory_larger_ones_are_tried_again(
    model_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = 10
    monkeypatch.setattr(forward, "PASSES_TO_GROW", passes)
    runner = open_pipeline(model_of("text-classification"), max_batch_tokens=64)
    is_memory_short = True

    def fail(ids: torch.Tensor) -> None:
        if is_memory_short and len(ids) > 2:
            raise torch.OutOfMemoryError("out of memory")

    with hooked(runner, fail):
        run(runner, INPUTS)
        assert runner.forward.max_tokens == 10
        is_memory_short, limits = False, []
        for count in (passes - 3, 1, passes, passes, passes):  # two succeeded already
            for _ in range(count):
                run(runner, [("a", {})])
            limits.append(runner.forward.max_tokens)
    assert limits == [10, 20, 40, 64, 64]


def test_one_text_that_does_not_fit_into_memory_fails_alone(runner: PipelineRunner) -> None:
    def fail(ids: torch.Tensor) -> None:
        if ids.numel() > 10:
            raise torch.OutOfMemoryError("out of memory")

    with hooked(runner, fail):
        long, short = run(runner, [("a " * 20, {}), ("a", {})])
        assert_same(short, runner.pipe("a"))
    assert isinstance(long, InferenceFailed)
    assert isinstance(long.__cause__, torch.OutOfMemoryError)
    assert long.__cause__.__traceback__ is None  # it would keep what the pass had computed


@pytest.mark.parametrize("task", ["fill-mask", "text-classification"])
def test_when_memory_runs_out_within_an_optimized_pass_smaller_passes_are_run(
    task: str, model_of: Callable[[str], Path], pipeline_of: Callable[[str], PipelineRunner]
) -> None:
    pipe = pipeline_of(task).pipe
    runner = accelerated(open_pipeline(model_of(task), task))

    def fail(module: torch.nn.Module, args: tuple[torch.Tensor]) -> None:
        if args[0].shape[1] > 2:  # one position of each text: this is behind the last layer's attention
            raise torch.OutOfMemoryError("out of memory")

    encoder_layers(runner.pipe.model)[-1].get_submodule("intermediate").register_forward_pre_hook(fail)
    texts = [f"{'a b ' * count} [MASK] c" for count in range(8)]
    with count_rows(runner) as rows:
        results = run(runner, [(text, {}) for text in texts])
    assert rows == [8, 4, 2, 2, 4, 2, 2]
    assert_same(results, [pipe(text) for text in texts])


@pytest.mark.parametrize(("is_accelerated", "padding"), [(False, 3), (True, 0)])
def test_the_padding_that_the_last_batch_computed_is_counted(
    is_accelerated: bool, padding: int, runner: PipelineRunner
) -> None:
    if is_accelerated:
        accelerated(runner)
    for _ in range(2):
        run(runner, [("a", {}), ("a b c d", {}), ("a b c e", {})])
        assert runner.forward.padding_tokens == padding
