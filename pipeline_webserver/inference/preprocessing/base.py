"""From an input to model inputs, or to its own error before any computing; and from model outputs to its result.

What an input becomes is what the pipeline's `preprocess` makes of it. What kinds of input have of their own is in the
files beside this one. It must never know how model inputs share passes, requests or HTTP.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.pipelines.base import ChunkPipeline, Pipeline, PipelineException

from pipeline_webserver.errors import InferenceFailed, PipelineServerError, Rejected
from pipeline_webserver.inference import internals
from pipeline_webserver.inference.batch_plan import BatchStrategy
from pipeline_webserver.inference.model_inputs import (
    NO_LIMIT,
    Heartbeat,
    Limits,
    ModelInput,
    PositionsRead,
    PreparedInput,
    RawInput,
    no_heartbeat,
)
from pipeline_webserver.inference.numerics import flatten_outputs
from pipeline_webserver.model_info import ModelInfo

# From the outputs of an input's model inputs, and its postprocess parameters, to its result.
Postprocess = Callable[..., Any]


class BatchPostprocess(ABC):
    """A postprocess that is faster for many inputs at once, with the results that it has for each alone."""

    @abstractmethod
    def __call__(self, outputs: Any, **parameters: Any) -> Any:
        """The result of one input."""

    @abstractmethod
    def batch_key(self, parameters: Mapping[str, Any]) -> Hashable | None:
        """Equal for inputs that can be postprocessed together, None for one that cannot."""

    @abstractmethod
    def batch(self, batch: Sequence[tuple[Any, Mapping[str, Any]]]) -> list[Any]:
        """The results of inputs with equal keys, each its outputs and its parameters."""


@dataclass(slots=True)
class CheckedInput:
    """An input whose parameters are checked, with the pipeline's parameters for each stage.

    `tokens` are those of the input, where a call of the tokenizer for many inputs made them already. `generation`: the
    settings by which a model that generates does so for this input.
    """

    input: Any
    parameters: Mapping[str, Any]
    preprocess: dict[str, Any]
    forward: dict[str, Any]
    postprocess: dict[str, Any]
    tokens: dict[str, list[int]] | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)


def tokenizer_limit(tokenizer: Any) -> int | None:
    """The longest input that a tokenizer allows, in tokens; None where it has no limit."""
    limit: int = tokenizer.model_max_length
    return limit if limit < NO_LIMIT else None


def inference_failed(message: str, cause: BaseException) -> InferenceFailed:
    """The error, with its cause for the log."""
    failure = InferenceFailed(message)
    failure.__cause__ = cause
    return failure


def or_input_error(step: Callable[..., Any], *args: Any) -> Any:
    """What the step returns, or the error that is this input's own."""
    try:
        return step(*args)
    except PipelineServerError as error:
        return error
    except (ValueError, TypeError, LookupError, PipelineException) as error:
        return Rejected(str(error).strip() or type(error).__name__)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic in the tokenizer's Rust is no `Exception`, and costs one input only
        return inference_failed("This input could not be prepared.", error)


class Preprocessor:
    """The preprocessing of one pipeline, and its postprocessing. Plain blocking calls, for one thread at a time.

    Kinds of input override `pipeline_parameters`, `adapt_input`, `tokenize_batch`, `model_inputs`, `warmup_input` and
    `make_postprocess`. Nothing here runs the model: that thread may be busy with another batch.
    """

    by_shape = False  # whether model inputs share a pass by equal shapes, without padding
    strategy: BatchStrategy | None = None  # the one way to share passes, where the start need not find it out
    generates = False  # whether the model generates tokens
    encodes_text = True  # whether the model encodes padded token sequences, which optimizations of encoders are for
    scores_vocabulary = False  # whether its head computes a score for each word of the vocabulary
    positions_read: PositionsRead | None = None  # where the pipeline reads the output, if not at every position

    def __init__(self, pipe: Pipeline, limits: Limits) -> None:
        self.pipe = pipe
        self.limits = limits
        self.task: str = pipe.task
        self.max_tokens: int | None = None
        self.is_chunked = isinstance(pipe, ChunkPipeline)

    def __call__(
        self, inputs: Sequence[RawInput], heartbeat: Heartbeat = no_heartbeat
    ) -> list[PreparedInput | PipelineServerError]:
        """Check and preprocess each input by itself: ready for the model, or its own error.

        `heartbeat` is called after each input that may take long.
        """
        checked = [or_input_error(self.check, *item) for item in inputs]
        self.tokenize_batch([item for item in checked if isinstance(item, CheckedInput)])
        prepared = []
        for item in checked:
            prepared.append(or_input_error(self.build, item) if isinstance(item, CheckedInput) else item)
            if isinstance(item, CheckedInput) and self.is_slow(item):
                heartbeat()
        return prepared

    def check(self, value: Any, parameters: Mapping[str, Any]) -> CheckedInput:
        """The input with the parameters of each stage. Raises `Rejected` or `TooLarge`."""
        stages = internals.stage_parameters(self.pipe, self.pipeline_parameters(value, parameters))
        return CheckedInput(self.adapt_input(value, parameters), parameters, *stages)

    def build(self, checked: CheckedInput) -> PreparedInput:
        """The checked input, ready for the model. Raises `Rejected` or `TooLarge`."""
        model_inputs = list(self.model_inputs(checked))
        return PreparedInput(model_inputs, checked.parameters, checked.postprocess, self.dedup_key(checked))

    def run_preprocess(self, checked: CheckedInput, value: Any) -> Iterable[Any]:
        """What the pipeline's `preprocess` makes of an input; chunks come one by one, so that too many stop early."""
        outputs = self.pipe.preprocess(value, **checked.preprocess)
        return outputs if self.is_chunked else [outputs]

    def dedup_key(self, checked: CheckedInput) -> Hashable:
        """Equal for inputs that have equal results."""
        return (repr(checked.input), repr(sorted(checked.parameters.items())))

    # What kinds of input have of their own

    def describe(self, info: ModelInfo) -> ModelInfo:
        """The model's information, with what this kind of input adds."""
        return info

    def adapt_input(self, value: Any, parameters: Mapping[str, Any]) -> Any:
        """The value that is preprocessed in place of the input."""
        return value

    def pipeline_parameters(self, value: Any, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """The pipeline's parameters. Raises `Rejected` or `TooLarge` for what would fail, or cost too much, later."""
        return parameters

    def tokenize_batch(self, batch: Sequence[CheckedInput]) -> None:
        """What can be done for many inputs at once."""

    def is_slow(self, checked: CheckedInput) -> bool:
        """Whether preprocessing this input may take long."""
        return True

    def model_inputs(self, checked: CheckedInput) -> Iterable[ModelInput]:
        """What the model is given for this input. Raises `Rejected` or `TooLarge`."""
        raise NotImplementedError

    def warmup_input(self, words: int) -> RawInput:
        """An input that the pipeline takes, about as long as a text of so many words; always the same."""
        raise NotImplementedError

    # Outputs

    def make_postprocess(self, pipe: Pipeline) -> Postprocess:
        """From model outputs and postprocess parameters to the result: the pipeline's own, as far as JSON has it.

        `pipe` is a copy for the thread that runs it, with a tokenizer of its own.
        """
        postprocess: Postprocess = pipe.postprocess
        return postprocess

    def numbers_read(self, model_input: ModelInput, outputs: Any) -> torch.Tensor:
        """The numbers of a model's outputs that the postprocess reads, `[numbers]` or `[positions, numbers]`."""
        return flatten_outputs(outputs)
