"""From an input to rows of tokens: its parameters and its size are checked, and it is tokenised, before any computing.

Each input by itself has its own error. What they are turned into is what the pipeline's `preprocess` makes; where that
is one call of the tokenizer, the inputs that came together share it. It must never know passes, requests or HTTP.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from transformers import TokenizersBackend
from transformers.pipelines.base import ChunkPipeline, Pipeline, PipelineException
from transformers.pipelines.feature_extraction import FeatureExtractionPipeline
from transformers.pipelines.fill_mask import FillMaskPipeline
from transformers.pipelines.text_classification import TextClassificationPipeline

from errors import InferenceFailed, PipelineServerError, Rejected, TooLarge
from passes import Row

logger = logging.getLogger(__name__)

# How each pipeline is told to cut long texts. The others cut without being told.
TRUNCATION: dict[str, dict[str, object]] = {
    "fill-mask": {"tokenizer_kwargs": {"truncation": True}},
    "text-classification": {"truncation": True},
    "feature-extraction": {"truncation": True},
}
# What one input may ask for, so that a few bytes cannot cost minutes: tokens over all its chunks, and guesses over all
# its masks (each is decoded with the whole text).
MOST_TOKENS_OF_ONE_INPUT = 16_384
MOST_GUESSES_OF_ONE_INPUT = 4_096
MOST_CHARACTERS_OF_ONE_INPUT = 2**20
# Texts up to this are tokenised at once. Of longer ones the beginning is looked at first: so many characters for each
# token that the model takes are far too many, but for spaces and the like.
SHORT_CHARACTERS, CHARACTERS_OF_A_TOKEN = 4_096, 32
# Those whose `preprocess` is one call of the tokenizer; fill-mask then looks for a mask.
ONE_CALL = (FillMaskPipeline, TextClassificationPipeline, FeatureExtractionPipeline)

Work = tuple[object, Mapping[str, object]]


@dataclass(slots=True)
class PreparedInput:
    """An input that passed every check before computing, and how to finish its outputs."""

    rows: list[Row]
    parameters: Mapping[str, object]
    postprocess_parameters: dict[str, Any]
    identity: tuple[object, str]  # equal for inputs that have equal answers

    @property
    def tokens(self) -> int:
        return sum(row.length for row in self.rows)


@dataclass(slots=True)
class Draft:
    """An input whose parameters are checked, and what it was tokenised to, if that was done together with others."""

    text: object
    parameters: Mapping[str, object]
    preprocess: dict[str, Any]
    forward: dict[str, Any]
    postprocess: dict[str, Any]
    tokens: dict[str, list[int]] | None = None


def most_tokens(pipe: Pipeline) -> int | None:
    """The longest input the model takes, in tokens; None where there is no such limit.

    A table of positions has the last word: past its end a forward pass fails. Models of the RoBERTa family leave its
    first rows unused, up to the padding index. Without a table it is what the tokenizer says.
    """
    tables = [
        module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
        for name, module in pipe.model.named_modules()
        if isinstance(module, torch.nn.Embedding) and name.endswith("position_embeddings")
    ]
    if tables:
        return min(tables)
    said: int = pipe.tokenizer.model_max_length
    return said if said < 10**9 else None


def guesses_at_a_mask(parameters: Mapping[str, Any]) -> int:
    """As the fill-mask pipeline counts: five unless told, and no more than there are targets."""
    guesses: int = parameters.get("top_k", 5)
    targets = parameters.get("targets")
    return guesses if targets is None else min(guesses, len(targets))


def is_long(text: object) -> TypeGuard[str]:
    """Whether tokenising it may take a while."""
    return isinstance(text, str) and len(text) > SHORT_CHARACTERS


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


class Preparation:
    """The first stages of one pipeline. Plain blocking calls, for one thread at a time."""

    def __init__(self, pipe: Pipeline, *, truncate: bool) -> None:
        self.pipe = pipe
        self.task: str = pipe.task
        self.truncate = truncate
        self.max_tokens = most_tokens(pipe)
        if truncate and self.max_tokens is not None:
            pipe.tokenizer.model_max_length = min(pipe.tokenizer.model_max_length, self.max_tokens)
        self._chunked = isinstance(pipe, ChunkPipeline)
        self.between_inputs: Callable[[], None] = lambda: None  # a long call tells that it goes on
        self._one_call = type(pipe) in ONE_CALL and isinstance(pipe.tokenizer, TokenizersBackend)

    def __call__(self, work: Sequence[Work]) -> list[PreparedInput | PipelineServerError]:
        """Check and tokenise each input by itself: ready for the model, or its own error."""
        drafts = [own_error(self._draft, *item) for item in work]
        if self._one_call:
            self._tokenise_together([draft for draft in drafts if isinstance(draft, Draft)])
        prepared = []
        for draft in drafts:
            prepared.append(own_error(self._finish, draft) if isinstance(draft, Draft) else draft)
            if isinstance(draft, Draft) and is_long(draft.text):
                self.between_inputs()
        return prepared

    def _draft(self, text: object, parameters: Mapping[str, object]) -> Draft:
        pipe = self.pipe
        given = {**TRUNCATION.get(self.task, {}), **parameters} if self.truncate else parameters
        self._check_parameters(given)
        self._check_characters(text, given)
        preprocess, forward, postprocess = pipe._sanitize_parameters(**given)
        return Draft(
            text,
            parameters,
            {**pipe._preprocess_params, **preprocess},
            {**pipe._forward_params, **forward},
            {**pipe._postprocess_params, **postprocess},
        )

    def _tokenise_together(self, drafts: Sequence[Draft]) -> None:
        """One call of the tokenizer for all short texts that are to be cut alike, in half the time of one for each."""
        alike: dict[str, list[Draft]] = {}
        for draft in drafts:
            if isinstance(draft.text, str) and not is_long(draft.text):
                alike.setdefault(repr(draft.preprocess), []).append(draft)
        for group in alike.values():
            if len(group) > 1:
                options = group[0].preprocess
                self._tokenise_alike(group, options.get("tokenizer_kwargs", options))

    def _tokenise_alike(self, drafts: Sequence[Draft], options: dict[str, Any]) -> None:
        try:
            tokens = self.pipe.tokenizer([draft.text for draft in drafts], **options)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # whatever one of them did; by itself, each will tell
            logger.debug("Tokenising %d together failed: %s", len(drafts), error)
            return
        for index, draft in enumerate(drafts):
            draft.tokens = {name: values[index] for name, values in tokens.items()}

    def _finish(self, draft: Draft) -> PreparedInput:
        rows: list[Row] = []
        made = self._preprocess(draft)
        for inputs in made if self._chunked else [made]:  # chunks come one by one, so too many stop early
            rows.append(Row(inputs, draft.forward, int(inputs["input_ids"].shape[1])))
            self._check_size(rows)
        self._check_guesses(rows[0], draft.parameters)
        identity = (draft.text, repr(sorted(draft.parameters.items())))
        return PreparedInput(rows, draft.parameters, draft.postprocess, identity)

    def _preprocess(self, draft: Draft) -> Any:
        """What `preprocess` of the pipeline makes of the text; it has the word on a text without a mask."""
        if draft.tokens is None or not self._has_its_mask(draft.tokens["input_ids"]):
            return self.pipe.preprocess(draft.text, **draft.preprocess)
        return {name: torch.tensor([values]) for name, values in draft.tokens.items()}

    def _has_its_mask(self, tokens: Sequence[int]) -> bool:
        return self.task != "fill-mask" or self.pipe.tokenizer.mask_token_id in tokens

    def _check_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Raises `Rejected` for what would fail, or cost too much, only later."""
        if self.task == "fill-mask" and guesses_at_a_mask(parameters) > self.pipe.model.config.vocab_size:
            raise Rejected(f"Parameter 'top_k' is over the {self.pipe.model.config.vocab_size} words the model knows.")
        most_stride = self.pipe.tokenizer.model_max_length // 2
        if parameters.get("stride", 0) > most_stride:  # the nearer to a whole chunk, the more chunks, without end
            raise Rejected(f"Parameter 'stride' is over half of the model's length, {most_stride}.")

    def _check_characters(self, text: object, parameters: Mapping[str, Any]) -> None:
        """Raises `TooLarge` for what would take long only to be tokenised: a second for each half a million characters.

        Where a text is not cut, its beginning may tell already. A zero-shot text is tokenised anew for each label.
        """
        if not is_long(text):
            return
        characters = len(text) * max(1, len(parameters.get("candidate_labels", ())))
        if characters > MOST_CHARACTERS_OF_ONE_INPUT:
            most = f"the server takes {MOST_CHARACTERS_OF_ONE_INPUT}"
            raise TooLarge(f"The input has {characters} characters, counted for each label; {most}.")
        if self._one_call and self.max_tokens is not None and not self.truncate and not parameters.get("truncation"):
            tokens = len(self.pipe.tokenizer(text[: CHARACTERS_OF_A_TOKEN * self.max_tokens])["input_ids"])
            if tokens > 2 * self.max_tokens:
                raise TooLarge(f"The input has over {tokens} tokens; the model takes at most {self.max_tokens}.")

    def _check_size(self, rows: Sequence[Row]) -> None:
        """Raises `TooLarge` or `Rejected`."""
        last, total = rows[-1].length, sum(row.length for row in rows)
        if last == 0:
            raise Rejected("The input has no tokens.")
        if self.max_tokens is not None and last > self.max_tokens:
            raise TooLarge(f"The input has {last} tokens; the model takes at most {self.max_tokens}.")
        if len(rows) > 1 and total > MOST_TOKENS_OF_ONE_INPUT:
            raise TooLarge(f"The input makes over {total - last} tokens; the server takes {MOST_TOKENS_OF_ONE_INPUT}.")

    def _check_guesses(self, row: Row, parameters: Mapping[str, Any]) -> None:
        """Raises `TooLarge`."""
        at_a_mask = guesses_at_a_mask(parameters) if self.task == "fill-mask" else 0
        if row.length * at_a_mask <= MOST_GUESSES_OF_ONE_INPUT:  # there are no more masks than tokens
            return
        guesses = at_a_mask * int((row.inputs["input_ids"] == self.pipe.tokenizer.mask_token_id).sum())
        if guesses > MOST_GUESSES_OF_ONE_INPUT:
            raise TooLarge(f"The input asks for {guesses} guesses; the server makes {MOST_GUESSES_OF_ONE_INPUT}.")
