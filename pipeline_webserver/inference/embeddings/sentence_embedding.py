"""The sentence embedding of a text: its prompt, and what pooling and further modules make of the last hidden state.

It must never know where a configuration comes from, pipelines, requests or HTTP.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline_webserver.errors import Rejected
from pipeline_webserver.inference.embeddings.modules import Pooling, Step, unit_length
from pipeline_webserver.model_info import EmbeddingInfo


@dataclass(frozen=True, slots=True)
class SentenceEmbedding:
    """One model's configuration.

    `dim` is the length of its embeddings; `normalized` says whether they are brought to length one. `max_tokens` is to
    how many tokens texts are cut, special tokens among them; None: they are not cut. `default_prompt` is the name of
    the prompt that is put before texts for which none is named.
    """

    pooling: Pooling
    dim: int
    steps: tuple[Step, ...]
    normalized: bool
    max_tokens: int | None
    lowercase: bool
    prompts: Mapping[str, str]
    default_prompt: str | None

    def describe(self) -> EmbeddingInfo:
        """What `/info` says of it."""
        return EmbeddingInfo(
            dim=self.dim,
            pooling=list(self.pooling.modes),
            normalize=self.normalized,
            max_tokens=self.max_tokens,
            prompts=list(self.prompts),
            default_prompt=self.default_prompt,
        )

    def prompt(self, name: str | None) -> str:
        """What is put before a text. Raises `Rejected` for a name that the configuration has not."""
        if name is None:
            return self.prompts[self.default_prompt] if self.default_prompt else ""
        if name not in self.prompts:
            raise Rejected(f"Parameter 'prompt_name': the model's prompts are {', '.join(self.prompts)}.")
        return self.prompts[name]

    def text(self, text: str, prompt_name: str | None = None) -> str:
        """What goes to the tokenizer, prompt and text. Raises `Rejected` for an unknown prompt.

        Letters become small one by one, as in the tokenizers library; `str.lower` knows the sigma that ends a word.
        One difference is left: a special token that is written in such a text is not found any more.
        """
        whole = self.prompt(prompt_name) + text
        return "".join(letter.lower() for letter in whole) if self.lowercase else whole

    @torch.no_grad()
    def embed(
        self, hidden: torch.Tensor, prompt_tokens: int = 0, normalize: bool | None = None, dimensions: int | None = None
    ) -> np.ndarray:
        """`hidden` `[1, tokens, hidden]` of one text, without padding, to float32 `[dim]`, or its first `dimensions`.

        `prompt_tokens` is what `count_prompt_tokens` says; `normalize` says otherwise than the configuration whether
        the length becomes one. What is cut becomes as long as it was before. Raises `Rejected` for a text of no tokens.
        """
        values = self.pooling(hidden[0].to("cpu", torch.float32), prompt_tokens)
        for step in self.steps:
            values = step(values)
        is_unit = self.normalized and normalize is not False
        if is_unit:
            values = unit_length(values)
        # A configuration cuts behind its own Normalize, so only a request has the last word on the length.
        values = values[: self.dim]
        if dimensions is not None:
            values = values[:dimensions]
        embedding: np.ndarray = (unit_length(values) if normalize or (dimensions and is_unit) else values).numpy()
        return embedding


def count_prompt_tokens(tokens: Sequence[int], special_tokens: Collection[int]) -> int:
    """How many of a text's tokens are its prompt's, given the tokens of the prompt alone."""
    return len(tokens) - (len(tokens) > 0 and tokens[-1] in special_tokens)
