"""Where a request's time went, for its header, its log line and its spans."""

import re

from starlette.testclient import TestClient

from pipeline_webserver.scheduling.entry import Result
from pipeline_webserver.web.timing import Timing, log_fields, server_timing, spans, timing_of

TIMING = Timing(submitted_at=100, queue_s=0.5, model_s=0.25, batch_size=8)
NOT_IN_THE_MODEL = Timing(submitted_at=100, queue_s=0, model_s=0, batch_size=0)


def test_of_several_inputs_it_is_the_slowest_and_the_largest_batch() -> None:
    results = [Result("a", None, 1, 2, 4), Result("b", None, 3, 1, 8), Result("c", None, 0, 1, 2)]
    assert timing_of(100, results) == Timing(100, 3, 1, 8)


def test_the_header_is_in_milliseconds() -> None:
    assert server_timing(TIMING, 0.8) == 'queue;dur=500.00, model;dur=250.00, total;dur=800.00, batch;desc="8"'


def test_the_log_has_milliseconds_and_the_spans_have_when_each_part_began_and_ended() -> None:
    assert log_fields(TIMING) == {"queue_ms": 500, "model_ms": 250, "batch_size": 8}
    assert spans(TIMING) == {"queue": (100, 100.5), "model": (100.5, 100.75)}


def test_there_is_nothing_to_report_where_the_model_saw_no_input() -> None:
    for timing in (None, NOT_IN_THE_MODEL):
        assert (log_fields(timing), spans(timing)) == ({}, {})


def test_an_answer_from_the_model_carries_its_timing(client: TestClient) -> None:
    number = r"\d+\.\d\d"
    timing = client.post("/", json={"inputs": ["a", "b", "c"]}).headers["server-timing"]
    assert re.fullmatch(rf'queue;dur={number}, model;dur={number}, total;dur={number}, batch;desc="3"', timing)
    assert "server-timing" not in client.get("/health").headers
