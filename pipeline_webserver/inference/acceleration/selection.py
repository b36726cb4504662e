"""Exact speed-ups of a loaded model: each applied, verified and timed at the start, and kept only if it is faster.

What is kept changes how the answers are computed, not what they are, up to rounding: what is not read is not computed
(`reading`), nor is padding (`packing`), and products run in the CPU's better library (`onednn`). It must never know
requests, nor who calls a pipeline.
"""

import itertools
import logging
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from pipeline_webserver.errors import ConfigurationError, first_line
from pipeline_webserver.inference.acceleration.base import DoesNotFit, SpeedUp
from pipeline_webserver.inference.acceleration.last_layer import LastLayer, MaskedHead, Reads
from pipeline_webserver.inference.acceleration.onednn import PrepackedWeights
from pipeline_webserver.inference.acceleration.unpadding import NoPadding

logger = logging.getLogger(__name__)

# A speed-up is switched off and on to be timed, in turns, since a machine's speed drifts. So many rounds, and so many
# seconds, are enough to keep it; to leave it off more are wanted, since another process may have disturbed the first.
TO_KEEP, TO_LEAVE_OFF = (1, 0.2), (4, 0.5)
MOST_ROUNDS = 12
# What it must bring on the whole, and what it may cost where it brings nothing; a timing is no better than that.
LEAST_GAIN, MOST_LOSS = 1.02, 0.8


@dataclass(frozen=True, slots=True)
class Probe:
    """Inputs to try speed-ups on.

    `run` computes them with the speed-ups of these names on: a tensor for each input, or it raises what the model
    raises. `reference` is what the untouched model makes of each.
    """

    name: str
    run: Callable[[Collection[str]], Sequence[torch.Tensor]]
    reference: Sequence[torch.Tensor]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a speed-up.

    `difference` is the worst, relative to the largest number. `gains` has the old time by the new for each probe.
    """

    name: str
    on: bool
    difference: float | None
    gains: dict[str, float] | None
    why: str | None = None


def tolerance_of(dtype: torch.dtype) -> float:
    """The largest difference that counts as none, relative to the largest number: another order of summing makes it."""
    return {torch.float16: 1e-2, torch.bfloat16: 5e-2}.get(dtype, 1e-4)


def worst_difference(reference: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> float:
    """The largest difference of two outputs' numbers, relative to the largest number if that is over one."""
    worst = 0.0
    for one, other in zip(reference, outputs, strict=True):
        if one.shape != other.shape or not one.isfinite().all():
            return math.inf
        if one.numel():
            scale = max(1.0, one.abs().max().item())
            worst = max(worst, (one - other).abs().max().nan_to_num(math.inf).item() / scale)
    return worst


def speed_ups_for(
    model: PreTrainedModel, reads: Reads | None, *, can_pad: bool = True, only_products: bool = False
) -> list[SpeedUp]:
    """All of them, in the order in which they are tried; `reads` where not every position is read of the output.

    `only_products` for models that encode no texts: they have products, but neither padding nor unread positions.
    """
    if only_products:
        return [PrepackedWeights(model)]
    no_padding = NoPadding(model, can_pad=can_pad)
    head, last = MaskedHead(model, reads), LastLayer(model, reads, no_padding)
    return [head, no_padding, last, PrepackedWeights(model)]


def accelerate(
    speed_ups: Sequence[SpeedUp],
    probes: Sequence[Probe],
    tolerance: float,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Outcome]:
    """Try each on top of those that were kept. Raises `ConfigurationError` if one cannot be taken off again."""
    kept: list[str] = []
    outcomes = []
    for speed_up in speed_ups:
        outcome = _try(speed_up, kept, probes, tolerance, clock)
        if outcome.on:
            kept.append(speed_up.name)
            gains = ", ".join(f"{gain:.2f} times as fast {probe}" for probe, gain in (outcome.gains or {}).items())
            logger.info("Speed-up %s: %s.", speed_up.name, gains)
        else:
            _take_off(speed_up)
            logger.info("Speed-up %s left off: %s.", speed_up.name, outcome.why)
        outcomes.append(outcome)
    return outcomes


def _try(
    speed_up: SpeedUp, kept: Sequence[str], probes: Sequence[Probe], tolerance: float, clock: Callable[[], float]
) -> Outcome:
    """It is left on, whatever the outcome."""

    def left_off(why: str) -> Outcome:
        return Outcome(speed_up.name, False, difference, gains, why)

    difference = gains = None
    try:
        speed_up.on()
        with_it = [*kept, speed_up.name]
        difference = max(worst_difference(probe.reference, probe.run(with_it)) for probe in probes)
        if not difference <= tolerance:
            return left_off(f"it changes the answers by {difference:.1e}")
        gains = _gains(speed_up, kept, probes, clock)
    except DoesNotFit as error:
        return left_off(str(error))
    except ConfigurationError:
        raise
    except Exception as error:  # whatever a model of some other make does with it, it can run without
        return left_off(f"it fails on this model ({first_line(error)})")
    if not _pays(gains):
        told = ", ".join(f"{gain:.2f} times {probe}" for probe, gain in gains.items())
        return left_off(f"it is no faster here ({told})")
    return Outcome(speed_up.name, True, difference, gains)


def _take_off(speed_up: SpeedUp) -> None:
    """Raises `ConfigurationError`."""
    try:
        speed_up.off()
    except Exception as error:
        raise ConfigurationError(
            f"the speed-up {speed_up.name} could not be taken off the model again ({first_line(error)}); "
            "PIPELINE_ACCELERATE=false tries none"
        ) from error


def _gains(
    speed_up: SpeedUp, kept: Sequence[str], probes: Sequence[Probe], clock: Callable[[], float]
) -> dict[str, float]:
    """The fastest time off by the fastest time on, of each probe."""

    def times_s(names: Sequence[str]) -> list[float]:
        """Of the faster of two runs of each probe: the first may find memory that was just laid out."""
        times = []
        for probe in probes:
            moments = [clock()]
            for _ in range(2):
                probe.run(names)
                moments.append(clock())
            times.append(min(end - start for start, end in itertools.pairwise(moments)))
        return times

    off_s: list[list[float]] = []
    on_s: list[list[float]] = []
    started = clock()
    while True:
        _take_off(speed_up)
        off_s.append(times_s(kept))
        speed_up.on()
        on_s.append(times_s([*kept, speed_up.name]))
        fastest_off, fastest_on = (map(min, zip(*times, strict=True)) for times in (off_s, on_s))
        gains = {probe.name: off / on for probe, off, on in zip(probes, fastest_off, fastest_on, strict=True)}
        rounds, seconds = TO_KEEP if _pays(gains) else TO_LEAVE_OFF
        if len(on_s) >= MOST_ROUNDS or (len(on_s) >= rounds and clock() - started >= seconds):
            return gains


def _pays(gains: Mapping[str, float]) -> bool:
    return math.prod(gains.values()) >= LEAST_GAIN ** len(gains) and min(gains.values()) >= MOST_LOSS
