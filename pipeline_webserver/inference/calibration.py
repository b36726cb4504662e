"""What the start learns about forward passes: what they cost, and how model inputs may share them.

It must never know inputs, parameters, requests or HTTP.
"""

import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from pipeline_webserver.errors import ConfigurationError, first_line
from pipeline_webserver.inference.batch_plan import (
    PADDED,
    SAME_SHAPE,
    BatchStrategy,
    alone,
    same_length,
    saturating_tokens,
)
from pipeline_webserver.inference.forward import ForwardRunner, ModelChanged
from pipeline_webserver.inference.model_inputs import ModelInput
from pipeline_webserver.inference.numerics import flatten_outputs, tolerance_of, worst_difference

# Model inputs in the larger of the two passes whose difference gives the cost of a token.
MANY = 8


def choose_strategy(forward: ForwardRunner, measured: ModelInput, probes: Sequence[ModelInput]) -> BatchStrategy:
    """How model inputs may share passes without a change in their outputs, by trying it. Sets the costs, too.

    `measured` is timed; `probes` are of different lengths, short beside long.
    """
    if error := measure_cost(forward, measured):
        return alone(error)
    if forward.by_shape:
        reason = check_batch_invariance(forward, probes, "batching")
        return SAME_SHAPE if reason is None else alone(reason)
    if not forward.can_collate:
        return _same_length(forward, probes, "the tokenizer has no padding token")
    reason = check_batch_invariance(forward, probes, "padding")
    return PADDED if reason is None else _same_length(forward, probes, reason)


def _same_length(forward: ForwardRunner, probes: Sequence[ModelInput], reason: str) -> BatchStrategy:
    """Equal lengths share a pass, for this reason, unless that changes their outputs, too."""
    longest = sorted(probes, key=lambda probe: probe.num_tokens)[-3:]
    worse = check_batch_invariance(
        forward, [first_tokens(probe, longest[0].num_tokens) for probe in longest], "batching"
    )
    return same_length(reason) if worse is None else alone(worse)


def first_tokens(model_input: ModelInput, count: int) -> ModelInput:
    """A model input of only the first tokens of another."""
    tensors = {
        name: value[:, :count] if isinstance(value, torch.Tensor) else value
        for name, value in model_input.tensors.items()
    }
    return replace(model_input, tensors=tensors, num_tokens=count)


def check_repeatability(forward: ForwardRunner, inputs: Sequence[ModelInput]) -> str | None:
    """Why an input does not get the same outputs each time, or None. Each is computed behind others, and the other way.

    Raises `ConfigurationError` if what came before an input changes them: one client would get what is another's.
    """

    def outputs(order: Sequence[ModelInput]) -> list[torch.Tensor]:
        return [flatten_outputs(forward.forward([model_input])[0]) for model_input in order]

    tolerance = tolerance_of(forward.pipe.model.dtype)
    worst = worst_difference(outputs(inputs), outputs(inputs[::-1])[::-1])
    if worst <= tolerance:
        return None
    in_a_row = outputs([model_input for model_input in inputs for _ in range(3)])  # the first comes behind another
    if worst_difference(in_a_row[1::3], in_a_row[2::3]) > 0:
        return "the model is random: the same input gets other outputs each time"
    raise ConfigurationError(
        f"the outputs of an input change by {worst:.1e} with the inputs before it: this model keeps state that cannot "
        "be put back, so one client's input would show in another's answer; choose another model"
    )


def measure_cost(forward: ForwardRunner, measured: ModelInput) -> str | None:
    """Set what a pass costs besides its tokens, from passes of one such input and of many.

    Returns why the model takes only one input a pass, or None. A classifier that reads the last token, for one, needs a
    padding token to find it.
    """
    one_s, reason = _fastest_s(forward, [measured]), None
    try:
        many_s = _fastest_s(forward, [measured] * MANY)
    except Exception as error:
        reason, many_s = first_line(error), MANY * one_s
    per_token_s = max((many_s - one_s) / ((MANY - 1) * measured.num_tokens), 1e-9)
    forward.fixed_cost_tokens = max(0.0, one_s / per_token_s - measured.num_tokens)
    if not forward.has_max_tokens:
        forward.max_tokens = saturating_tokens(forward.fixed_cost_tokens)
    return reason


def check_batch_invariance(forward: ForwardRunner, probes: Sequence[ModelInput], sharing: str) -> str | None:
    """Why model inputs do not get from one pass what they get alone, or None: some models look at padding.

    `sharing`: what is tried, "padding" or "batching", for the reason.
    """
    expected = [flatten_outputs(forward.forward([probe])[0]) for probe in probes]
    try:
        worst = worst_difference(expected, [flatten_outputs(outputs) for outputs in forward.forward(probes)])
    except ModelChanged as error:
        return str(error)
    except Exception as error:
        return f"this model does not support {sharing} ({first_line(error)})"
    if worst > tolerance_of(forward.pipe.model.dtype):
        return f"{sharing} changes the outputs by {worst:.1e}"
    return None


def _fastest_s(forward: ForwardRunner, inputs: Sequence[ModelInput]) -> float:
    """Seconds of the fastest of a few passes; the first ones also warm up."""
    times: list[float] = []
    while len(times) < 2 or (len(times) < 4 and sum(times) < 0.2):
        started = time.perf_counter()
        forward.forward(inputs)
        times.append(time.perf_counter() - started)
    return min(times)
