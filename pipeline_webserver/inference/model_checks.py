"""Whether a loaded model can answer at all: its weights are trained, its tokenizer is its own, its answers differ.

A model that cannot, answers noise with a score beside it, which no client can tell from an answer. It must never know
requests, settings objects or HTTP.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers.pipelines.base import Pipeline

from pipeline_webserver.errors import ConfigurationError
from pipeline_webserver.inference.forward import ForwardRunner
from pipeline_webserver.inference.model_inputs import ModelInput
from pipeline_webserver.inference.weights import advice, name_some

logger = logging.getLogger(__name__)

# Heads whose weights have the same names and shapes, trained for different tasks.
SAME_WEIGHTS = ("ForSequenceClassification", "ForTokenClassification", "ForMultipleChoice")
# What the pipeline takes for the number of the label where there is none, and then reads the last one.
NO_ENTAILMENT = -1
LEARNT_BUFFERS = {"running_mean", "running_var"}
# From a model input and its outputs to the numbers that the task's answer is made of.
NumbersRead = Callable[[ModelInput, Any], torch.Tensor]


def check_token_ids(pipe: Pipeline) -> None:
    """Raises `ConfigurationError` if the tokenizer gives ids that the model has no embedding for."""
    table = embedding_table(pipe.model)
    if pipe.tokenizer is None or table is None:
        return
    last = max(pipe.tokenizer.get_vocab().values())
    if last >= table.num_embeddings:
        raise ConfigurationError(
            f"the tokenizer gives ids up to {last}, and the model has embeddings for {table.num_embeddings}: they are "
            "not of one model; save both again, behind model.resize_token_embeddings(len(tokenizer)) if some were added"
        )


def embedding_table(model: Any) -> torch.nn.Embedding | None:
    """The table that token ids are looked up in; None if the model takes none, or makes embeddings otherwise."""
    try:
        table = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    return table if isinstance(table, torch.nn.Embedding) else None


def check_head(pipe: Pipeline, *, allow: bool) -> None:
    """Raises `ConfigurationError` if the head was trained for another task, though its weights fit.

    With `allow`, that is logged.
    """
    fault = _wrong_head(pipe)
    if fault is None:
        return
    if not allow:
        raise ConfigurationError(f"{fault}; leave PIPELINE_TASK out, or set PIPELINE_ALLOW_UNTRAINED=true")
    logger.warning("%s.", fault)


def _wrong_head(pipe: Pipeline) -> str | None:
    name, config = pipe.model.name_or_path, pipe.model.config
    saved, loaded = ((config.architectures or [""])[0], type(pipe.model).__name__)
    kinds = [next((kind for kind in SAME_WEIGHTS if one.endswith(kind)), None) for one in (saved, loaded)]
    if None not in kinds and kinds[0] != kinds[1]:
        return f"{name!r} was saved as {saved}: its head was not trained for the task {pipe.task!r}"
    if getattr(pipe, "entailment_id", None) == NO_ENTAILMENT:
        labels = ", ".join(map(repr, config.id2label.values()))
        return f"{name!r} has no label of entailment, which the task {pipe.task!r} reads, but {labels}"
    return None


def check_trained(forward: ForwardRunner, probe: ModelInput, numbers_read: NumbersRead, *, allow: bool) -> None:
    """Raises `ConfigurationError` if the answer to a probe depends on weights that no file has.

    Which those are, is tried: a pooler, for one, is often missing and seldom read. With `allow`, they are logged.
    """
    untrained = untrained_weights(forward.pipe)
    if not untrained or not (forward.generates or _is_read(forward, probe, numbers_read, untrained)):
        return
    checkpoint = forward.pipe.checkpoint
    missing = f"{checkpoint.model!r} has no trained weights for the task {checkpoint.task!r} ({checkpoint.task_source})"
    missing += f": {name_some(list(untrained))} would be random"
    if not allow:
        raise ConfigurationError(f"{missing}; {advice(checkpoint)}, or set PIPELINE_ALLOW_UNTRAINED=true")
    logger.warning("%s: answers are noise until it is trained.", missing)


def untrained_weights(pipe: Pipeline) -> Mapping[str, torch.Tensor]:
    """Those of a model's weights that no file has, by name.

    A buffer is computed when the model is made, as sines of positions are; but those of a normalization are learnt.
    """
    names: Sequence[str] = getattr(pipe, "untrained", ())
    if not names:
        return {}
    learnt: dict[str, torch.Tensor] = dict(pipe.model.named_parameters(remove_duplicate=False))
    learnt |= {name: buffer for name, buffer in pipe.model.named_buffers() if LEARNT_BUFFERS & {name.split(".")[-1]}}
    return {name: learnt[name].detach() for name in names if name in learnt}


def _is_read(
    forward: ForwardRunner, probe: ModelInput, numbers_read: NumbersRead, weights: Mapping[str, torch.Tensor]
) -> bool:
    """Whether an answer changes with these weights, by making them no numbers: that spreads to all they touch."""
    before = numbers_read(probe, forward.forward([probe])[0])
    with _spoilt(weights):
        try:
            after = numbers_read(probe, forward.forward([probe])[0])
        except Exception:
            logger.debug("The model fails without its untrained weights.", exc_info=True)
            return True
    return not torch.equal(before, after)


@contextmanager
def _spoilt(weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
    kept = {name: weight.clone() for name, weight in weights.items()}
    with torch.no_grad():
        for weight in weights.values():
            weight.fill_(torch.nan)
        try:
            yield
        finally:
            for name, weight in weights.items():
                weight.copy_(kept[name])


def check_answers(forward: ForwardRunner, probes: Sequence[ModelInput], numbers_read: NumbersRead) -> None:
    """Raises `ConfigurationError` if the answers to unlike probes are no numbers, or all the same to the last bit."""
    answers = [numbers_read(probe, forward.forward([probe])[0]).float() for probe in probes]
    if any(answer.isnan().any() for answer in answers):
        raise ConfigurationError(f"the model computes no numbers (nan) on plain inputs: {why_nan(forward.pipe.model)}")
    if are_equal(answers) and not forward.generates:
        raise ConfigurationError(
            f"the model gives the same answer, to the last bit, to {len(answers)} unlike inputs: its weights or its "
            "tokenizer are broken; save or download the model again"
        )


def why_nan(model: Any) -> str:
    """And what to do."""
    if model.dtype == torch.float32:
        return "its weights are broken; save or download the model again"
    dtype = str(model.dtype).removeprefix("torch.")
    return (
        f"its weights are broken, or {dtype} is too small for them; set PIPELINE_DTYPE=float32, or save or download "
        "the model again"
    )


def are_equal(answers: Sequence[torch.Tensor]) -> bool:
    """Whether there are several, and all say the same as far as they are long."""
    length = min((answer.numel() for answer in answers), default=0)
    first, *others = [answer.flatten()[:length] for answer in answers] or [torch.empty(0)]
    return length > 0 and bool(others) and all(torch.equal(first, other) for other in others)
