"""Spans as an SDK of OpenTelemetry gets them. Once one is set up in a process, it stays."""

import time

import pytest
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.starlette import StarletteInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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


@pytest.mark.parametrize("kind", [SpanKind.SERVER, SpanKind.INTERNAL])
def test_inside_the_span_of_an_instrumentation_there_is_no_second_servers_span(
    kind: SpanKind, exporter: InMemorySpanExporter
) -> None:
    now = time.perf_counter()
    with trace.get_tracer("instrumentation").start_as_current_span("theirs", Context(), kind):
        traces.record({}, "ours", {"http.route": "/"}, (now - 2, now), {"queue": (now - 1, now)}, failed=True)
    found = spans(exporter)
    joined = found["theirs" if kind == SpanKind.SERVER else "ours"]
    assert set(found) == {"theirs", "queue"} | ({"ours"} if kind == SpanKind.INTERNAL else set())
    assert [span.name for span in found.values() if span.kind == SpanKind.SERVER] == ["theirs"][
        : kind == SpanKind.SERVER
    ]
    assert parent_id(found["queue"]) == joined.context.span_id
    assert (joined.attributes, joined.status.status_code) == ({"http.route": "/"}, StatusCode.ERROR)
    assert {span.context.trace_id for span in found.values()} == {joined.context.trace_id}


def test_a_span_in_another_trace_than_the_callers_is_not_of_this_request(exporter: InMemorySpanExporter) -> None:
    now = time.perf_counter()
    with trace.get_tracer("operator").start_as_current_span("start of the server", Context()):
        traces.record({"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"}, "ours", {}, (now - 1, now), {}, failed=False)
    ours = spans(exporter)["ours"]
    assert (f"{ours.context.trace_id:032x}", ours.kind) == (TRACE_ID, SpanKind.SERVER)


def test_probes_that_succeed_are_not_traced(exporter: InMemorySpanExporter) -> None:
    with TestClient(create_app(Settings(), FakeRunner())) as client:
        for path in ("/health", "/ready", "/metrics"):
            client.get(path)
        client.get("/info")
    assert set(spans(exporter)) == {"GET /info"}


class Instrumentation:
    """A middleware that has each request in a span, and ends it as soon as the response is sent."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        caller = propagate.extract(Headers(scope=scope), Context())
        span = trace.get_tracer("instrumentation").start_span("theirs", caller, SpanKind.SERVER)

        async def send_and_end(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                span.end()

        with trace.use_span(span):
            await self.app(scope, receive, send_and_end)


def instrumented(app: Starlette, way: str) -> ASGIApp:
    if way == "by itself":
        return Instrumentation(app)
    if way == "opentelemetry-instrumentation-starlette":
        StarletteInstrumentor.instrument_app(app)
        return app
    outside: ASGIApp = OpenTelemetryMiddleware(app)
    return outside


@pytest.mark.parametrize(
    "way", ["by itself", "opentelemetry-instrumentation-asgi", "opentelemetry-instrumentation-starlette"]
)
@pytest.mark.parametrize("caller", [{}, {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"}])
def test_beside_an_instrumentation_a_request_is_one_servers_span_in_one_trace(
    way: str, caller: dict[str, str], exporter: InMemorySpanExporter
) -> None:
    with TestClient(instrumented(create_app(Settings(), FakeRunner()), way)) as client:
        assert client.post("/", content=b"a", headers=caller).status_code == 200
    found = [span for span in exporter.get_finished_spans() if span.name != "lifespan"]
    exporter.clear()
    (whole,) = [span for span in found if span.kind == SpanKind.SERVER]
    parts = {span.name: span for span in found if span.name in {"queue", "model"}}
    assert {name: parent_id(span) for name, span in parts.items()} == dict.fromkeys(
        ("queue", "model"), whole.context.span_id
    )
    assert len({span.context.trace_id for span in found}) == 1
    assert (whole.attributes or {})["http.route"] == "/"


def parent_id(span: ReadableSpan) -> int | None:
    return span.parent and span.parent.span_id


def test_periods_are_converted_to_the_time_of_day(exporter: InMemorySpanExporter) -> None:
    now, wall_ns = time.perf_counter(), time.time_ns()
    traces.record({}, "whole", {}, (now - 2, now), {"part": (now - 1.5, now - 1)}, failed=False)
    found = spans(exporter)
    assert found["whole"].end_time == pytest.approx(wall_ns, abs=1e9)
    for name, seconds in (("whole", 2), ("part", 0.5)):
        assert found[name].end_time - found[name].start_time == pytest.approx(seconds * 1e9, abs=1e6)  # type: ignore[operator]
    assert found["whole"].parent is None
