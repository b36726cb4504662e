"""Texts: from a text, a pair of texts, or token ids to model inputs.

Where the pipeline's `preprocess` is one call of the tokenizer, the texts that arrived together share it. It must never
know requests or HTTP.
"""

import inspect
import logging
import random
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeGuard

import torch
from transformers import TokenizersBackend
from transformers.pipelines.base import Pipeline
from transformers.pipelines.feature_extraction import FeatureExtractionPipeline
from transformers.pipelines.fill_mask import FillMaskPipeline
from transformers.pipelines.text_classification import TextClassificationPipeline

from pipeline_webserver.errors import Rejected, TooLarge, first_line
from pipeline_webserver.inference.model_inputs import Limits, ModelInput, PreparedInput, RawInput
from pipeline_webserver.inference.module_state import ModuleState
from pipeline_webserver.inference.position_tables import configured_limit, table_limit
from pipeline_webserver.inference.preprocessing.base import CheckedInput, Preprocessor, tokenizer_limit
from pipeline_webserver.model_info import ModelInfo

logger = logging.getLogger(__name__)

# What one input may cost, so that a few bytes cannot take minutes: characters over all its labels, and tokens over all
# its chunks or labels.
MAX_CHARACTERS_OF_ONE_INPUT = 2**20
MAX_TOKENS_OF_ONE_INPUT = 16_384
# Texts up to this are tokenized at once. Of longer ones the beginning is tokenized first: so many characters for each
# token that the model takes are far too many, except for spaces and the like.
SHORT_CHARACTERS, CHARACTERS_PER_TOKEN = 4_096, 32
# The pipelines whose `preprocess` is one call of the tokenizer; fill-mask then looks for a mask.
SINGLE_CALL = (FillMaskPipeline, TextClassificationPipeline, FeatureExtractionPipeline)
# What warm-up inputs are made of.
WORDS = [
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
]


def max_input_tokens(pipe: Pipeline) -> int | None:
    """The longest input the model takes, in tokens; None where there is no such limit.

    A table of positions decides: past its end a forward pass fails. Without a table it is what the tokenizer or the
    configuration says, whichever is less.
    """
    accepted = inspect.signature(pipe.model.forward).parameters

    @torch.no_grad()
    def run(words: int) -> int:
        tokens = pipe.tokenizer(" ".join(["the"] * words), return_tensors="pt").to(pipe.device)
        pipe.model(**{name: tensor for name, tensor in tokens.items() if name in accepted})
        return int(tokens["input_ids"].shape[1])

    state = ModuleState(pipe.model)
    try:
        state.settle(lambda: run(1))
        with state.kept():
            limit = table_limit(run)
        if limit:
            return limit
    except Exception as error:  # whatever else this model needs, the warm-up will say it
        logger.debug("The model's positions could not be looked at: %s", first_line(error))
    limits = tokenizer_limit(pipe.tokenizer), configured_limit(pipe.model.config)
    return min((limit for limit in limits if limit), default=None)


def count_characters(value: object) -> int:
    """Those of a text, or of both texts of a pair."""
    if isinstance(value, dict):
        return sum(map(len, value.values()))
    return len(value) if isinstance(value, str) else 0


def is_long(value: object) -> bool:
    """Whether tokenizing it may take long."""
    return count_characters(value) > SHORT_CHARACTERS


def is_short_text(value: object) -> TypeGuard[str]:
    """Whether it is a single text that is tokenized at once."""
    return isinstance(value, str) and not is_long(value)


def first_token(input_ids: torch.Tensor) -> torch.Tensor:
    """The positions that a classifier reads, `[rows, padded]`: the first token stands for the text."""
    is_read = torch.zeros_like(input_ids, dtype=torch.bool)
    is_read[:, 0] = True
    return is_read


def warmup_words(count: int) -> list[str]:
    """So many words, always the same."""
    return random.Random(count).choices(WORDS, k=count)  # noqa: S311 - repeatable, not secret


