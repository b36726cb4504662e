"""The results of a run: the figures of every measurement, and the file that holds them.

Owns the form of `results.json`. It must never know how a figure was measured, nor how it is shown.
"""

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from benchmarks.figures import Spread, milliseconds, percentile, ratios, spread
from benchmarks.load import Tally


@dataclass(frozen=True, slots=True)
class Measurement:
    """One subject under one workload in one round.

    `rate_per_s` is the planned rate of an open loop, `late_p99_ms` how late the generator was in sending it, and
    `others_cores` how many cores other processes took.
    """

    workload: str
    round: int
    texts_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    answers: int
    seconds: float
    errors: int = 0
    first_error: str | None = None
    rate_per_s: float | None = None
    late_p99_ms: float | None = None
    others_cores: float | None = None


def measurement_of(
    tally: Tally, workload: str, turn: int, rate_per_s: float | None = None, others_cores: float | None = None
) -> Measurement:
    return Measurement(
        workload,
        turn,
        tally.per_second,
        milliseconds(percentile(tally.latencies_s, 0.5)),
        milliseconds(percentile(tally.latencies_s, 0.99)),
        len(tally.latencies_s),
        tally.elapsed_s,
        tally.errors,
        tally.first_error,
        rate_per_s,
        milliseconds(percentile(tally.late_s, 0.99)),
        others_cores,
    )


@dataclass(frozen=True, slots=True)
class Difference:
    """How a server's answers differ from `pipe(text)`'s: over so many texts, the worst score, and the same top ones."""

    texts: int
    worst: float
    same_top: int


@dataclass(slots=True)
class SubjectResult:
    """The figures of one subject; `failure` is why it did not start, or ended, with the last lines of its log."""

    name: str
    rss_mb: float | None = None
    failure: str | None = None
    difference: Difference | None = None
    measurements: list[Measurement] = field(default_factory=list)

    def of(self, workload: str, figure: str) -> list[float | None]:
        """A figure of each round."""
        values: list[float | None] = [getattr(m, figure) for m in self.measurements if m.workload == workload]
        return values

    def median(self, workload: str, figure: str) -> float | None:
        over_rounds = spread([value for value in self.of(workload, figure) if value is not None])
        return None if over_rounds is None else over_rounds.median


@dataclass(slots=True)
class ModelResult:
    name: str
    task: str
    description: str
    subjects: list[SubjectResult] = field(default_factory=list)

    def find(self, subject: str) -> SubjectResult | None:
        return next((result for result in self.subjects if result.name == subject), None)

    def ratio(self, subject: str, workload: str, figure: str, to: str, to_workload: str | None = None) -> Spread | None:
        """One subject's figure by another's, round by round."""
        one, other = self.find(subject), self.find(to)
        if one is None or other is None:
            return None
        return ratios(one.of(workload, figure), other.of(to_workload or workload, figure))


@dataclass(frozen=True, slots=True)
class Soak:
    """One server under full load for long; samples are seconds and megabytes. `late_` is of the second half."""

    model: str
    clients: int
    seconds: float
    texts_per_s: float
    errors: int
    first_error: str | None
    samples: list[tuple[float, float]]
    first_mb: float | None
    last_mb: float | None
    max_mb: float | None
    mb_per_minute: float
    late_mb_per_minute: float
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    processor: str
    cores: int
    memory_gb: float | None
    instructions: list[str]
    system: str


@dataclass(slots=True)
class Results:
    date: str
    seconds: float
    rounds: int
    machine: Machine
    versions: dict[str, str]
    models: list[ModelResult] = field(default_factory=list)
    soak: Soak | None = None


FORM = TypeAdapter(Results)


def save(results: Results, path: Path) -> None:
    path.write_bytes(FORM.dump_json(results, indent=1))


def read(path: Path) -> Results:
    return FORM.validate_json(path.read_bytes())
