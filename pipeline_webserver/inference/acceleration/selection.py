"""Which optimizations a model keeps: each is applied, verified and timed at the start, within a bounded time.

What is kept changes how the outputs are computed, not what they are, up to rounding: positions that are not read are
not computed, nor is padding, and products run in the CPU's faster library. It must never know requests, nor who calls a
pipeline.
"""

import itertools
import logging
import math
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from pipeline_webserver.errors import ConfigurationError, first_line
from pipeline_webserver.inference.acceleration.base import NotApplicable, Optimization
from pipeline_webserver.inference.acceleration.last_layer import LastLayer
from pipeline_webserver.inference.acceleration.masked_head import MaskedHead
from pipeline_webserver.inference.acceleration.onednn import PrepackedWeights
from pipeline_webserver.inference.acceleration.unpadding import Unpadding
from pipeline_webserver.inference.model_inputs import PositionsRead
from pipeline_webserver.inference.numerics import worst_difference
from pipeline_webserver.model_info import OptimizationReport

logger = logging.getLogger(__name__)

# Seconds in which all optimizations together are timed, however busy the machine is: each begins no run after its
# share.
TIMING_BUDGET_S = 3.0
# An optimization is reverted and applied to be timed, in turns, since a machine's speed drifts. So many rounds confirm
# what is the default; to decide otherwise takes more, and a clear difference: another process may disturb a round, and
# two starts on one machine have to decide alike.
ROUNDS_TO_CONFIRM, ROUNDS_TO_OVERRULE, MAX_ROUNDS = 2, 4, 16
CLEAR_GAIN, CLEAR_LOSS = 1.1, 0.95
# No probe may lose more than this, whatever the other gains.
MAX_LOSS = 0.8


@dataclass(frozen=True, slots=True)
class Probe:
    """Inputs to try optimizations on.

    `run` computes them with these optimizations applied: a tensor for each input, or it raises what the model raises.
    `reference` is what the model computes for each without any optimization.
    """

    name: str
    run: Callable[[Sequence[Optimization]], Sequence[torch.Tensor]]
    reference: Sequence[torch.Tensor]


def optimizations_for(
    model: PreTrainedModel, positions_read: PositionsRead | None, *, can_pad: bool = True, encodes_text: bool = True
) -> list[Optimization]:
    """All that may fit, in the order in which they are tried.

    `positions_read` where not every position of the output is read. A model that does not encode texts has linear
    layers, but neither padding nor positions that are not read.
    """
    if not encodes_text:
        return [PrepackedWeights(model)]
    unpadding = Unpadding(model, can_pad=can_pad)
    head, last_layer = MaskedHead(model, positions_read), LastLayer(model, positions_read, unpadding)
    return [head, unpadding, last_layer, PrepackedWeights(model)]


def optimize(
    optimizations: Sequence[Optimization],
    probes: Sequence[Probe],
    tolerance: float,
    clock: Callable[[], float] = time.perf_counter,
    budget_s: float = TIMING_BUDGET_S,
) -> list[OptimizationReport]:
    """Try each on top of those that were kept. Raises `ConfigurationError` if one cannot be reverted.

    `tolerance` is the largest difference that counts as equal, relative to the largest number. Each is timed for its
    share of what is left of `budget_s`; without a complete round, its default decides.
    """
    kept: list[Optimization] = []
    reports = []
    for index, optimization in enumerate(optimizations):
        share_s = budget_s / (len(optimizations) - index)
        trial = Trial(optimization, kept, probes, clock, share_s)
        report = trial.report(tolerance)
        budget_s = max(0.0, budget_s - trial.timed_s)
        if report.applied:
            kept.append(optimization)
        else:
            _revert(optimization)
        logger.info("Optimization %s: %s.", optimization.name, summary(report))
        reports.append(report)
    return reports


def summary(report: OptimizationReport) -> str:
    """A report in a few words, for the log."""
    gains = ", ".join(f"{gain:.2f} times as fast {probe}" for probe, gain in (report.gains or {}).items())
    if report.applied:
        return gains or report.reason or "applied"
    return f"not applied, {report.reason}"


class OutOfTime(Exception):
    """An optimization has used up its share of the time; the round that was under way does not count."""