class TextPreprocessor(Preprocessor):
    """Texts and pairs of texts."""

    # How the pipeline is told to truncate long texts; other pipelines truncate by themselves.
    truncation: ClassVar[Mapping[str, object]] = {}

    def __init__(self, pipe: Pipeline, limits: Limits) -> None:
        super().__init__(pipe, limits)
        self.max_tokens = max_input_tokens(pipe)
        if self.max_tokens is not None:  # to which a text is cut, where that is asked for
            pipe.tokenizer.model_max_length = min(pipe.tokenizer.model_max_length, self.max_tokens)
        self._is_single_call = type(pipe) in SINGLE_CALL and isinstance(pipe.tokenizer, TokenizersBackend)

    def pipeline_parameters(self, value: Any, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        pipeline_parameters = {**self.truncation, **parameters} if self.limits.truncate else parameters
        self.check_parameters(pipeline_parameters)
        self.check_characters(value, pipeline_parameters)
        return pipeline_parameters

    def is_slow(self, checked: CheckedInput) -> bool:
        return is_long(checked.input)

    def warmup_input(self, words: int) -> RawInput:
        return " ".join(warmup_words(words)), {}

    # Tokens

    def tokenize_batch(self, batch: Sequence[CheckedInput]) -> None:
        """One call of the tokenizer for all short texts with equal options, in half the time of a call for each."""
        groups: dict[Hashable, list[CheckedInput]] = {}
        for checked in batch:
            if self._is_single_call and is_short_text(checked.input):
                groups.setdefault(self.tokenize_key(checked), []).append(checked)
        for group in groups.values():
            if len(group) > 1:
                options = group[0].preprocess
                self.tokenize_group(group, options.get("tokenizer_kwargs", options))

    def tokenize_key(self, checked: CheckedInput) -> Hashable:
        """Equal for texts that are tokenized with equal options."""
        return repr(checked.preprocess)

    def tokenize_group(self, group: Sequence[CheckedInput], options: dict[str, Any]) -> None:
        """Tokenize texts with equal options. If that fails, each is tokenized by itself later, with its own error."""
        try:
            tokens = self.pipe.tokenizer([checked.input for checked in group], **options)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic in the tokenizer's Rust is no `Exception`
            logger.debug("Tokenizing %d texts together failed: %s", len(group), error)
            return
        for index, checked in enumerate(group):
            checked.tokens = {name: values[index] for name, values in tokens.items()}

    def model_inputs(self, checked: CheckedInput) -> Iterable[ModelInput]:
        inputs: list[ModelInput] = []
        lengths: list[int] = []
        for tensors in self.tensors(checked):
            lengths.append(int(tensors["input_ids"].shape[1]))
            self.check_lengths(lengths)
            inputs.append(self.model_input(tensors, lengths[-1], checked))
        return inputs

    def model_input(self, tensors: Mapping[str, Any], tokens: int, checked: CheckedInput) -> ModelInput:
        """One model input of these tensors."""
        return ModelInput(tensors, checked.forward, tokens)

    def tensors(self, checked: CheckedInput) -> Iterable[Any]:
        """What the pipeline's `preprocess` makes of the text: tensors `[1, tokens]` by name, for each chunk."""
        if checked.tokens is None:
            return self.run_preprocess(checked, checked.input)
        return [{name: torch.tensor([values]) for name, values in checked.tokens.items()}]

    # Limits

    def check_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Raises `Rejected` for what would fail, or cost too much, only later."""

    def check_characters(self, value: object, parameters: Mapping[str, Any]) -> None:
        """Raises `TooLarge` for what would take long only to be tokenized: a second for each half a million characters.

        Where a text is not truncated, its beginning may suffice to reject it.
        """
        if not is_long(value):
            return
        characters = count_characters(value) * self.tokenizations(parameters)
        if characters > MAX_CHARACTERS_OF_ONE_INPUT:
            limit = f"the server takes {MAX_CHARACTERS_OF_ONE_INPUT}"
            raise TooLarge(f"The input has {characters} characters, counted for each label; {limit}.")
        is_truncated = self.limits.truncate or parameters.get("truncation")
        if self._is_single_call and self.max_tokens is not None and not is_truncated and isinstance(value, str):
            beginning = value[: CHARACTERS_PER_TOKEN * self.max_tokens]
            tokens = len(self.pipe.tokenizer(beginning)["input_ids"])
            if tokens > 2 * self.max_tokens:
                count = tokens if beginning == value else f"over {tokens}"
                raise TooLarge(f"The input has {count} tokens; the model takes at most {self.max_tokens}.")

    def tokenizations(self, parameters: Mapping[str, Any]) -> int:
        """How many times the text is tokenized."""
        return 1

    def check_lengths(self, lengths: Sequence[int]) -> None:
        """Raises `TooLarge` or `Rejected` by the tokens of the last model input, and of all of them."""
        last, total = lengths[-1], sum(lengths)
        if last == 0:
            raise Rejected("The input has no tokens.")
        if self.max_tokens is not None and last > self.max_tokens:
            raise TooLarge(f"The input has {last} tokens; the model takes at most {self.max_tokens}.")
        if len(lengths) > 1 and total > MAX_TOKENS_OF_ONE_INPUT:
            raise TooLarge(f"The input makes over {total - last} tokens; the server takes {MAX_TOKENS_OF_ONE_INPUT}.")


class TextClassificationPreprocessor(TextPreprocessor):
    """Texts and pairs for a classifier; the result of a text is wrapped unless a number of labels is asked for."""

    truncation: ClassVar[Mapping[str, object]] = {"truncation": True}
    positions_read = staticmethod(first_token)

    def build(self, checked: CheckedInput) -> PreparedInput:
        prepared = super().build(checked)
        prepared.is_wrapped = isinstance(checked.input, str) and "top_k" not in checked.parameters
        return prepared


class ZeroShotClassificationPreprocessor(TextPreprocessor):
    """Texts, each with every label in a hypothesis."""

    positions_read = staticmethod(first_token)

    def warmup_input(self, words: int) -> RawInput:
        return " ".join(warmup_words(words)), {"candidate_labels": ["test"]}

    def tokenizations(self, parameters: Mapping[str, Any]) -> int:
        return max(1, len(parameters.get("candidate_labels", ())))


class TokenClassificationPreprocessor(TextPreprocessor):
    """Texts in overlapping chunks."""

    def describe(self, info: ModelInfo) -> ModelInfo:
        return replace(info, max_stride=self.max_stride)

    @property
    def max_stride(self) -> int:
        """Half of the model's length: the closer the overlap is to a whole chunk, the more chunks, without end."""
        return min(int(self.pipe.tokenizer.model_max_length), MAX_TOKENS_OF_ONE_INPUT) // 2

    def check_parameters(self, parameters: Mapping[str, Any]) -> None:
        if parameters.get("stride", 0) > self.max_stride:
            raise Rejected(f"Parameter 'stride' is over half of the model's length, {self.max_stride}.")
