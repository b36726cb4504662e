"""Texts: from a text, a pair, or tokens to rows of tokens for the model.

Where the pipeline's `preprocess` is one call of the tokenizer, the texts that came together share it. It must never
know requests or HTTP.
"""

import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

import torch
from transformers import TokenizersBackend
from transformers.pipelines.base import Pipeline
from transformers.pipelines.feature_extraction import FeatureExtractionPipeline
from transformers.pipelines.fill_mask import FillMaskPipeline
from transformers.pipelines.text_classification import TextClassificationPipeline

from pipeline_webserver.errors import Rejected, TooLarge
from pipeline_webserver.inference.forward import Row
from pipeline_webserver.inference.preprocessing.base import Draft, Limits, Preparation, PreparedInput, Work

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
# What samples are made of.
WORDS = (
    "the",
    "a",
    "of",
    "and",
    "in",
    "to",
    "is",
    "was",
    "he",
    "for",
    "it",
    "with",
    "as",
    "his",
    "on",
    "be",
    "at",
    "by",
)


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


def characters_in(value: object) -> int:
    """Of a text, or of both texts of a pair."""
    if isinstance(value, dict):
        return sum(map(len, value.values()))
    return len(value) if isinstance(value, str) else 0


def is_long(value: object) -> bool:
    """Whether tokenising it may take a while."""
    return characters_in(value) > SHORT_CHARACTERS


def is_short_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and not is_long(value)


def words_of(count: int) -> list[str]:
    """So many words, always the same."""
    return random.Random(count).choices(WORDS, k=count)  # noqa: S311 - repeatable, not secret


