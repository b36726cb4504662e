"""Where a request's time went: in its `Server-Timing` header, its log line and its spans.

It must never know the queue, or why something took long.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline_webserver.scheduling.entry import Result
from pipeline_webserver.telemetry.traces import Period


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds in the queue and in the model, and the size of the largest batch; 0 where the model saw no input.

    `submitted_at` is in seconds of `time.perf_counter()`.
    """

    submitted_at: float
    queue_s: float
    model_s: float
    batch_size: int


def timing_of(submitted_at: float, results: Sequence[Result]) -> Timing:
    """The timing of a request by the results of its inputs: the times of the slowest, and the largest batch."""
    slowest = max(results, key=lambda result: result.queue_s + result.model_s)
    largest = max(result.batch_size for result in results)
    return Timing(submitted_at, slowest.queue_s, slowest.model_s, largest)


def server_timing(timing: Timing, total_s: float) -> str:
    """The value of the `Server-Timing` header, in milliseconds."""
    times = {"queue": timing.queue_s, "model": timing.model_s, "total": total_s}
    durations = ", ".join(f"{name};dur={1000 * seconds:.2f}" for name, seconds in times.items())
    return f'{durations}, batch;desc="{timing.batch_size}"'


def log_fields(timing: Timing | None) -> dict[str, float]:
    """For the log line; nothing where the model saw no input."""
    if timing is None or not timing.batch_size:
        return {}
    return {
        "queue_ms": round(1000 * timing.queue_s, 2),
        "model_ms": round(1000 * timing.model_s, 2),
        "batch_size": timing.batch_size,
    }


def spans(timing: Timing | None) -> dict[str, Period]:
    """When each part began and ended, in seconds of `time.perf_counter()`; nothing where the model saw no input."""
    if timing is None or not timing.batch_size:
        return {}
    started_at = timing.submitted_at + timing.queue_s
    return {"queue": (timing.submitted_at, started_at), "model": (started_at, started_at + timing.model_s)}
