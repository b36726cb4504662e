"""Tables with a question: what is too much or no table is an error before computing."""

from collections.abc import Callable
from typing import Any

import pytest

from pipeline_webserver.errors import Rejected, TooLarge
from pipeline_webserver.inference.pipeline_runner import PipelineRunner
from tests.support.pipelines import Parameters, count_rows, run

TASK = "table-question-answering"
WITH_AND_WITHOUT_TRUNCATION: list[Parameters] = [{}, {"truncation": False}]


@pytest.mark.parametrize(
    ("table", "query", "error", "words"),
    [
        ({"a": ["1"] * 4097}, "?", TooLarge, "has 4097 cells of 4099 characters; the server takes 4096 and 65536."),
        ({"a": ["x" * 65_536]}, "?", TooLarge, "has 1 cells of 65538 characters; the server takes 4096 and 65536."),
        ({"a": ["1"] * 300}, "how many ?", TooLarge, "the model takes at most 255 rows and 255 columns."),
        ({"a": ["1", "2"], "b": ["1"]}, "how many ?", Rejected, "All arrays must be of the same length"),
        ({}, "how many ?", Rejected, "table is empty"),
        ({"a": []}, "how many ?", Rejected, "table is empty"),
        ({"a": ["1"]}, "", Rejected, "query is empty"),
        ({"": [""]}, "how many ?", Rejected, "The table has no words."),
    ],
)
def test_a_table_that_cannot_be_computed_is_an_error(
    table: Any, query: str, error: type[Exception], words: str, pipeline_of: Callable[[str], PipelineRunner]
) -> None:
    (result,) = pipeline_of(TASK).preprocess([({"table": table, "query": query}, {})])
    assert type(result) is error
    assert words in str(result)


def test_a_table_that_may_not_be_truncated_is_an_error_if_it_is_too_long(
    pipeline_of: Callable[[str], PipelineRunner],
) -> None:
    table = {"name": ["one two three four"] * 200}
    truncated, whole = run(
        pipeline_of(TASK),
        [({"table": table, "query": "how many ?"}, some) for some in WITH_AND_WITHOUT_TRUNCATION],
    )
    assert set(truncated) == {"answer", "coordinates", "cells", "aggregator"}
    assert isinstance(whole, TooLarge)
    assert str(whole).endswith("tokens; the model takes at most 512.")


def test_a_table_is_computed_by_itself_and_an_equal_one_with_it(pipeline_of: Callable[[str], PipelineRunner]) -> None:
    runner = pipeline_of(TASK)
    question = {"table": {"a": ["1", "2"]}, "query": "how many ?"}
    with count_rows(runner) as rows:
        results = run(runner, [(question, {}), (dict(question), {}), (question | {"query": "which ?"}, {})])
    assert rows == [1, 1]
    assert results[0] == results[1]
