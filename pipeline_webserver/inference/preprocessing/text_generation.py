"""Prompts: from a text to a row that a model goes on writing, and what it wrote, without what its batch added.

A request cannot make a model write more than the server's limit, nor past the positions it has. Sampling is random,
unless a seed is given: then it has a pass of its own, and the answer is always the same. It must never know requests or
HTTP.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.pipelines.base import Pipeline

from pipeline_webserver.errors import Rejected, TooLarge
from pipeline_webserver.inference.forward import Row
from pipeline_webserver.inference.preprocessing.base import Draft, Limits, PreparedInput, Work
from pipeline_webserver.inference.preprocessing.text import TextPreparation, words_of

SAMPLED_TOKENS = 8  # that a sample makes the model write
# The settings that look at the next token alone. Others look at the tokens before it, padding among them.
LOOK_AT_ONE_TOKEN = {
    "_from_model_config",
    "bos_token_id",
    "do_sample",
    "eos_token_id",
    "epsilon_cutoff",
    "eta_cutoff",
    "max_length",
    "max_new_tokens",
    "min_new_tokens",
    "min_p",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "temperature",
    "tokenizer",
    "top_k",
    "top_p",
    "transformers_version",
    "typical_p",
    "use_cache",
}


def most_positions(pipe: Pipeline) -> int | None:
    """How many tokens a prompt and what is written may have together."""
    config = pipe.model.config.get_text_config()
    found = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    said = pipe.tokenizer.model_max_length
    return min(int(found or said), said) if (found or said) < 10**9 else None


class StopAt(StoppingCriteria):  # type: ignore[misc]
    """Ends a row behind one of these texts, as `stop_strings` does.

    That one looks through the whole vocabulary for each text it has not seen: 1 to 7 seconds for 50,000 to 150,000
    tokens, measured on two cores. Here the last tokens are decoded after each step.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stops = tuple(stops)
        self._tail = max(len(stop.encode()) for stop in stops) + 1  # no token is shorter than a byte

    def __repr__(self) -> str:
        return f"StopAt({self._stops})"

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
        ends = [self._ends(tokens) for tokens in input_ids[:, -self._tail :].tolist()]
        return torch.tensor(ends, device=input_ids.device)

    def _ends(self, tokens: list[int]) -> bool:
        """Whether one of the texts ends with the last token, or in it."""
        text, before = self._tokenizer.decode(tokens), self._tokenizer.decode(tokens[:-1])
        return any(text.rfind(stop) + len(stop) > len(before) for stop in self._stops if stop in text)


class PromptPreparation(TextPreparation):
    """Prompts of a model that writes."""

    writes = True

    def __init__(self, pipe: Pipeline, limits: Limits) -> None:
        if pipe.tokenizer.pad_token_id is None:  # only ever beside real tokens, and masked
            pipe.tokenizer.pad_token_id = pipe.tokenizer.eos_token_id
        super().__init__(pipe, limits)
        self.max_tokens = most_positions(pipe)

    def given(self, value: Any, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        most = self.limits.max_new_tokens
        if parameters.get("max_new_tokens", 0) > most:
            raise Rejected(f"Parameter 'max_new_tokens' is over the limit, {most}.")
        self._check_characters(value, parameters)
        return {name: what for name, what in parameters.items() if name not in {"seed", "stop_sequence"}}

    def finish(self, draft: Draft) -> PreparedInput:
        prepared = super().finish(draft)
        (row,) = prepared.rows
        prepared.new_tokens = row.forward_parameters["max_new_tokens"]
        return prepared

    def rows(self, draft: Draft) -> Iterable[Row]:
        (row,) = super().rows(draft)
        row.forward_parameters = {
            **draft.forward,
            "max_new_tokens": self._new_tokens(draft.forward, row.length),
            "stopping_criteria": self._criteria(draft.parameters.get("stop_sequence")),
        }
        row.seed = draft.parameters.get("seed")
        if row.seed is not None:
            row.apart = repr(id(draft))
        elif not self._settings(draft.forward).keys() <= LOOK_AT_ONE_TOKEN:
            row.apart = repr(row.length)
        return [row]

    def _criteria(self, stops: Sequence[str] | None) -> StoppingCriteriaList:
        return StoppingCriteriaList([*self.tick, *([StopAt(self.pipe.tokenizer, stops)] if stops else [])])

    def identity(self, draft: Draft) -> object:
        """Who asks twice for something random wants two answers."""
        is_random = self._settings(draft.forward).get("do_sample") and draft.parameters.get("seed") is None
        return id(draft) if is_random else super().identity(draft)

    def sample(self, words: int) -> Work:
        told = {"do_sample": False, "min_new_tokens": SAMPLED_TOKENS, "max_new_tokens": SAMPLED_TOKENS}
        return " ".join(words_of(words)), told

    def _settings(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What the pipeline would write by: the request's settings, the model's own and the pipeline's."""
        settings: dict[str, Any] = self.pipe._get_set_generation_params(self.pipe._prepare_generate_kwargs(dict(asked)))
        return settings

    def _new_tokens(self, asked: Mapping[str, Any], prompt_tokens: int) -> int:
        """As many as are asked for or, if none are, as the pipeline writes and there is room for. Raises `TooLarge`."""
        room = self.limits.max_new_tokens if self.max_tokens is None else self.max_tokens - prompt_tokens
        wanted: int = asked.get("max_new_tokens", 1)
        if wanted > room:
            raise TooLarge(
                f"The input has {prompt_tokens} tokens and asks for {wanted} new ones; "
                f"the model takes {self.max_tokens} in all."
            )
        settings = self._settings(asked)
        usual: int = settings.get("max_new_tokens") or max(1, settings.get("max_length", 0) - prompt_tokens)
        return min(usual, room, self.limits.max_new_tokens)


class Written:
    """The postprocess of one pipeline: what others of its batch wrote longer is no part of a row's answer."""

    def __init__(self, pipe: Pipeline) -> None:
        self._pipe = pipe
        ends = pipe.model.generation_config.eos_token_id
        self._ends = {ends} if isinstance(ends, int) else set(ends or ())

    def __call__(self, outputs: dict[str, Any], **parameters: Any) -> Any:
        """`outputs` of one row: `input_ids` `[1, tokens]`, `generated_sequence` `[1, 1, tokens + new]`."""
        prompt_tokens = outputs["input_ids"].shape[1]
        tokens: list[int] = outputs["generated_sequence"][0, 0].tolist()
        written = tokens[prompt_tokens:]
        end = next((place + 1 for place, token in enumerate(written) if token in self._ends), len(written))
        outputs["generated_sequence"] = outputs["generated_sequence"][:, :, : prompt_tokens + end]
        return self._pipe.postprocess(outputs, **parameters)
