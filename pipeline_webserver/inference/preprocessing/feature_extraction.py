"""What a model makes of each token or, by its own sentence-transformers configuration, of the whole text: an embedding.

It must never know requests or HTTP.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from transformers.pipelines.base import Pipeline

from pipeline_webserver.errors import ConfigurationError, Rejected
from pipeline_webserver.inference.embeddings.configuration import SentenceEmbedding, count_prompt_tokens, read_embedding
from pipeline_webserver.inference.preprocessing.base import Draft, Limits
from pipeline_webserver.inference.preprocessing.text import TextPreparation

logger = logging.getLogger(__name__)

# Parameters that only a sentence-transformers configuration gives a meaning.
OF_EMBEDDINGS = ("normalize", "prompt_name")


def embedding_of(pipe: Pipeline) -> SentenceEmbedding | None:
    """None if the model has no configuration for it, or one that cannot be served: the log says why."""
    if not pipe.model.name_or_path:  # made, not loaded
        return None
    try:
        return read_embedding(pipe.model.name_or_path, getattr(pipe.model.config, "_commit_hash", None))
    except ConfigurationError as error:
        logger.warning("%s", error)
        return None


class FeaturePreparation(TextPreparation):
    """Texts or tokens.

    If what is `pooled` is asked for, and the model has a configuration for it, the result is an embedding: of the text
    behind the prompt that the configuration says, cut to the length that it says unless `truncation` is false.
    """

    def __init__(self, pipe: Pipeline, limits: Limits) -> None:
        super().__init__(pipe, limits)
        self.embedding = embedding_of(pipe)
        self._prompt_tokens = lru_cache(64)(self._count_prompt_tokens)

    def describe(self) -> dict[str, object]:
        vocabulary = self.pipe.model.config.vocab_size
        return {"embedding": self.embedding and self.embedding.describe(), "vocabulary": vocabulary}

    def _draft(self, value: Any, parameters: Mapping[str, Any]) -> Draft:
        draft = super()._draft(value, parameters)
        if embedding := self._asked_for(parameters):
            prompt_tokens = 0 if isinstance(value, list) else self._prompt_tokens(parameters.get("prompt_name"))
            normalize = parameters.get("normalize")
            draft.postprocess["embed"] = partial(embedding.embed, prompt_tokens=prompt_tokens, normalize=normalize)
        if isinstance(value, list):
            draft.tokens = {"input_ids": value, "attention_mask": [1] * len(value)}
        return draft

    def _asked_for(self, parameters: Mapping[str, Any]) -> SentenceEmbedding | None:
        return self.embedding if parameters.get("pooled") else None

    def taken(self, value: Any, parameters: Mapping[str, Any]) -> Any:
        embedding = self._asked_for(parameters)
        if embedding is None or isinstance(value, list):
            return value
        return embedding.text(value, parameters.get("prompt_name"))

    def given(self, value: Any, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        if isinstance(value, list):
            self._check_tokens(value)
        embedding = self._asked_for(parameters)
        if embedding is None:
            if asked := [name for name in OF_EMBEDDINGS if name in parameters]:
                raise Rejected(f"Parameter {asked[0]!r}: this model has no sentence-transformers configuration.")
            return super().given(value, parameters)
        given = dict(super().given(value, {"truncation": True, **parameters}))
        lengths = [most for most in (embedding.max_tokens, self.max_tokens) if most is not None]
        if given["truncation"] and lengths:
            given["tokenize_kwargs"] = {"truncation": given.pop("truncation"), "max_length": min(lengths)}
        return given

    def _check_tokens(self, tokens: Sequence[int]) -> None:
        """Raises `Rejected`."""
        known = self.pipe.model.config.vocab_size
        if wrong := [token for token in tokens if not 0 <= token < known]:
            raise Rejected(f"The model has no token {wrong[0]}; its {known} tokens count from 0.")

    def _count_prompt_tokens(self, name: str | None) -> int:
        assert self.embedding is not None, "it is asked for its own prompts"
        if not (prompt := self.embedding.text("", name)):
            return 0
        return count_prompt_tokens(self.pipe.tokenizer(prompt)["input_ids"], self.pipe.tokenizer.all_special_ids)

    # The side at which texts are cut

    def alike(self, draft: Draft) -> object:
        return (super().alike(draft), draft.parameters.get("truncation_direction"))

    def tokenise_alike(self, drafts: Sequence[Draft], options: dict[str, Any]) -> None:
        with self._cutting(drafts[0]):
            super().tokenise_alike(drafts, options)

    def preprocessed(self, draft: Draft) -> Iterable[Any]:
        with self._cutting(draft):
            return super().preprocessed(draft)

    @contextmanager
    def _cutting(self, draft: Draft) -> Iterator[None]:
        tokenizer = self.pipe.tokenizer
        usual = tokenizer.truncation_side
        tokenizer.truncation_side = draft.parameters.get("truncation_direction", usual)
        try:
            yield
        finally:
            tokenizer.truncation_side = usual


def features(outputs: Any, embed: Callable[[torch.Tensor], np.ndarray] | None = None, **parameters: Any) -> np.ndarray:
    """What the pipeline gives, `[1, tokens, hidden]`, as an array of the same numbers; or an embedding."""
    if embed is not None:
        return embed(outputs[0])
    numbers: np.ndarray = outputs[0].double().numpy()
    return numbers


def image_features(outputs: Any, pool: bool = False, **parameters: Any) -> np.ndarray:
    """The same of an image, `[1, patches, hidden]`, or its pooled output, `[1, hidden]`. Raises `ValueError`."""
    if pool and "pooler_output" not in outputs:
        raise ValueError("Parameter 'pool': this model has no pooled output.")
    numbers: np.ndarray = (outputs["pooler_output"] if pool else outputs[0]).double().numpy()
    return numbers
