"""Exact speed-ups of a loaded model: each applied, verified and timed at the start, and kept only if it is faster.

What is kept changes how the answers are computed, not what they are: padding is not computed, the vocabulary's head
runs at the masked positions only, and weights lie in memory as the CPU's library likes them. It must never know
requests, nor who calls a pipeline.
"""

import itertools
import logging
import math
import mmap
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any, Protocol

import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.mpnet.modeling_mpnet import MPNetSelfAttention

from errors import first_line

logger = logging.getLogger(__name__)

# The largest difference that counts as none, relative to the largest number: what another order of summing makes.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
# A probe is repeated until it has taken this long, so that the fastest of its runs tells something on a noisy machine.
PROBE_S, MOST_PROBES = 0.06, 5


# The driver


class Lever(Protocol):
    """One speed-up of one model. `on` raises `DoesNotFit` when the model is none that it can speed up."""

    name: str

    def on(self) -> None: ...
    def off(self) -> None: ...


class DoesNotFit(Exception):
    """Why a speed-up is not for this model, in a few words."""


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
        before_s = _fastest_s(probes, kept, clock)  # anew for each: a machine's speed drifts
        outcome = _try(lever, [*kept, lever.name], probes, reference, tolerance, before_s, clock)
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
    tried: Sequence[str],
    probes: Probes,
    reference: Sequence[torch.Tensor],
    tolerance: float,
    before_s: float,
    clock: Callable[[], float],
) -> Outcome:
    def left_off(why: str) -> Outcome:
        return Outcome(lever.name, False, difference, gain, why)

    difference = gain = None
    try:
        lever.on()
        difference = worst_difference(reference, probes[0](tried))
    except DoesNotFit as error:
        return left_off(str(error))
    except Exception as error:  # whatever a model of some other make does with it, it can run without
        return left_off(f"it fails on this model ({first_line(error)})")
    if not difference <= tolerance:
        return left_off(f"it changes the answers by {difference:.1e}")
    gain = before_s / _fastest_s(probes, tried, clock)
    if gain <= 1:
        return left_off(f"it is no faster here ({gain:.2f} times)")
    return Outcome(lever.name, True, difference, gain)


