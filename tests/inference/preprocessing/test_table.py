"""Tables with a question: what is too much or no table is refused before computing."""

from collections.abc import Callable
from typing import Any

import pytest

from pipeline_webserver.errors import Rejected, TooLarge
from pipeline_webserver.inference.pipeline_runner import LoadedPipeline
from tests.support.pipelines import Parameters, run

TASK = "table-question-answering"
WITH_AND_WITHOUT_CUTTING: list[Parameters] = [{}, {"truncation": False}]


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
def test_what_cannot_be_asked_is_refused(
    table: Any, query: str, error: type[Exception], words: str, pipeline_of: Callable[[str], LoadedPipeline]
) -> None:
    (result,) = pipeline_of(TASK).prepare([({"table": table, "query": query}, {})])
    assert type(result) is error
    assert words in str(result)


def test_a_table_that_may_not_be_cut_is_refused_if_it_is_too_long(
    pipeline_of: Callable[[str], LoadedPipeline],
) -> None:
    table = {"name": ["one two three four"] * 200}
    cut, whole = run(
        pipeline_of(TASK),
        [({"table": table, "query": "how many ?"}, some) for some in WITH_AND_WITHOUT_CUTTING],
    )
    assert set(cut) == {"answer", "coordinates", "cells", "aggregator"}
    assert isinstance(whole, TooLarge)
    assert str(whole).endswith("tokens; the model takes at most 512.")


def test_a_table_is_computed_by_itself_and_an_equal_one_with_it(pipeline_of: Callable[[str], LoadedPipeline]) -> None:
    loaded = pipeline_of(TASK)
    passes: list[int] = []
    one = loaded.passes.one
    loaded.passes.one = lambda rows: (passes.append(len(rows)), one(rows))[1]  # type: ignore[func-returns-value,method-assign]
    question = {"table": {"a": ["1", "2"]}, "query": "how many ?"}
    results = run(loaded, [(question, {}), (dict(question), {}), (question | {"query": "which ?"}, {})])
    assert passes == [1, 1]
    assert results[0] == results[1]