class Trial:
    """One optimization on top of those that were kept. `timed_s` is how long it was timed."""

    def __init__(
        self,
        optimization: Optimization,
        kept: Sequence[Optimization],
        probes: Sequence[Probe],
        clock: Callable[[], float],
        share_s: float,
    ) -> None:
        self.optimization = optimization
        self.without, self.with_it = [*kept], [*kept, optimization]
        self.probes = probes
        self.clock = clock
        self.share_s = share_s
        self.timed_s = 0.0
        self._deadline = math.inf
        self._rounds: list[tuple[list[float], list[float]]] = []  # seconds of each probe, without it and with it

    def report(self, tolerance: float) -> OptimizationReport:
        """Verify it, then time it. It is left applied, whatever becomes of it."""
        name = self.optimization.name
        try:
            self.optimization.apply()
            started = self.clock()
            difference = max(worst_difference(probe.reference, probe.run(self.with_it)) for probe in self.probes)
            if not difference <= tolerance:
                return OptimizationReport(name, False, difference, reason=f"it changes the outputs by {difference:.1e}")
            # A round runs each probe twice with it and twice without.
            if 4 * (self.clock() - started) < self.share_s:
                self._time()
        except NotApplicable as error:
            return OptimizationReport(name, False, reason=str(error))
        except ConfigurationError:
            raise
        except Exception as error:  # whatever this model does with it, it runs without
            return OptimizationReport(name, False, reason=f"it fails on this model ({first_line(error)})")
        return self._decide(difference)

    def _decide(self, difference: float) -> OptimizationReport:
        name, is_default = self.optimization.name, self.optimization.is_default
        if not self._rounds:
            untimed = f"the default on this CPU, not timed: all optimizations together have {TIMING_BUDGET_S:g} s"
            return OptimizationReport(name, is_default, difference, reason=untimed)
        gains = self.gains()
        rounds = len(self._rounds)
        if pays(gains, self._median_gain(), rounds, is_default=is_default):
            few = f"the default on this CPU: timed {rounds} times, which is too few to change it"
            is_slower = not pays(gains, self._median_gain(), ROUNDS_TO_OVERRULE, is_default=is_default)
            return OptimizationReport(name, True, difference, gains, few if is_slower else None)
        measured = ", ".join(f"{gain:.2f} times {probe}" for probe, gain in gains.items())
        return OptimizationReport(name, False, difference, gains, f"it is not clearly faster here ({measured})")

    def _time(self) -> None:
        """Rounds until the default is confirmed, or until the share of the time is over."""
        started = self.clock()
        self._deadline = started + self.share_s
        try:
            while not self._is_decided():
                _revert(self.optimization)
                seconds_without = self._seconds(self.without)
                self.optimization.apply()
                self._rounds.append((seconds_without, self._seconds(self.with_it)))
        except OutOfTime:
            if not self.optimization.is_applied:
                self.optimization.apply()
        self.timed_s = self.clock() - started

    def _is_decided(self) -> bool:
        rounds = len(self._rounds)
        if rounds < ROUNDS_TO_CONFIRM or rounds >= MAX_ROUNDS:
            return rounds >= MAX_ROUNDS
        is_default, gains = self.optimization.is_default, self.gains()
        seems_to_pay = mean_gain(gains.values()) >= 1 and min(gains.values()) >= MAX_LOSS
        return pays(gains, self._median_gain(), rounds, is_default=is_default) == is_default and (
            rounds >= ROUNDS_TO_OVERRULE or seems_to_pay == is_default
        )

    def _seconds(self, applied: Sequence[Optimization]) -> list[float]:
        """Of the faster of two runs of each probe: the first may find memory that was just laid out.

        Raises `OutOfTime` rather than to begin a run after the deadline.
        """
        seconds = []
        for probe in self.probes:
            times = [self.clock()]
            for _ in range(2):
                if times[-1] >= self._deadline:
                    raise OutOfTime
                probe.run(applied)
                times.append(self.clock())
            seconds.append(min(end - start for start, end in itertools.pairwise(times)))
        return seconds

    def gains(self) -> dict[str, float]:
        """The fastest time without it by the fastest with it, of each probe."""
        without, with_it = (map(min, zip(*seconds, strict=True)) for seconds in zip(*self._rounds, strict=True))
        return {probe.name: off / on for probe, off, on in zip(self.probes, without, with_it, strict=True)}

    def _median_gain(self) -> float:
        """Of the rounds, each by itself."""
        return statistics.median(
            mean_gain([off / on for off, on in zip(*seconds, strict=True)]) for seconds in self._rounds
        )


def mean_gain(gains: Collection[float]) -> float:
    """The geometric mean."""
    return math.prod(gains) ** (1 / len(gains))


def pays(gains: Mapping[str, float], median_gain: float, rounds: int, *, is_default: bool) -> bool:
    """Whether an optimization is kept: as is the default, unless enough rounds show clearly otherwise.

    Clearly means by the fastest runs and by the median of the rounds.
    """
    if rounds < ROUNDS_TO_OVERRULE:
        return is_default
    gain = mean_gain(gains.values())
    if is_default:
        return min(gains.values()) >= MAX_LOSS and max(gain, median_gain) >= CLEAR_LOSS
    return min(gains.values()) >= MAX_LOSS and min(gain, median_gain) >= CLEAR_GAIN


def _revert(optimization: Optimization) -> None:
    """Raises `ConfigurationError`."""
    try:
        optimization.revert()
    except Exception as error:
        raise ConfigurationError(
            f"the optimization {optimization.name} could not be reverted ({first_line(error)}); "
            "PIPELINE_ACCELERATE=false tries none"
        ) from error
