"""From an input to what the model is given, or to its own error, before any computing.

What an input is turned into is what the pipeline's `preprocess` makes of it. What is particular to texts, prompts,
images, sound and tables is in files of their own. It must never know how rows share passes, requests or HTTP.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.pipelines.base import ChunkPipeline, Pipeline, PipelineException

from pipeline_webserver.errors import InferenceFailed, PipelineServerError, Rejected
from pipeline_webserver.inference.forward import Row

Work = tuple[Any, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one input may be: whether a text is cut to the model's length, new tokens, pixels, seconds of sound."""

    truncate: bool = False
    max_new_tokens: int = 256
    max_image_pixels: int = 25_000_000
    max_audio_s: float = 60.0


@dataclass(slots=True)
class PreparedInput:
    """An input that passed every check before computing, and how to finish its outputs.

    Inputs of equal `identity` have equal answers. `new_tokens` may be written, besides what its rows have. `is_wrapped`
    where the pipeline puts the one result into a list.
    """

    rows: list[Row]
    parameters: Mapping[str, object]
    postprocess_parameters: dict[str, Any]
    identity: object
    new_tokens: int = 0
    is_wrapped: bool = False

    @property
    def tokens(self) -> int:
        return sum(row.length for row in self.rows) + self.new_tokens


@dataclass(slots=True)
class Draft:
    """An input whose parameters are checked, the parameters of each stage, and its tokens if they were made already."""

    input: Any
    parameters: Mapping[str, Any]
    preprocess: dict[str, Any]
    forward: dict[str, Any]
    postprocess: dict[str, Any]
    tokens: dict[str, list[int]] | None = None


def failed(message: str, cause: BaseException) -> InferenceFailed:
    failure = InferenceFailed(message)
    failure.__cause__ = cause
    return failure


def own_error(step: Callable[..., Any], *args: Any) -> Any:
    """What the step makes of an input, or the error that is this input's own."""
    try:
        return step(*args)
    except PipelineServerError as error:
        return error
    except (ValueError, TypeError, LookupError, PipelineException) as error:
        return Rejected(str(error).strip() or type(error).__name__)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic in the tokenizer's Rust is no `Exception`, and costs one input only
        return failed("This input could not be prepared.", error)


class Tick(StoppingCriteria):  # type: ignore[misc]
    """Stops nothing: it tells after each token that the call goes on."""

    def __init__(self, preparation: "Preparation") -> None:
        self._preparation = preparation

    def __repr__(self) -> str:
        return "Tick()"  # that of any row will do for a whole pass

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
        self._preparation.on_progress()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


class Preparation:
    """The first stages of one pipeline. Plain blocking calls, for one thread at a time.

    The parts that kinds of input have of their own: `given`, `together`, `rows`, `sample`.
    """

    by_shape = False  # whether rows share a pass by their shapes, without padding
    why_alone: str | None = None  # why they share none
    writes = False  # whether the model writes on

    def __init__(self, pipe: Pipeline, limits: Limits) -> None:
        self.pipe = pipe
        self.limits = limits
        self.task: str = pipe.task
        self.max_tokens: int | None = None
        self.chunked = isinstance(pipe, ChunkPipeline)
        self.tick = StoppingCriteriaList([Tick(self)])  # for models that write
        self.on_progress: Callable[[], None] = lambda: None  # a long call tells that it goes on

    def __call__(self, work: Sequence[Work]) -> list[PreparedInput | PipelineServerError]:
        """Check and preprocess each input by itself: ready for the model, or its own error."""
        drafts = [own_error(self._draft, *item) for item in work]
        self.together([draft for draft in drafts if isinstance(draft, Draft)])
        prepared = []
        for draft in drafts:
            prepared.append(own_error(self.finish, draft) if isinstance(draft, Draft) else draft)
            if isinstance(draft, Draft) and self.takes_long(draft):
                self.on_progress()
        return prepared

    def _draft(self, value: Any, parameters: Mapping[str, Any]) -> Draft:
        pipe = self.pipe
        preprocess, forward, postprocess = pipe._sanitize_parameters(**self.given(value, parameters))
        return Draft(
            self.taken(value, parameters),
            parameters,
            {**pipe._preprocess_params, **preprocess},
            {**pipe._forward_params, **forward},
            {**pipe._postprocess_params, **postprocess},
        )

    def finish(self, draft: Draft) -> PreparedInput:
        """The draft, ready for the model."""
        rows = list(self.rows(draft))
        return PreparedInput(rows, draft.parameters, draft.postprocess, self.identity(draft))

    def made(self, draft: Draft, value: Any) -> Iterable[Any]:
        """What the pipeline's `preprocess` makes of an input; chunks come one by one, so that too many stop early."""
        made = self.pipe.preprocess(value, **draft.preprocess)
        return made if self.chunked else [made]

    def identity(self, draft: Draft) -> object:
        return (repr(draft.input), repr(sorted(draft.parameters.items())))

    # What kinds of input have of their own

    def describe(self) -> dict[str, object]:
        """What `/info` says of it."""
        return {}

    def taken(self, value: Any, parameters: Mapping[str, Any]) -> Any:
        """What is prepared in its place."""
        return value

    def given(self, value: Any, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """The pipeline's parameters. Raises `Rejected` or `TooLarge` for what would fail, or cost too much, later."""
        return parameters

    def together(self, drafts: Sequence[Draft]) -> None:
        """What can be done for many at once."""

    def takes_long(self, draft: Draft) -> bool:
        """Whether preparing it may take a while."""
        return True

    def rows(self, draft: Draft) -> Iterable[Row]:
        """Raises `Rejected` or `TooLarge`."""
        raise NotImplementedError

    def sample(self, words: int) -> Work:
        """An input that the pipeline takes, about as long as a text of so many words; always the same."""
        raise NotImplementedError
