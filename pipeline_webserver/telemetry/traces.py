"""OpenTelemetry spans of a request: the whole, its wait in the queue, its time in the model.

Through the API alone, which does nothing unless the process has an SDK; the trace of the caller is continued. Where an
instrumentation has the request in a span already, that one is the whole. It must never know HTTP, the queue or the
model.
"""

import time
from collections.abc import Mapping

from opentelemetry import context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, StatusCode

Period = tuple[float, float]
Attributes = Mapping[str, str | int]


def annotate(attributes: Attributes, *, failed: bool) -> None:
    """Give the span of an instrumentation, if this request is in one, these attributes.

    To be called when the response starts: some instrumentations end the span as soon as it is sent.
    """
    if (span := _servers_span()) is not None and span.is_recording():
        _set(span, attributes, failed=failed)


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
    joined = _servers_span()
    span = joined or _begin_whole(carrier, name, whole)
    if span.is_recording():
        _set(span, attributes, failed=failed)
    inside = trace.set_span_in_context(span)
    for part, period in parts.items():
        _begin(part, inside, SpanKind.INTERNAL, period).end(_wall_ns(period[1]))
    if joined is None:
        span.end(_wall_ns(whole[1]))


def _servers_span() -> trace.Span | None:
    span = trace.get_current_span()
    return span if getattr(span, "kind", None) == SpanKind.SERVER else None


def _set(span: trace.Span, attributes: Attributes, *, failed: bool) -> None:
    span.set_attributes(attributes)
    if failed:
        span.set_status(StatusCode.ERROR)


def _begin_whole(carrier: Mapping[str, str], name: str, whole: Period) -> trace.Span:
    """A server's span in the caller's trace; inside the active span, if that is part of this request.

    It is not if the caller's trace is another one: then it is a span that the server was started in.
    """
    caller, here = propagate.extract(carrier, Context()), context.get_current()
    callers, active = (trace.get_current_span(found).get_span_context().trace_id for found in (caller, here))
    if active and callers in {0, active}:
        return _begin(name, here, SpanKind.INTERNAL, whole)
    return _begin(name, caller, SpanKind.SERVER, whole)


def _begin(name: str, around: Context, kind: SpanKind, period: Period) -> trace.Span:
    tracer = trace.get_tracer("pipeline-webserver")
    return tracer.start_span(name, around, kind, start_time=_wall_ns(period[0]))


def _wall_ns(moment: float) -> int:
    return time.time_ns() - time.perf_counter_ns() + round(1e9 * moment)
