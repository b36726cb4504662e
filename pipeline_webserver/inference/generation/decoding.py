"""How the next token of a sequence is chosen: by what `generate` prepares for each input, together where it is alike.

`generate` is called with a decoding loop that only looks, so its own checks, defaults, processors and ends hold, of
whatever version. It must never know requests or loops.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.generation import (
    EosTokenCriteria,
    GenerationMode,
    LogitsProcessorList,
    MaxLengthCriteria,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)
from transformers.pipelines.base import Pipeline

from pipeline_webserver.inference.model_inputs import ModelInput, hashable

# Processors that look at the scores of the next token only: those of several inputs can be called together.
WARPERS = (TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper, MinPLogitsWarper, TypicalLogitsWarper)
STEPPABLE = {GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE}


@dataclass(slots=True)
class Decoding:
    """How the tokens of one input are chosen, and when its sequences end.

    `batch_key` is equal for inputs whose processors look at scores only, and alike; None where they look at tokens. A
    `generator` is of an input with a seed.
    """

    processors: LogitsProcessorList
    is_sampled: bool
    batch_key: Hashable
    max_length: int
    end_ids: frozenset[int]
    pad_id: int  # what follows the end of a sequence beside a longer one of its input
    criteria: list[Any]  # further ends
    generator: torch.Generator | None = None


@dataclass(slots=True)
class Prompt:
    """What `generate` goes on from, `[sequences, tokens]`, and what the pipeline's forward pass gave besides."""

    input_ids: torch.Tensor
    outputs: dict[str, Any]
    decoding: Decoding | None  # None where it cannot be done step by step


def prepare(pipe: Pipeline, model_input: ModelInput) -> Prompt:
    """What `generate` prepares of an input. Raises what it raises."""
    found: dict[str, Any] = {}

    def look(
        model: Any,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: Any,
        generation_config: Any,
        **others: Any,
    ) -> torch.Tensor:
        found.update(ids=input_ids, processors=logits_processor, criteria=stopping_criteria, config=generation_config)
        return input_ids

    parameters = {**model_input.forward_parameters, "custom_generate": look}
    outputs = pipe.forward(dict(model_input.tensors), **parameters)
    config, processors = found["config"], found["processors"]
    is_steppable = (
        config.get_generation_mode() in STEPPABLE
        and not config.return_dict_in_generate
        and not any(isinstance(one, UnbatchedClassifierFreeGuidanceLogitsProcessor) for one in processors)
    )
    if not is_steppable:
        return Prompt(found["ids"], outputs, None)
    max_length, end_ids, criteria = config.max_length, frozenset[int](), []
    for one in found["criteria"]:
        if isinstance(one, MaxLengthCriteria):
            max_length = one.max_length
        elif isinstance(one, EosTokenCriteria):
            end_ids = frozenset(one.eos_token_id.tolist())
        else:
            criteria.append(one)
    generator = None
    if model_input.seed is not None:
        generator = torch.Generator(pipe.device).manual_seed(model_input.seed)
    key = None
    if all(type(one) in WARPERS for one in processors):
        key = tuple((type(one).__name__, hashable(values_of(one))) for one in processors)
    pad_id = config.pad_token_id if config.pad_token_id is not None else min(end_ids, default=0)
    decoding = Decoding(processors, config.do_sample, key, max_length, end_ids, pad_id, criteria, generator)
    return Prompt(found["ids"], outputs, decoding)


def values_of(processor: Any) -> dict[str, Any]:
    """The settings of a processor, as plain values."""
    return {name: item.tolist() if isinstance(item, torch.Tensor) else item for name, item in vars(processor).items()}


@dataclass(slots=True)
class Choice:
    """Of one input, how many sequences there are, and which of them are due a token; `rows`: where their scores are."""

    decoding: Decoding
    sequences: int
    due: list[int]
    rows: list[int]
    ids: list[list[int]]  # the tokens so far of those that are due
    tokens: list[int] = field(default_factory=list)
    error: Exception | None = None


class NoNumbers(RuntimeError):
    """The model computed no numbers for a sequence."""


def choose(scores: torch.Tensor, choices: Sequence[Choice]) -> None:
    """Fill in the tokens, or the error, of each choice from `scores` `[rows, vocabulary]`."""
    best, tokens = scores.max(-1)
    is_number, greedy = torch.isfinite(best).tolist(), tokens.tolist()
    groups: dict[Hashable, list[Choice]] = {}
    for choice in choices:
        if not all(is_number[row] for row in choice.rows):
            choice.error = NoNumbers("the model computed no numbers")
        elif not choice.decoding.processors and not choice.decoding.is_sampled:
            choice.tokens = [greedy[row] for row in choice.rows]
        elif choice.decoding.batch_key is None or choice.decoding.generator is not None:
            _choose_alone(scores, choice)
        else:
            groups.setdefault((choice.decoding.is_sampled, choice.decoding.batch_key), []).append(choice)
    for group in groups.values():
        _choose_together(scores, group)


def _choose_together(scores: torch.Tensor, group: list[Choice]) -> None:
    decoding = group[0].decoding
    rows = scores[[row for choice in group for row in choice.rows]]
    try:
        processed = decoding.processors(None, rows)
        chosen = iter(_draw(processed, None).tolist() if decoding.is_sampled else processed.argmax(-1).tolist())
    except Exception as error:
        for choice in group:
            if len(group) == 1:
                choice.error = error
            else:
                _choose_together(scores, [choice])
        return
    for choice in group:
        choice.tokens = [next(chosen) for _ in choice.rows]


def _choose_alone(scores: torch.Tensor, choice: Choice) -> None:
    """By processors that look at tokens, or with random numbers of its own."""
    decoding = choice.decoding
    try:
        ids = torch.tensor(choice.ids, device=scores.device)
        processed = decoding.processors(ids, scores[choice.rows])
        if not decoding.is_sampled:
            choice.tokens = processed.argmax(-1).tolist()
        elif decoding.generator is None:
            choice.tokens = _draw(processed, None).tolist()
        else:  # as many numbers are drawn as by `generate`, which goes on with sequences that have ended
            every = processed.new_zeros(choice.sequences, processed.shape[1])
            every[choice.due] = processed
            drawn = _draw(every, decoding.generator).tolist()
            choice.tokens = [drawn[index] for index in choice.due]
    except Exception as error:
        choice.error = error


def _draw(scores: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """A token for each row, by the probabilities of its scores."""
    return torch.multinomial(torch.softmax(scores, -1), 1, generator=generator).squeeze(1)


def is_end(tokens: list[int], decoding: Decoding) -> bool:
    """Whether a sequence ends with the last of its tokens."""
    if len(tokens) >= decoding.max_length or tokens[-1] in decoding.end_ids:
        return True
    if not decoding.criteria:
        return False
    ids = torch.tensor([tokens])
    return any(bool(criterion(ids, None)[0]) for criterion in decoding.criteria)
