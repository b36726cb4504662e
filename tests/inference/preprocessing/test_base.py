"""Each input by itself: what it is turned into, or the error that is its own."""

from typing import Any

import pytest
from transformers.pipelines.base import PipelineException

from pipeline_webserver.errors import InferenceFailed, Rejected, TooLarge
from pipeline_webserver.inference.preprocessing.base import failed, own_error
from tests.support.pipelines import Panic


def raising(error: BaseException) -> Any:
    def step() -> None:
        raise error

    return step


def test_a_step_that_works_gives_what_it_makes() -> None:
    assert own_error(lambda a, b: a + b, 1, 2) == 3


@pytest.mark.parametrize(
    "error", [ValueError("why"), TypeError("why"), KeyError("why"), PipelineException("task", "model", "why")]
)
def test_what_a_pipeline_raises_for_an_input_is_the_clients_fault_in_its_words(error: Exception) -> None:
    result = own_error(raising(error))
    assert isinstance(result, Rejected)
    assert str(result).strip("'") == "why"


def test_an_error_without_words_is_told_by_its_name() -> None:
    assert str(own_error(raising(ValueError()))) == "ValueError"


def test_an_error_of_ours_stays_what_it_is() -> None:
    error = TooLarge("too large")
    assert own_error(raising(error)) is error


@pytest.mark.parametrize("error", [RuntimeError("a path"), Panic("at lib.rs")])
def test_whatever_else_is_raised_is_the_servers_fault_and_its_words_are_for_the_log(error: BaseException) -> None:
    result = own_error(raising(error))
    assert isinstance(result, InferenceFailed)
    assert (str(result), result.__cause__) == ("This input could not be prepared.", error)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit()])
def test_who_ends_the_process_is_not_held_up(error: BaseException) -> None:
    with pytest.raises(type(error)):
        own_error(raising(error))


def test_a_failure_keeps_its_cause() -> None:
    cause = RuntimeError("why")
    assert failed("It failed.", cause).__cause__ is cause
