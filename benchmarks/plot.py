"""The picture: `results.png` from the results of a run. `python -m benchmarks.plot FOLDER` draws it again.

Owns the drawing, and is the only file that needs matplotlib. It must never know how anything was measured.
"""

import sys
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from benchmarks.report import best_batches, hardware, number, software
from benchmarks.results import ModelResult, Results, SubjectResult, read
from benchmarks.subjects import DIRECT, NAIVE, NAIVE_BATCHING, OFFLINE, OURS, OURS_BFLOAT16
from benchmarks.workloads import ALONE, FULL, OPEN

COLOURS = {
    OURS: "#0b6e4f",
    OURS_BFLOAT16: "#4fa587",
    NAIVE: "#c8553d",
    NAIVE_BATCHING: "#e0a458",
    DIRECT: "#8d99ae",
    OFFLINE: "#c3cad6",
}
PAPER, INK, QUIET, FAINT = "#ffffff", "#22252a", "#565c66", "#d8dbe0"
STEADY = OPEN[-1].name
WIDTH_INCHES, ROW_INCHES, TITLE_INCHES, EDGES_INCHES = 13.5, 0.34, 0.8, 1.6
TITLE_POINTS = 14
BEHIND = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.5}  # of a number, so that no line of the grid crosses it


def subjects_of(model: ModelResult) -> list[SubjectResult]:
    return [subject for name in COLOURS if (subject := model.find(name)) is not None]


def workload_of(subject: SubjectResult) -> str:
    """The workload with the best throughput of a subject."""
    return {DIRECT: ALONE, OFFLINE: best_batches(subject)}.get(subject.name, FULL.name)


def label(axes: Axes, x: float, row: int, text: str, *, bold: bool) -> None:
    """Right of a bar or a point."""
    weight = "bold" if bold else "normal"
    axes.annotate(text, (x, row), (9, 0), textcoords="offset points", va="center", weight=weight, bbox=BEHIND)


def draw_throughput(axes: Axes, model: ModelResult) -> None:
    """A bar for each subject, with its ratio to the naive server."""
    for row, subject in enumerate(subjects_of(model)):
        rate = subject.median(workload_of(subject), "texts_per_s") or 0.0
        axes.barh(row, rate, height=0.72, color=COLOURS[subject.name])
        times = model.ratio(subject.name, workload_of(subject), "texts_per_s", NAIVE, FULL.name)
        ratio = "" if times is None or subject.name == NAIVE else f"   {times.median:.1f}x"
        label(axes, rate, row, f"{number(rate)}{ratio}", bold=subject.name == OURS)
    axes.set_yticks(range(len(subjects_of(model))), [subject.name for subject in subjects_of(model)])
    axes.set_title(f"{model.name}: {model.description}", loc="left", fontsize=TITLE_POINTS, weight="bold")
    axes.margins(x=0.3)


def draw_latency(axes: Axes, model: ModelResult) -> None:
    """From p50 to p99, at the same rate of arrivals for all."""
    for row, subject in enumerate(subjects_of(model)):
        p50, p99 = (subject.median(STEADY, figure) for figure in ("p50_ms", "p99_ms"))
        if p50 is not None and p99 is not None:
            colour = COLOURS[subject.name]
            axes.plot([p50, p99], [row, row], color=colour, linewidth=3)
            axes.plot([p50], [row], "o", color=colour, markersize=9)
            axes.plot([p99], [row], "o", color=colour, markersize=9, markerfacecolor=PAPER, markeredgewidth=2.5)
            label(axes, p99, row, f"{number(p50)} / {number(p99)}", bold=subject.name == OURS)
    naive = model.find(NAIVE)
    rate = number(naive.median(STEADY, "rate_per_s") if naive else None)
    axes.set_title(f"at {rate} requests a second", loc="left", fontsize=TITLE_POINTS)
    spread_out(axes)


def spread_out(axes: Axes) -> None:
    """A logarithmic axis with plain numbers, and room for the label of the last point."""
    axes.set_xscale("log")
    low, high = axes.dataLim.intervalx
    if 0 < low <= high:
        axes.set_xlim(low / 1.3, high * (2 * high / low) ** 0.5)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12) if high < 20 * low else LogLocator())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))


def tidy(axes: Axes) -> None:
    axes.set_facecolor(PAPER)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(colors=INK, length=0)
    axes.grid(axis="x", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)


def caption(results: Results) -> str:
    return (
        f"Left: a closed loop; without a server, one caller and the best batch size; x: by the naive server's. "
        f"Right: Poisson arrivals at {STEADY}, logarithmic.\n"
        f"Medians of {results.rounds} rounds of {results.seconds:g} s, {results.date}. {hardware(results)}.\n"
        f"{software(results)}."
    )


def draw(results: Results) -> Figure:
    """A row for each model: texts a second on the left, latency on the right."""
    rows = [len(subjects_of(model)) for model in results.models]
    height = EDGES_INCHES + sum(rows) * ROW_INCHES + len(rows) * TITLE_INCHES
    figure = Figure(
        figsize=(WIDTH_INCHES, height), facecolor=PAPER, layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12)
    )
    grid = figure.subplots(len(rows), 2, squeeze=False, sharey="row", height_ratios=rows, width_ratios=(1.2, 1))
    for (left, right), model in zip(grid, results.models, strict=True):
        draw_throughput(left, model)
        draw_latency(right, model)
        left.invert_yaxis()
        tidy(left)
        tidy(right)
    heading = "Texts per second with 32 clients, and latency in ms from p50 (dot) to p99 (ring)"
    figure.suptitle(heading, fontsize=17, weight="bold")
    figure.supxlabel(caption(results), fontsize=11, color=QUIET)
    return figure


def write(results: Results, folder: Path) -> None:
    with mpl.rc_context({"font.size": 13.5, "font.family": "DejaVu Sans", "text.color": INK}):
        draw(results).savefig(folder / "results.png", dpi=150)


if __name__ == "__main__":
    write(read(Path(sys.argv[1]) / "results.json"), Path(sys.argv[1]))
