"""Text generation: from a prompt to a model input, and from the generated tokens to a text, without those of the batch.

A request cannot make a model generate more than the server's limit, nor past the positions it has. Sampling is random
unless a seed is given: then it has a pass of its own, and the result is always the same. It must never know requests or
HTTP.
"""

import copy
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from transformers.pipelines.base import Pipeline

from pipeline_webserver.errors import Rejected, TooLarge
from pipeline_webserver.inference import internals
from pipeline_webserver.inference.model_inputs import Limits, ModelInput, PreparedInput, RawInput
from pipeline_webserver.inference.preprocessing.base import CheckedInput, Postprocess
from pipeline_webserver.inference.preprocessing.generation import (
    WARMUP_TOKENS,
    StopTextCriterion,
    check_new_tokens,
    is_padding_safe,
    max_positions,
)
from pipeline_webserver.inference.preprocessing.text import TextPreprocessor, warmup_words

# Behind an empty prompt, a text begins with the one token that begins texts.
FIRST_TOKENS = 1


class TextGenerationPreprocessor(TextPreprocessor):
    """Prompts of a model that generates text."""

    generates = True
    encodes_text = False

    def __init__(self, pipe: Pipeline, limits: Limits) -> None:
        if pipe.tokenizer.pad_token_id is None:  # only ever beside real tokens, and masked
            pipe.tokenizer.pad_token_id = pipe.tokenizer.eos_token_id
        super().__init__(pipe, limits)
        self.max_tokens = max_positions(pipe)
        # Stop texts are looked for in the model's thread, while this one tokenizes.
        self._decoder = copy.deepcopy(pipe.tokenizer)

    def pipeline_parameters(self, value: Any, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        check_new_tokens(parameters, self.limits.max_new_tokens, "max_new_tokens")
        self.check_characters(value, parameters)
        return {name: item for name, item in parameters.items() if name not in {"seed", "stop_sequence"}}

    def check(self, value: Any, parameters: Mapping[str, Any]) -> CheckedInput:
        checked = super().check(value, parameters)
        checked.generation = internals.generation_settings(self.pipe, checked.forward)
        return checked

    def build(self, checked: CheckedInput) -> PreparedInput:
        prepared = super().build(checked)
        (model_input,) = prepared.model_inputs
        prepared.new_tokens = model_input.forward_parameters["max_new_tokens"]
        return prepared

    def check_lengths(self, lengths: Sequence[int]) -> None:
        if lengths != [0]:
            super().check_lengths(lengths)

    def model_input(self, tensors: Mapping[str, Any], tokens: int, checked: CheckedInput) -> ModelInput:
        is_empty = tokens == 0
        if is_empty:
            tokens = FIRST_TOKENS
            if checked.generation.get("bos_token_id") is None:
                raise Rejected("The input has no tokens, and this model has none that begins a text: send some text.")
        forward = {**checked.forward, "max_new_tokens": self._new_tokens(checked, tokens)}
        if stop_texts := checked.parameters.get("stop_sequence"):
            forward["stopping_criteria"] = [StopTextCriterion(self._decoder, stop_texts)]
        seed = checked.parameters.get("seed")
        extra_key: Hashable = None
        if seed is not None or is_empty:  # the pipeline takes one empty prompt a pass
            extra_key = object()  # equal to no other, as long as it is in use; an id may come again
        elif not is_padding_safe(checked.generation):
            extra_key = tokens
        return ModelInput(tensors, forward, tokens, extra_key, seed)

    def _new_tokens(self, checked: CheckedInput, prompt_tokens: int) -> int:
        """As many as requested or, by default, as the pipeline generates and there is room for. Raises `TooLarge`."""
        room = self.limits.max_new_tokens if self.max_tokens is None else self.max_tokens - prompt_tokens
        requested: int = checked.forward.get("max_new_tokens", 1)
        if requested > room:
            raise TooLarge(
                f"The input has {prompt_tokens} tokens and asks for {requested} more; "
                f"the model takes {self.max_tokens} in all."
            )
        settings = checked.generation
        default: int = settings.get("max_new_tokens") or max(1, settings.get("max_length", 0) - prompt_tokens)
        return min(default, room, self.limits.max_new_tokens)

    def dedup_key(self, checked: CheckedInput) -> Hashable:
        """Two requests that sample without a seed want two results."""
        is_random = checked.generation.get("do_sample") and checked.parameters.get("seed") is None
        return object() if is_random else super().dedup_key(checked)

    def warmup_input(self, words: int) -> RawInput:
        lengths = {"min_new_tokens": WARMUP_TOKENS, "max_new_tokens": WARMUP_TOKENS}
        return " ".join(warmup_words(words)), {**lengths, "do_sample": False, "num_return_sequences": 1}

    def make_postprocess(self, pipe: Pipeline) -> Postprocess:
        return TextGenerationPostprocessor(pipe)


class TextGenerationPostprocessor:
    """The postprocess of one pipeline: what the rest of the batch generated longer is no part of a row's result."""

    def __init__(self, pipe: Pipeline) -> None:
        self._pipe = pipe
        end_ids = pipe.model.generation_config.eos_token_id
        self._end_ids = {end_ids} if isinstance(end_ids, int) else set(end_ids or ())

    def __call__(self, outputs: dict[str, Any], **parameters: Any) -> Any:
        """`outputs` of one row: `input_ids` `[1, tokens]`, `generated_sequence` `[1, sequences, tokens + new]`.

        `input_ids` is None for an empty prompt, which goes on from the token that begins a text.
        """
        prompt = outputs["input_ids"]
        prompt_tokens = FIRST_TOKENS if prompt is None else prompt.shape[1]
        generated: list[list[int]] = outputs["generated_sequence"][0, :, prompt_tokens:].tolist()
        end = max(map(self._end, generated))  # alone, each sequence would be padded to the longest of its prompt
        outputs["generated_sequence"] = outputs["generated_sequence"][:, :, : prompt_tokens + end]
        return self._pipe.postprocess(outputs, **parameters)

    def _end(self, generated: list[int]) -> int:
        """How many of these tokens there are up to the first that ends the text, which counts."""
        return next((index + 1 for index, token in enumerate(generated) if token in self._end_ids), len(generated))
