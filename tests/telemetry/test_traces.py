"""Spans as an SDK of OpenTelemetry gets them. Once one is set up in a process, it stays."""

import time

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from starlette.testclient import TestClient

from config import Settings
from pipeline_webserver.telemetry import traces
from server import create_app
from tests.support.fakes import FakeRunner

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


def spans(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    found = {span.name: span for span in exporter.get_finished_spans()}
    exporter.clear()
    return found


def test_a_request_is_a_span_in_the_callers_trace_with_its_wait_and_its_batch_inside(
    exporter: InMemorySpanExporter,
) -> None:
    with TestClient(create_app(Settings(), FakeRunner())) as client:
        headers = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01", "X-Request-ID": "abc"}
        assert client.post("/", content=b"a", headers=headers).status_code == 200
    found = spans(exporter)
    assert set(found) == {"POST /", "queue", "model"}
    whole = found["POST /"]
    assert whole.kind == SpanKind.SERVER
    assert whole.parent is not None
    assert (f"{whole.parent.trace_id:032x}", f"{whole.parent.span_id:016x}") == (TRACE_ID, PARENT_ID)
    assert whole.attributes == {
        "http.request.method": "POST",
        "http.route": "/",
        "http.response.status_code": 200,
        "pipeline.request_id": "abc",
    }
    for part in (found["queue"], found["model"]):
        assert part.parent is not None
        assert part.parent.span_id == whole.context.span_id
        assert whole.start_time <= part.start_time <= part.end_time <= whole.end_time  # type: ignore[operator]


@pytest.mark.parametrize(
    ("text", "error_type", "status"),
    [(b"poison", "inference_failed", StatusCode.ERROR), (b"bad", "rejected", StatusCode.UNSET)],
)
def test_an_error_has_its_type_and_is_a_failure_if_it_is_the_servers(
    text: bytes, error_type: str, status: StatusCode, exporter: InMemorySpanExporter
) -> None:
    with TestClient(create_app(Settings(), FakeRunner())) as client:
        client.post("/", content=text)
    whole = spans(exporter)["POST /"]
    assert (whole.attributes or {})["error.type"] == error_type
    assert whole.status.status_code == status


def test_periods_are_converted_to_the_time_of_day(exporter: InMemorySpanExporter) -> None:
    now, wall_ns = time.perf_counter(), time.time_ns()
    traces.record({}, "whole", {}, (now - 2, now), {"part": (now - 1.5, now - 1)}, failed=False)
    found = spans(exporter)
    assert found["whole"].end_time == pytest.approx(wall_ns, abs=1e9)
    for name, seconds in (("whole", 2), ("part", 0.5)):
        assert found[name].end_time - found[name].start_time == pytest.approx(seconds * 1e9, abs=1e6)  # type: ignore[operator]
    assert found["whole"].parent is None
