"""The report: `results.md` from the results of a run. `python -m benchmarks.report FOLDER` writes it again.

Owns the tables and the form of numbers in them; pure but for `write`. It must never know how anything was measured.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.figures import Spread, spread
from benchmarks.noise import QUIET_CORES
from benchmarks.results import ModelResult, Results, Soak, SubjectResult, read
from benchmarks.subjects import DIRECT, NAIVE, NAIVE_BATCHING, OFFLINE, OURS, SERVERS
from benchmarks.workloads import ALONE, BATCH_SIZES, CLOSED, FULL, OPEN, Open, batches_of

NOTHING = "-"
LAST_OPEN = OPEN[-1]

# Numbers


def number(value: float | None) -> str:
    """About three digits."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def latency(subject: SubjectResult, workload: str) -> str:
    p50, p99 = (subject.median(workload, figure) for figure in ("p50_ms", "p99_ms"))
    return NOTHING if p50 is None else f"{number(p50)} / {number(p99)}"


def ratio(spread: Spread | None) -> str:
    return NOTHING if spread is None else f"{spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The first column is text, the others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# Picking


def servers(model: ModelResult) -> list[SubjectResult]:
    return [subject for name in SERVERS if (subject := model.find(name)) is not None]


def open_name(subject: str, workload: Open) -> str:
    """The naive server's own capacity is the naive one, and was measured once."""
    return Open(workload.share, of_naive=True).name if subject == NAIVE else workload.name


def best_batches(subject: SubjectResult) -> str:
    """The batch size with the best throughput, as a workload."""
    return max((batches_of(size) for size in BATCH_SIZES), key=lambda name: subject.median(name, "texts_per_s") or 0.0)


# Sections


def in_short(results: Results) -> str:
    """One line a model."""
    head = ["texts/s, 32 clients", OURS, NAIVE, NAIVE_BATCHING, f"{OURS} by naive"]
    head += [f"p50 / p99 ms at {LAST_OPEN.name}: {name}" for name in (OURS, NAIVE)]
    rows = []
    for model in results.models:
        subjects = [model.find(name) for name in (OURS, NAIVE, NAIVE_BATCHING)]
        rates = [number(one.median(FULL.name, "texts_per_s")) if one else NOTHING for one in subjects]
        waits = [latency(one, LAST_OPEN.name) if one else NOTHING for one in subjects[:2]]
        rows.append([model.name, *rates, ratio(model.ratio(OURS, FULL.name, "texts_per_s", NAIVE)), *waits])
    return table(head, rows)


def closed_loop(model: ModelResult) -> str:
    head = ["", *(f"{name}, {unit}" for name in (w.name for w in CLOSED) for unit in ("texts/s", "p50 / p99 ms"))]
    rows = []
    for subject in servers(model):
        cells = [(number(subject.median(w.name, "texts_per_s")), latency(subject, w.name)) for w in CLOSED]
        rows.append([subject.name, *(text for cell in cells for text in cell), number(subject.rss_mb)])
    return table([*head, "memory, MB"], rows)


def without_server(model: ModelResult) -> str:
    rows = []
    for name in (DIRECT, OFFLINE):
        if (subject := model.find(name)) is not None:
            workload = ALONE if name == DIRECT else best_batches(subject)
            against = ratio(model.ratio(name, workload, "texts_per_s", NAIVE, FULL.name))
            rate = number(subject.median(workload, "texts_per_s"))
            rows.append([f"{name}: {workload}", rate, latency(subject, workload), against, number(subject.rss_mb)])
    against_naive = f"texts/s by {NAIVE}, {FULL.name}"
    return table(["", "texts/s", "p50 / p99 ms of a call", against_naive, "memory, MB"], rows)


def against_naive(model: ModelResult) -> str:
    pairs = [(figure, workload.name) for figure in ("texts_per_s", "p99_ms") for workload in CLOSED]
    head = [f"by {NAIVE}", *(f"{'texts/s' if f == 'texts_per_s' else 'p99'}, {name}" for f, name in pairs)]
    others = [subject.name for subject in servers(model) if subject.name != NAIVE]
    return table(head, ([name, *(ratio(model.ratio(name, w, f, NAIVE)) for f, w in pairs)] for name in others))


def open_loop(model: ModelResult) -> str:
    rows = []
    for subject in servers(model):
        names = [open_name(subject.name, workload) for workload in OPEN]
        rates = [subject.median(name, "rate_per_s") for name in names]
        cells = [f"{number(rate)}/s: {latency(subject, name)}" for rate, name in zip(rates, names, strict=True)]
        rows.append([subject.name, *cells])
    return table(["rate: p50 / p99 ms", *(workload.name for workload in OPEN)], rows)


