"""The arithmetic of measurements: percentiles, medians over rounds, ratios, slopes.

Owns how numbers become the numbers of the report. It must never know what was measured, nor how.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """The median over rounds, the lowest and the highest."""

    median: float
    low: float
    high: float


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least this share of all values does not exceed; None without values."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds


def spread(values: Sequence[float]) -> Spread | None:
    return Spread(statistics.median(values), min(values), max(values)) if values else None


def ratios(values: Sequence[float | None], to: Sequence[float | None]) -> Spread | None:
    """The spread of the ratios of each round; a round that lacks one of the two values does not count."""
    return spread([value / other for value, other in zip(values, to, strict=False) if value is not None and other])


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The slope of the least-squares line through `(x, y)`; 0 when there is none."""
    if len({x for x, _ in points}) < 2:
        return 0.0
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return statistics.linear_regression(xs, ys).slope