class TextPreparation(Preparation):
    """Texts and pairs of them."""

    def __init__(self, pipe: Pipeline, limits: Limits) -> None:
        super().__init__(pipe, limits)
        self.max_tokens = most_tokens(pipe)
        if limits.truncate and self.max_tokens is not None:
            pipe.tokenizer.model_max_length = min(pipe.tokenizer.model_max_length, self.max_tokens)
        self._one_call = type(pipe) in ONE_CALL and isinstance(pipe.tokenizer, TokenizersBackend)

    def given(self, value: Any, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        given = {**TRUNCATION.get(self.task, {}), **parameters} if self.limits.truncate else parameters
        self._check_parameters(given)
        self._check_characters(value, given)
        return given

    def takes_long(self, draft: Draft) -> bool:
        return is_long(draft.input)

    def describe(self) -> dict[str, object]:
        return {"max_stride": self.most_stride} if self.task == "token-classification" else {}

    def sample(self, words: int) -> Work:
        labels = {"candidate_labels": ["test"]} if self.task == "zero-shot-classification" else {}
        return " ".join(words_of(words)), labels

    # Tokens

    def together(self, drafts: Sequence[Draft]) -> None:
        """One call of the tokenizer for all short texts that are to be cut alike, in half the time of one for each."""
        alike: dict[object, list[Draft]] = {}
        for draft in drafts:
            if self._one_call and is_short_text(draft.input):
                alike.setdefault(self.alike(draft), []).append(draft)
        for group in alike.values():
            if len(group) > 1:
                options = group[0].preprocess
                self.tokenise_alike(group, options.get("tokenizer_kwargs", options))

    def alike(self, draft: Draft) -> object:
        """Equal for texts that are to be cut alike."""
        return repr(draft.preprocess)

    def tokenise_alike(self, drafts: Sequence[Draft], options: dict[str, Any]) -> None:
        try:
            tokens = self.pipe.tokenizer([draft.input for draft in drafts], **options)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # whatever one of them did; by itself, each will tell
            logger.debug("Tokenising %d together failed: %s", len(drafts), error)
            return
        for index, draft in enumerate(drafts):
            draft.tokens = {name: values[index] for name, values in tokens.items()}

    def rows(self, draft: Draft) -> Iterable[Row]:
        rows: list[Row] = []
        for inputs in self.preprocessed(draft):
            rows.append(Row(inputs, draft.forward, int(inputs["input_ids"].shape[1])))
            self._check_size(rows)
        return rows

    def preprocessed(self, draft: Draft) -> Iterable[Any]:
        """What `preprocess` of the pipeline makes of the text."""
        if draft.tokens is None:
            return self.made(draft, draft.input)
        return [{name: torch.tensor([values]) for name, values in draft.tokens.items()}]

    # Checks

    @property
    def most_stride(self) -> int:
        """Half of the model's length: the nearer to a whole chunk, the more chunks, without end."""
        return min(int(self.pipe.tokenizer.model_max_length), MOST_TOKENS_OF_ONE_INPUT) // 2

    def _check_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Raises `Rejected` for what would fail, or cost too much, only later."""
        if parameters.get("stride", 0) > self.most_stride:
            raise Rejected(f"Parameter 'stride' is over half of the model's length, {self.most_stride}.")

    def _check_characters(self, value: object, parameters: Mapping[str, Any]) -> None:
        """Raises `TooLarge` for what would take long only to be tokenised: a second for each half a million characters.

        Where a text is not cut, its beginning may tell already. A zero-shot text is tokenised anew for each label.
        """
        if not is_long(value):
            return
        characters = characters_in(value) * max(1, len(parameters.get("candidate_labels", ())))
        if characters > MOST_CHARACTERS_OF_ONE_INPUT:
            most = f"the server takes {MOST_CHARACTERS_OF_ONE_INPUT}"
            raise TooLarge(f"The input has {characters} characters, counted for each label; {most}.")
        is_cut = self.limits.truncate or parameters.get("truncation")
        if self._one_call and self.max_tokens is not None and not is_cut and isinstance(value, str):
            tokens = len(self.pipe.tokenizer(value[: CHARACTERS_OF_A_TOKEN * self.max_tokens])["input_ids"])
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


class ClassifiedPreparation(TextPreparation):
    """Texts and pairs for a classifier; the result of a text is wrapped unless a number of labels is asked for."""

    def finish(self, draft: Draft) -> PreparedInput:
        prepared = super().finish(draft)
        prepared.is_wrapped = isinstance(draft.input, str) and "top_k" not in draft.parameters
        return prepared


class MaskedPreparation(TextPreparation):
    """Texts with masked tokens."""

    def describe(self) -> dict[str, object]:
        most = min(self.pipe.model.config.vocab_size, MOST_GUESSES_OF_ONE_INPUT)
        return {"mask_token": self.pipe.tokenizer.mask_token, "max_top_k": most}

    def sample(self, words: int) -> Work:
        chosen = words_of(words)
        for _ in range(1 + words // 20):
            chosen.insert(words // 2, self.pipe.tokenizer.mask_token)
        return " ".join(chosen), {}

    def preprocessed(self, draft: Draft) -> Iterable[Any]:
        """The pipeline has the word on a text without a mask."""
        if draft.tokens is not None and self.pipe.tokenizer.mask_token_id not in draft.tokens["input_ids"]:
            draft.tokens = None
        return super().preprocessed(draft)

    def rows(self, draft: Draft) -> Iterable[Row]:
        rows = list(super().rows(draft))
        self._check_guesses(rows[0], draft.parameters)
        return rows

    def _check_parameters(self, parameters: Mapping[str, Any]) -> None:
        super()._check_parameters(parameters)
        known = self.pipe.model.config.vocab_size
        if guesses_at_a_mask(parameters) > known:
            raise Rejected(f"Parameter 'top_k' is over the {known} words the model knows.")

    def _check_guesses(self, row: Row, parameters: Mapping[str, Any]) -> None:
        """Raises `TooLarge`."""
        at_a_mask = guesses_at_a_mask(parameters)
        if row.length * at_a_mask <= MOST_GUESSES_OF_ONE_INPUT:  # there are no more masks than tokens
            return
        guesses = at_a_mask * int((row.inputs["input_ids"] == self.pipe.tokenizer.mask_token_id).sum())
        if guesses > MOST_GUESSES_OF_ONE_INPUT:
            raise TooLarge(f"The input asks for {guesses} guesses; the server makes {MOST_GUESSES_OF_ONE_INPUT}.")
