"""Each input alone: what it becomes, or the error that is its own."""

from collections.abc import Callable
from typing import Any

import pytest
from transformers.pipelines.base import PipelineException

from pipeline_webserver.errors import InferenceFailed, Rejected, TooLarge
from pipeline_webserver.inference.model_inputs import PreparedInput
from pipeline_webserver.inference.pipeline_runner import PipelineRunner
from pipeline_webserver.inference.preprocessing.base import inference_failed, or_input_error
from tests.support.compare import assert_same
from tests.support.pipelines import Panic, Parameters, run


def raising(error: BaseException) -> Any:
    def step() -> None:
        raise error

    return step


def test_a_step_that_succeeds_returns_its_value() -> None:
    assert or_input_error(lambda a, b: a + b, 1, 2) == 3


@pytest.mark.parametrize(
    "error", [ValueError("why"), TypeError("why"), KeyError("why"), PipelineException("task", "model", "why")]
)
def test_what_a_pipeline_raises_for_an_input_is_the_clients_fault_in_the_pipelines_words(error: Exception) -> None:
    result = or_input_error(raising(error))
    assert isinstance(result, Rejected)
    assert str(result).strip("'") == "why"


def test_an_error_without_a_message_is_named_by_its_class() -> None:
    assert str(or_input_error(raising(ValueError()))) == "ValueError"


def test_an_error_of_the_servers_own_is_returned_as_it_is() -> None:
    error = TooLarge("too large")
    assert or_input_error(raising(error)) is error


@pytest.mark.parametrize("error", [RuntimeError("a path"), Panic("at lib.rs")])
def test_any_other_error_is_the_servers_fault_and_its_message_is_for_the_log(error: BaseException) -> None:
    result = or_input_error(raising(error))
    assert isinstance(result, InferenceFailed)
    assert (str(result), result.__cause__) == ("This input could not be prepared.", error)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit()])
def test_what_ends_the_process_is_raised(error: BaseException) -> None:
    with pytest.raises(type(error)):
        or_input_error(raising(error))


def test_a_failure_keeps_its_cause() -> None:
    cause = RuntimeError("why")
    assert inference_failed("It failed.", cause).__cause__ is cause


def test_a_bad_input_fails_alone_in_the_pipelines_words(pipeline_of: Callable[[str], PipelineRunner]) -> None:
    runner = pipeline_of("fill-mask")
    good: list[tuple[str, Parameters]] = [("a [MASK]", {}), ("paris is the [MASK] of france", {"top_k": 1})]
    first, bad, second = run(runner, [good[0], ("no mask", {}), good[1]])
    assert isinstance(bad, Rejected)
    assert str(bad) == "No mask_token ([MASK]) found on the input"
    assert_same([first, second], run(runner, good))


def test_inputs_have_equal_keys_where_their_results_are_equal(pipeline_of: Callable[[str], PipelineRunner]) -> None:
    inputs: list[tuple[Any, Parameters]] = [
        ("a [MASK]", {"top_k": 1, "targets": ["b"]}),
        ("a [MASK]", {"targets": ["b"], "top_k": 1}),
        ("b [MASK]", {"top_k": 1, "targets": ["b"]}),
        ("a [MASK]", {"top_k": 1}),
    ]
    keys = [item.dedup_key for item in pipeline_of("fill-mask").preprocess(inputs) if isinstance(item, PreparedInput)]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
