"""OpenTelemetry spans of a request: the whole, its wait in the queue, its time in the model.

Through the API alone, which does nothing unless the process has an SDK; the trace of the caller is continued. Where an
instrumentation has the request in a span already, that one is the whole. It must never know HTTP, the queue or the model.
"""

import time
from collections.abc import Mapping

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, StatusCode

Period = tuple[float, float]
Attributes = Mapping[str, str | int]


def record(
    carrier: Mapping[str, str],
    name: str,
    attributes: Attributes,
    whole: Period,
    parts: Mapping[str, Period],
    *,
    failed: bool,
) -> None:
    """A span and one for each of its parts; periods are in seconds of `time.perf_counter()`.

    `carrier` holds the caller's trace context, as W3C's headers do.
    """
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return  # the process has no SDK
    active = trace.get_current_span()
    joined = getattr(active, "kind", None) == SpanKind.SERVER
    span = active if joined else _begin_whole(carrier, name, whole, active)
    span.set_attributes(attributes)
    if failed:
        span.set_status(StatusCode.ERROR)
    inside = trace.set_span_in_context(span)
    for part, period in parts.items():
        _begin(part, inside, SpanKind.INTERNAL, period).end(_wall_ns(period[1]))
    if not joined:
        span.end(_wall_ns(whole[1]))


def _begin_whole(carrier: Mapping[str, str], name: str, whole: Period, active: trace.Span) -> trace.Span:
    """A server's span in the caller's trace; inside the active span, if that is part of this request.

    It is not if the caller's trace is another one: then it is a span that the server was started in.
    """
    caller = propagate.extract(carrier, Context())
    trace_ids = [trace.get_current_span(caller).get_span_context().trace_id, active.get_span_context().trace_id]
    if trace_ids[1] and trace_ids[0] in {0, trace_ids[1]}:
        return _begin(name, trace.set_span_in_context(active), SpanKind.INTERNAL, whole)
    return _begin(name, caller, SpanKind.SERVER, whole)


def _begin(name: str, context: Context, kind: SpanKind, period: Period) -> trace.Span:
    tracer = trace.get_tracer("pipeline-webserver")
    return tracer.start_span(name, context, kind, start_time=_wall_ns(period[0]))


def _wall_ns(moment: float) -> int:
    return time.time_ns() - time.perf_counter_ns() + round(1e9 * moment)
