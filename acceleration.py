"""Exact speed-ups of a loaded model: each applied, verified and timed at the start, and kept only if it is faster.

What is kept changes how the answers are computed, not what they are: padding is not computed (`packing`), the
vocabulary's head runs at the masked positions only, and weights lie in memory as the CPU's library likes them. It must
never know requests, nor who calls a pipeline.
"""

import itertools
import logging
import math
import mmap
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from errors import first_line
from hooks import DoesNotFit, Hooked, change_tensors, stack_of
from packing import NoPadding, rounded

logger = logging.getLogger(__name__)

# The largest difference that counts as none, relative to the largest number: what another order of summing makes.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
# A speed-up is switched off and on to be timed, in turns, since a machine's speed drifts: so long, and so often.
TIMING_S, MOST_ROUNDS = 0.3, 5


# Trying them


class Lever(Protocol):
    """One speed-up of one model. `on` raises `DoesNotFit` when the model is none that it can speed up."""

    name: str

    def on(self) -> None: ...
    def off(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a speed-up.

    `difference` is the worst, relative to the largest number. `gain` is the old time by the new, the geometric mean of
    that of a batch and that of one input alone.
    """

    name: str
    on: bool
    difference: float | None
    gain: float | None
    why: str | None = None


# Computes the same inputs with the levers of these names on; the numbers that come out, one tensor an input.
Probe = Callable[[Collection[str]], Sequence[torch.Tensor]]
# Two of them: a batch, whose numbers are compared, and one input alone, as a lone client sends it.
Probes = tuple[Probe, Probe]


def levers_for(model: PreTrainedModel, mask_token_id: int | None, *, can_pad: bool = True) -> list[Lever]:
    """All of them, in the order in which they are tried."""
    return [MaskedHead(model, mask_token_id), NoPadding(model, can_pad=can_pad), PrepackedWeights(model)]


def accelerate(
    levers: Sequence[Lever],
    probes: Probes,
    reference: Sequence[torch.Tensor],
    tolerance: float,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Outcome]:
    """Try each lever on top of those that were kept; `reference` is what the untouched model makes of the batch."""
    kept: list[str] = []
    outcomes = []
    for lever in levers:
        outcome = _try(lever, kept, probes, reference, tolerance, clock)
        if outcome.on:
            kept.append(lever.name)
            logger.info("Speed-up %s: %.2f times as fast.", lever.name, outcome.gain)
        else:
            lever.off()
            logger.info("Speed-up %s left off: %s.", lever.name, outcome.why)
        outcomes.append(outcome)
    return outcomes


def _try(
    lever: Lever,
    kept: Sequence[str],
    probes: Probes,
    reference: Sequence[torch.Tensor],
    tolerance: float,
    clock: Callable[[], float],
) -> Outcome:
    """It is left on, whatever the outcome."""

    def left_off(why: str) -> Outcome:
        return Outcome(lever.name, False, difference, gain, why)

    difference = gain = None
    try:
        lever.on()
        difference = worst_difference(reference, probes[0]([*kept, lever.name]))
        if not difference <= tolerance:
            return left_off(f"it changes the answers by {difference:.1e}")
        gain = _gain(lever, kept, probes, clock)
    except DoesNotFit as error:
        return left_off(str(error))
    except Exception as error:  # whatever a model of some other make does with it, it can run without
        return left_off(f"it fails on this model ({first_line(error)})")
    if gain <= 1:
        return left_off(f"it is no faster here ({gain:.2f} times)")
    return Outcome(lever.name, True, difference, gain)


def _gain(lever: Lever, kept: Sequence[str], probes: Probes, clock: Callable[[], float]) -> float:
    """The fastest time off by the fastest time on: for one input it counts as much as for a batch."""

    def times_s(levers: Sequence[str]) -> list[float]:
        """Of the faster of two runs of each probe: the first may find memory that was just laid out."""
        times = []
        for probe in probes:
            moments = [clock()]
            for _ in range(2):
                probe(levers)
                moments.append(clock())
            times.append(min(end - start for start, end in itertools.pairwise(moments)))
        return times

    off_s: list[list[float]] = []
    on_s: list[list[float]] = []
    started = clock()
    while not on_s or (len(on_s) < MOST_ROUNDS and clock() - started < TIMING_S):
        lever.off()
        off_s.append(times_s(kept))
        lever.on()
        on_s.append(times_s([*kept, lever.name]))
    gains = [min(off) / min(on) for off, on in zip(zip(*off_s, strict=True), zip(*on_s, strict=True), strict=True)]
    return float(math.prod(gains) ** (1 / len(gains)))


def worst_difference(reference: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> float:
    """The largest difference of two outputs' numbers, relative to the largest number if that is over one."""
    worst = 0.0
    for one, other in zip(reference, outputs, strict=True):
        if one.shape != other.shape:
            return math.inf
        scale = max(1.0, one.abs().max().item())
        worst = max(worst, (one - other).abs().max().nan_to_num(math.inf).item() / scale)
    return worst


# The vocabulary's head at the masked positions only


def untouched_zeros(shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """Zeros whose memory is not touched before it is used: of a vocabulary for each token, next to none is."""
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    pages = mmap.mmap(-1, max(1, math.prod(shape) * like.element_size()))
    return torch.frombuffer(pages, dtype=like.dtype, count=math.prod(shape)).view(*shape)


class MaskedHead(Hooked):
    """The head of a masked language model sees the masked positions only; elsewhere its scores are zero."""

    name = "masked_head"

    def __init__(self, model: PreTrainedModel, mask_token_id: int | None) -> None:
        super().__init__(model)
        self.mask_token_id = mask_token_id

    def on(self) -> None:
        """Raises `DoesNotFit`."""
        output = self.model.get_output_embeddings()
        if output is None or self.mask_token_id is None:
            raise DoesNotFit("this model guesses no masked tokens")
        head = next(child for child in self.model.children() if any(part is output for part in child.modules()))
        self._before(self.model, self._begin)
        self._before(head, self._enter)
        self._after(head, self._leave)

    def _begin(self, model: torch.nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        self._is_masked = kwargs["input_ids"] == self.mask_token_id

    def _enter(self, head: torch.nn.Module, args: tuple[Any, ...], kwargs: Any) -> Any:
        shape = self._is_masked.shape
        return change_tensors(
            (args, kwargs),
            lambda value: value.ndim == 3 and value.shape[:2] == shape,
            lambda value: value[self._is_masked].unsqueeze(0),
        )

    def _leave(self, head: torch.nn.Module, args: Any, output: Any) -> Any:
        return change_tensors(output, lambda value: value.ndim == 3, self._scattered)

    def _scattered(self, value: torch.Tensor) -> torch.Tensor:
        scores = untouched_zeros((*self._is_masked.shape, value.shape[2]), value)
        scores[self._is_masked] = value[0]
        return scores


# Weights as the CPU's library likes them


class PrepackedLinear(torch.nn.Module):
    """A linear layer whose weight is laid out for oneDNN's matrix product."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = linear.bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        rows = inputs.flatten(0, -2)
        filler = rounded(len(rows)) - len(rows)
        filled = torch.nn.functional.pad(rows, (0, 0, 0, filler)) if filler else rows
        output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(filled, self.packed, self.bias, "none", [], "")
        return output[: len(rows)].view(*inputs.shape[:-1], -1)

    def unpacked(self) -> torch.nn.Linear:
        weight = self.packed.to_dense()
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta", dtype=weight.dtype)
        linear.weight = torch.nn.Parameter(weight, requires_grad=False)
        linear.bias = self.bias
        return linear.eval()


class PrepackedWeights(Hooked):
    """The linear layers of the stack; one by one, so that no more than one weight is there twice."""

    name = "prepacked_weights"

    def on(self) -> None:
        """Raises `DoesNotFit`."""
        if self.model.device.type != "cpu" or not torch.backends.mkldnn.is_available():
            raise DoesNotFit("it is for CPUs, with a PyTorch that has oneDNN")
        for parent in list(stack_of(self.model).modules()):
            for name, child in list(parent.named_children()):
                if type(child) is torch.nn.Linear:
                    self._replace(parent, name, PrepackedLinear(child))
        # A checkpoint is mapped into memory as a whole, and stays there until nothing is a part of it any more.
        for part in [*self.model.parameters(), *self.model.buffers()]:
            part.data = part.data.clone()

    def _replace(self, parent: torch.nn.Module, name: str, packed: PrepackedLinear) -> None:
        setattr(parent, name, packed)
        self._undo.append(lambda: setattr(parent, name, packed.unpacked()))