def worst_difference(reference: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> float:
    """The largest difference of two outputs' numbers, relative to the largest number if that is over one."""
    worst = 0.0
    for one, other in zip(reference, outputs, strict=True):
        if one.shape != other.shape:
            return math.inf
        scale = max(1.0, one.abs().max().item())
        worst = max(worst, (one - other).abs().max().nan_to_num(math.inf).item() / scale)
    return worst


def _fastest_s(probes: Probes, levers: Collection[str], clock: Callable[[], float]) -> float:
    """The geometric mean of the probes' fastest times: to be faster for one client counts as much as for many."""
    return math.prod(_fastest_of_one_s(probe, levers, clock) for probe in probes) ** (1 / len(probes))


def _fastest_of_one_s(probe: Probe, levers: Collection[str], clock: Callable[[], float]) -> float:
    times: list[float] = []
    while len(times) < 2 or (sum(times) < PROBE_S and len(times) < MOST_PROBES):
        start = clock()
        probe(levers)
        times.append(clock() - start)
    return min(times)


def change_tensors(value: Any, is_meant: Callable[[torch.Tensor], bool], change: Callable[..., torch.Tensor]) -> Any:
    """The same value, its tensors that are meant changed, in tuples and in a model's outputs, too."""
    if isinstance(value, torch.Tensor):
        return change(value) if is_meant(value) else value
    if isinstance(value, tuple):
        return tuple(change_tensors(item, is_meant, change) for item in value)
    if isinstance(value, dict):
        for key, item in value.items():
            value[key] = change_tensors(item, is_meant, change)
    return value


class _Hooked:
    """What is put on a model, and taken off again together."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self._undo: list[Callable[[], object]] = []

    def off(self) -> None:
        while self._undo:
            self._undo.pop()()

    def _before(self, module: torch.nn.Module, hook: Callable[..., Any]) -> None:
        self._undo.append(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

    def _after(self, module: torch.nn.Module, hook: Callable[..., Any], *, always: bool = False) -> None:
        self._undo.append(module.register_forward_hook(hook, always_call=always).remove)


# No padding


def rounded(rows: int) -> int:
    """The next number of rows that matrix products are made for.

    oneDNN compiles one for each number of rows, in half a millisecond, and keeps half a megabyte of each of the last
    1,024 (PyTorch 2.13): with every length that comes along, 430 MB.
    """
    step = 4 if rows <= 128 else 32
    return -(-rows // step) * step


@dataclass(frozen=True, slots=True)
class Packing:
    """Where the tokens of a padded batch are: row after row, the rows by length, so that equal ones are neighbours."""

    rows: int
    padded: int
    tokens: torch.Tensor  # indices into the batch laid flat
    groups: list[tuple[int, int]]  # how many rows of which length
    filler: int  # tokens at the end that stand for nothing

    @classmethod
    def of(cls, mask: torch.Tensor) -> "Packing":
        """`mask` is `[rows, padded]`, true where there is a token."""
        rows, padded = mask.shape
        lengths, order = mask.sum(1).sort(stable=True)
        if lengths[-1] != padded:
            raise ValueError(f"rows of at most {lengths[-1]} tokens are padded to {padded}")
        flat = torch.arange(rows * padded, device=mask.device).view(rows, padded)
        groups = [(len(list(alike)), length) for length, alike in itertools.groupby(lengths.tolist())]
        tokens = flat[order][mask[order]]
        return cls(rows, padded, tokens, groups, rounded(len(tokens)) - len(tokens))

    def is_padded(self, value: torch.Tensor) -> bool:
        """Whether it is `[rows, padded, numbers]`, or one row that stands for all (rotary positions)."""
        return value.ndim == 3 and value.shape[1] == self.padded and value.shape[0] in {1, self.rows}

    def is_packed(self, value: torch.Tensor) -> bool:
        return value.ndim == 3 and value.shape[:2] == (1, len(self.tokens) + self.filler)

    def pack(self, value: torch.Tensor) -> torch.Tensor:
        """`[rows, padded, numbers]` to `[1, tokens and filler, numbers]`."""
        return self.fill(value.expand(self.rows, -1, -1).flatten(0, 1)[self.tokens]).unsqueeze(0)

    def fill(self, value: torch.Tensor) -> torch.Tensor:
        """`[tokens, numbers]` with zeros for the filler."""
        return torch.nn.functional.pad(value, (0, 0, 0, self.filler)) if self.filler else value

    def unpack(self, value: torch.Tensor) -> torch.Tensor:
        """`[1, tokens and filler, numbers]` to `[rows, padded, numbers]`, with zeros for padding."""
        flat = value.new_zeros(self.rows * self.padded, value.shape[2])
        flat[self.tokens] = value[0, : len(self.tokens)]
        return flat.view(self.rows, self.padded, -1)


# The packing of the pass that is running; None where nothing is padded.
_packing: ContextVar[Packing | None] = ContextVar("packing", default=None)


def attend_by_row(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    sliding_window: int | None = None,
    position_bias: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention for `transformers.AttentionInterface`: each row sees itself, without padding and so without a mask.

    `query`, `key` and `value` are `[1, heads, tokens, size]` where the batch is packed, `[rows, heads, length, size]`
    where it is not; the result has heads and tokens swapped. `position_bias` is the same for all rows.
    """

    def attend(parts: Sequence[torch.Tensor]) -> torch.Tensor:
        length = parts[0].shape[2]
        window = _window(length, sliding_window, parts[0].device)
        bias = None if position_bias is None else position_bias[:1, :, :length, :length]
        output: torch.Tensor = sdpa_attention_forward(module, *parts, window, position_bias=bias, **options)[0]
        return output

    packing = _packing.get()
    if packing is None:
        return attend((query, key, value)), None
    outputs, start = [], 0
    for rows, length in packing.groups:
        end = start + rows * length
        parts = [part[0, :, start:end].unflatten(1, (rows, length)).transpose(0, 1) for part in (query, key, value)]
        outputs.append(attend(parts).flatten(0, 1))
        start = end
    outputs.append(outputs[0].new_zeros(packing.filler, *outputs[0].shape[1:]))
    return torch.cat(outputs).unsqueeze(0), None


def _window(length: int, reach: int | None, device: torch.device) -> torch.Tensor | None:
    """Which tokens see which when each sees those nearer than `reach`; None when all see all."""
    if reach is None or length <= reach:
        return None
    positions = torch.arange(length, device=device)
    return (positions[:, None] - positions).abs() < reach


def attend_in_mpnet(
    self: MPNetSelfAttention,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor]:
    """The forward pass of the one family that could attend by row, but does not ask the interface how to attend."""
    shape = (*hidden_states.shape[:2], self.num_attention_heads, self.attention_head_size)
    query, key, value = (part(hidden_states).view(shape).transpose(1, 2) for part in (self.q, self.k, self.v))
    output, _ = attend_by_row(self, query, key, value, None, position_bias=position_bias, is_causal=False)
    return (self.o(output.flatten(2)),)


def stack_of(model: PreTrainedModel) -> torch.nn.ModuleList:
    """The layers of an encoder: the largest list of modules. Raises `DoesNotFit`."""
    stacks = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    if not stacks:
        raise DoesNotFit("this model has no stack of layers")
    return max(stacks, key=lambda stack: sum(weight.numel() for weight in stack.parameters()))


class NoPadding(_Hooked):
    """The encoder's layers see one row of real tokens; embeddings, poolers and heads see what they always saw."""

    name = "no_padding"
    attention = "by_row"

    def __init__(self, model: PreTrainedModel, *, can_pad: bool = True) -> None:
        super().__init__(model)
        self.can_pad = can_pad

    def on(self) -> None:
        """Raises `DoesNotFit`."""
        model = self.model
        if not self.can_pad:
            raise DoesNotFit("its tokenizer has no padding token")
        if model.main_input_name != "input_ids":
            raise DoesNotFit("it is for texts only")
        if model.config.is_encoder_decoder or any(getattr(module, "is_causal", False) for module in model.modules()):
            raise DoesNotFit("it is for encoders only")
        layers = stack_of(model)
        self._replace_attention()
        self._before(model, self._begin)
        for layer in layers:
            self._before(layer, self._enter)
        self._after(layers[-1], self._leave)
        self._after(model, self._end, always=True)

    def _replace_attention(self) -> None:
        """Raises `DoesNotFit`."""
        model = self.model
        if own := [module for module in model.modules() if isinstance(module, MPNetSelfAttention)]:
            for module in own:
                module.forward = MethodType(attend_in_mpnet, module)
                self._undo.append(partial(delattr, module, "forward"))
        elif model._can_set_attn_implementation():
            AttentionInterface.register(self.attention, attend_by_row)
            self._undo.append(partial(model.set_attn_implementation, model.config._attn_implementation))
            model.set_attn_implementation(self.attention)
        else:
            raise DoesNotFit("this model computes attention in its own way")

    def _begin(self, model: torch.nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        mask = kwargs.get("attention_mask")
        _packing.set(None if mask is None or mask.all() else Packing.of(mask.bool()))

    def _enter(self, layer: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        packing = _packing.get()
        if packing is None:
            return None
        return change_tensors((args, kwargs), packing.is_padded, packing.pack)

    def _leave(self, layer: torch.nn.Module, args: Any, output: Any) -> Any:
        packing = _packing.get()
        return output if packing is None else change_tensors(output, packing.is_packed, packing.unpack)

    def _end(self, model: torch.nn.Module, args: Any, output: Any) -> None:
        _packing.set(None)


# The vocabulary's head at the masked positions only


def untouched_zeros(shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """Zeros whose memory is not touched before it is used: of a vocabulary for each token, next to none is."""
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    pages = mmap.mmap(-1, max(1, math.prod(shape) * like.element_size()))
    return torch.frombuffer(pages, dtype=like.dtype, count=math.prod(shape)).view(*shape)


class MaskedHead(_Hooked):
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


class PrepackedWeights(_Hooked):
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
