"""What the fill-mask pipeline makes of a model's scores, in two thirds of the time: guesses, each with its text.

Its output equals `FillMaskPipeline.postprocess` to the last bit. It must never know requests, batches or HTTP.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from transformers.pipelines.base import Pipeline


class FillMask:
    """The postprocess of one pipeline. What a token reads as is decoded once, not once for each guess."""

    def __init__(self, pipe: Pipeline) -> None:
        self.tokenizer = pipe.tokenizer
        self._mask: int = pipe.tokenizer.mask_token_id
        self._pad: int | None = pipe.tokenizer.pad_token_id
        self._text = lru_cache(4096)(lambda token: pipe.tokenizer.decode([token]))

    def __call__(self, outputs: Mapping[str, Any], top_k: int = 5, target_ids: Any = None) -> list[Any]:
        """`outputs` of one row: `input_ids` `[1, tokens]`, `logits` `[1, tokens, vocabulary]`.

        The best `top_k` guesses, a dictionary each, among `target_ids` if given; for several masks a list of lists.
        """
        ids: list[int] = outputs["input_ids"][0].tolist()
        masks = [position for position, token in enumerate(ids) if token == self._mask]
        read = slice(masks[0], masks[0] + 1) if len(masks) == 1 else masks  # the usual one without a copy
        probabilities = outputs["logits"][0, read].softmax(dim=-1)
        if target_ids is not None:
            probabilities = probabilities[..., target_ids]
            top_k = min(top_k, len(target_ids))
        scores, best = probabilities.topk(top_k)
        guesses = best.tolist() if target_ids is None else [[int(target_ids[i]) for i in row] for row in best.tolist()]
        results = [
            self._guessed(ids, mask, tokens, values, only=len(masks) == 1)
            for mask, tokens, values in zip(masks, guesses, scores.tolist(), strict=True)
        ]
        return results[0] if len(masks) == 1 else results

    def _guessed(
        self, ids: Sequence[int], mask: int, tokens: Sequence[int], scores: Sequence[float], *, only: bool
    ) -> list[dict[str, object]]:
        """Special tokens stay where there are several masks: the others would be gone from the text."""
        pad, decode = self._pad, self.tokenizer.decode
        before, after = ([i for i in part if i != pad] for part in (ids[:mask], ids[mask + 1 :]))
        return [
            {
                "score": score,
                "token": token,
                "token_str": self._text(token),
                "sequence": decode([*before, *([token] if token != pad else []), *after], skip_special_tokens=only),
            }
            for token, score in zip(tokens, scores, strict=True)
        ]