def differences(model: ModelResult) -> str:
    compared = [(subject.name, subject.difference) for subject in model.subjects if subject.difference]
    rows = [[name, f"{d.worst:.1e}", f"{d.same_top} of {d.texts}"] for name, d in compared]
    return table(["answers against `pipe(text)`'s", "worst difference of a score", "same top answer"], rows)


def problems_of(model: ModelResult) -> list[str]:
    """Every failure and every error of a model's subjects."""
    lines = []
    for subject in model.subjects:
        name = f"{model.name}, {subject.name}"
        if subject.failure is not None:
            lines.append(failed(name, subject.failure))
        for m in subject.measurements:
            if m.errors:
                lines.append(f"{name}, {m.workload}, round {m.round + 1}: {m.errors} errors, e.g. `{m.first_error}`")
    return lines


def failed(name: str, failure: str) -> str:
    return f"{name} FAILED:\n\n```text\n{failure}\n```"


def problems(results: Results) -> str:
    """Every failure and every error, or an empty string."""
    lines = [line for model in results.models for line in problems_of(model)]
    if results.soak is not None and results.soak.failure is not None:
        lines.append(failed("soak", results.soak.failure))
    if results.soak is not None and results.soak.errors:
        lines.append(f"soak: {results.soak.errors} errors, e.g. `{results.soak.first_error}`")
    return "\n\n".join(["## THIS RUN HAD ERRORS", *lines]) if lines else ""


def soak(result: Soak) -> str:
    memory = [number(value) for value in (result.first_mb, result.last_mb, result.max_mb)]
    slopes = [f"{value:+.2f}" for value in (result.mb_per_minute, result.late_mb_per_minute)]
    row = [result.model, number(result.seconds), number(result.texts_per_s), str(result.errors), *memory, *slopes]
    head = [f"{OURS}, {result.clients} clients", "seconds", "texts/s", "errors"]
    head += [f"{when}, MB" for when in ("first", "last", "most")]
    return table([*head, "MB a minute", "the same, second half"], [row])


def noise_of(results: Results) -> str:
    """The load of other processes, loudly if it was too high."""
    everything = [m for model in results.models for subject in model.subjects for m in subject.measurements]
    taken = spread([m.others_cores for m in everything if m.others_cores is not None])
    if taken is None:
        return "How much else the machine had to do is not known."
    noise = f"Meanwhile others took {taken.median:.2f} cores (median of all measurements; at most {taken.high:.2f})."
    if taken.median <= QUIET_CORES:
        return noise
    return f"**THE MACHINE WAS NOT QUIET, so the figures mean little.** {noise}"


def hardware(results: Results) -> str:
    """In one line."""
    m = results.machine
    memory = "memory unknown" if m.memory_gb is None else f"{m.memory_gb:.0f} GB"
    return (
        f"{m.processor}, {m.cores} cores, {memory}, {' '.join(m.instructions) or 'no vector flags known'}; {m.system}"
    )


def software(results: Results) -> str:
    """In one line."""
    return ", ".join(f"{name} {version}" for name, version in results.versions.items())


# The whole


def model_sections(model: ModelResult) -> list[str]:
    sections = [
        f"## {model.name}",
        f"{model.description[:1].upper()}{model.description[1:]}; `{model.task}`.",
        "### Closed loop",
        closed_loop(model),
        "### Against the naive server, round by round",
        against_naive(model),
        "### Open loop, latency from when a request was due",
        open_loop(model),
        "### Without a server",
        without_server(model),
    ]
    return [*sections, "### Answers", differences(model)] if any(s.difference for s in model.subjects) else sections


def render(results: Results) -> str:
    """The whole report, in Markdown."""
    rounds = f"{results.rounds} round{'s' * (results.rounds != 1)} of {results.seconds:g} s"
    sections = ["# Benchmarks", problems(results), f"Of {results.date}."]
    if results.models:
        sections += [f"Medians of {rounds}; in brackets, lowest to highest. {noise_of(results)}", in_short(results)]
    for model in results.models:
        sections += model_sections(model)
    if results.soak is not None:
        sections += ["## Soak", soak(results.soak)]
    sections += ["## Machine and versions", f"{hardware(results)}.", f"{software(results)}."]
    return "\n\n".join(section for section in sections if section) + "\n"


def write(results: Results, folder: Path) -> None:
    (folder / "results.md").write_text(render(results), "utf-8")


if __name__ == "__main__":
    write(read(Path(sys.argv[1]) / "results.json"), Path(sys.argv[1]))
