"""Fill-mask: texts with masked tokens, and the predictions for each mask.

The result equals `FillMaskPipeline.postprocess` to the last bit, in two thirds of its time. It must never know
requests, batches or HTTP.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from transformers.pipelines.base import Pipeline
from transformers.pipelines.fill_mask import FillMaskPipeline

from pipeline_webserver.errors import Rejected, TooLarge
from pipeline_webserver.inference import internals
from pipeline_webserver.inference.model_inputs import Limits, ModelInput, RawInput
from pipeline_webserver.inference.preprocessing.base import BatchPostprocess, CheckedInput, Postprocess
from pipeline_webserver.inference.preprocessing.text import TextPreprocessor, warmup_words
from pipeline_webserver.inference.preprocessing.wordpiece import WordPieceDecoder, is_wordpiece
from pipeline_webserver.model_info import ModelInfo

# Over all masks of one input: each prediction is decoded with the whole text.
MAX_PREDICTIONS_OF_ONE_INPUT = 4_096
# How many predictions the pipeline makes for each mask, unless a request says otherwise.
DEFAULT_TOP_K = 5


def predictions_per_mask(parameters: Mapping[str, Any]) -> int:
    """As the fill-mask pipeline counts: no more than there are targets."""
    top_k: int = parameters.get("top_k", DEFAULT_TOP_K)
    targets = parameters.get("targets")
    return top_k if targets is None else min(top_k, len(targets))


class FillMaskPreprocessor(TextPreprocessor):
    """Texts with masked tokens."""

    truncation: ClassVar[Mapping[str, object]] = {"tokenizer_kwargs": {"truncation": True}}
    scores_vocabulary = True

    def __init__(self, pipe: Pipeline, limits: Limits) -> None:
        super().__init__(pipe, limits)
        self._mask_id: int = pipe.tokenizer.mask_token_id
        self.positions_read = self._is_mask

    def _is_mask(self, input_ids: torch.Tensor) -> torch.Tensor:
        return input_ids == self._mask_id

    def describe(self, info: ModelInfo) -> ModelInfo:
        max_top_k = min(self.pipe.model.config.vocab_size, MAX_PREDICTIONS_OF_ONE_INPUT)
        return replace(info, mask_token=self.pipe.tokenizer.mask_token, max_top_k=max_top_k)

    def warmup_input(self, words: int) -> RawInput:
        text = warmup_words(words)
        for _ in range(1 + words // 20):
            text.insert(words // 2, self.pipe.tokenizer.mask_token)
        return " ".join(text), {}

    def tensors(self, checked: CheckedInput) -> Iterable[Any]:
        """The pipeline itself rejects a text without a mask."""
        if checked.tokens is not None and self._mask_id not in checked.tokens["input_ids"]:
            checked.tokens = None
        return super().tensors(checked)

    def model_inputs(self, checked: CheckedInput) -> Iterable[ModelInput]:
        inputs = list(super().model_inputs(checked))
        self._check_predictions(inputs[0], checked.parameters)
        return inputs

    def check_parameters(self, parameters: Mapping[str, Any]) -> None:
        words = self.pipe.model.config.vocab_size
        if predictions_per_mask(parameters) > words:
            raise Rejected(f"Parameter 'top_k' is over the {words} words the model knows.")

    def _check_predictions(self, model_input: ModelInput, parameters: Mapping[str, Any]) -> None:
        """Raises `TooLarge`."""
        per_mask = predictions_per_mask(parameters)
        if model_input.num_tokens * per_mask <= MAX_PREDICTIONS_OF_ONE_INPUT:  # there are no more masks than tokens
            return
        predictions = per_mask * int(self._is_mask(model_input.tensors["input_ids"]).sum())
        if predictions > MAX_PREDICTIONS_OF_ONE_INPUT:
            limit = f"the server makes {MAX_PREDICTIONS_OF_ONE_INPUT}"
            raise TooLarge(f"The input asks for {predictions} predictions; {limit}.")

    def make_postprocess(self, pipe: Pipeline) -> Postprocess:
        return FillMaskPostprocessor(pipe) if type(pipe) is FillMaskPipeline else super().make_postprocess(pipe)

    def numbers_read(self, model_input: ModelInput, outputs: Any) -> torch.Tensor:
        scores: torch.Tensor = outputs["logits"][self._is_mask(model_input.tensors["input_ids"])]
        return scores


class FillMaskPostprocessor(BatchPostprocess):
    """The postprocess of one pipeline, for many inputs at once: one softmax and one search for the best scores.

    The text of a token is decoded once, not once for each prediction.
    """

    def __init__(self, pipe: Pipeline) -> None:
        self.tokenizer = pipe.tokenizer
        self._mask_id: int = pipe.tokenizer.mask_token_id
        self._pad_id: int | None = pipe.tokenizer.pad_token_id
        self._token_text = lru_cache(4096)(lambda token: pipe.tokenizer.decode([token]))
        self._wordpiece = WordPieceDecoder(pipe.tokenizer) if is_wordpiece(pipe.tokenizer) else None

    def __call__(
        self, outputs: Any, top_k: int = DEFAULT_TOP_K, target_ids: np.ndarray | None = None, **parameters: Any
    ) -> list[Any]:
        """The best `top_k` predictions, a dictionary each, among `target_ids` if given; for several masks a list of
        lists.

        `outputs` of one input: `input_ids` `[1, tokens]`, `logits` `[1, tokens, vocabulary]`.
        """
        ids, masks = self._masks(outputs)
        return self._results(ids, masks, *best_tokens(outputs["logits"][0, masks], top_k, target_ids))

    def batch(self, batch: Sequence[tuple[Any, Mapping[str, Any]]]) -> list[list[Any]]:
        """The results of many inputs with equal parameters, without targets: the same to the last bit."""
        top_k: int = batch[0][1].get("top_k", DEFAULT_TOP_K)
        rows = [self._masks(outputs) for outputs, _ in batch]
        logits = torch.cat([outputs["logits"][0, masks] for (outputs, _), (_, masks) in zip(batch, rows, strict=True)])
        tokens, scores = best_tokens(logits, top_k)
        results, start = [], 0
        for ids, masks in rows:
            end = start + len(masks)
            results.append(self._results(ids, masks, tokens[start:end], scores[start:end]))
            start = end
        return results

    def batch_key(self, parameters: Mapping[str, Any]) -> Hashable | None:
        return None if "target_ids" in parameters else parameters.get("top_k", DEFAULT_TOP_K)

    def _masks(self, outputs: Mapping[str, Any]) -> tuple[list[int], list[int]]:
        """The token ids of an input, and the positions of its masks."""
        ids: list[int] = outputs["input_ids"][0].tolist()
        return ids, [position for position, token in enumerate(ids) if token == self._mask_id]

    def _results(
        self,
        ids: Sequence[int],
        masks: Sequence[int],
        tokens: Sequence[Sequence[int]],
        scores: Sequence[Sequence[float]],
    ) -> list[Any]:
        results = [
            self._predictions(ids, mask, mask_tokens, mask_scores, skip_special=len(masks) == 1)
            for mask, mask_tokens, mask_scores in zip(masks, tokens, scores, strict=True)
        ]
        return results[0] if len(masks) == 1 else results

    def _predictions(
        self, ids: Sequence[int], mask: int, tokens: Sequence[int], scores: Sequence[float], *, skip_special: bool
    ) -> list[dict[str, object]]:
        """Special tokens stay where there are several masks: the other masks would be missing from the text."""
        pad = self._pad_id
        before, after = ([i for i in part if i != pad] for part in (ids[:mask], ids[mask + 1 :]))
        sequences = self._sequences(before, tokens, after, skip_special=skip_special)
        return [
            {"score": score, "token": token, "token_str": self._token_text(token), "sequence": sequence}
            for token, score, sequence in zip(tokens, scores, sequences, strict=True)
        ]

    def _sequences(
        self, before: Sequence[int], tokens: Sequence[int], after: Sequence[int], *, skip_special: bool
    ) -> list[str]:
        """The text with each of the tokens."""
        if self._wordpiece and self._pad_id not in tokens:
            return self._wordpiece.decode(before, tokens, after, skip_special_tokens=skip_special)
        filled = ([*before, *([token] if token != self._pad_id else []), *after] for token in tokens)
        return [internals.decode(self.tokenizer, ids, skip_special_tokens=skip_special) for ids in filled]


def best_tokens(
    logits: torch.Tensor, top_k: int, target_ids: np.ndarray | None = None
) -> tuple[list[list[int]], list[list[float]]]:
    """The `top_k` most probable tokens of each row of `logits` `[masks, vocabulary]`, and their probabilities.

    Only `target_ids` are candidates, if given.
    """
    probabilities = logits.softmax(dim=-1)
    if target_ids is None:
        scores, tokens = probabilities.topk(top_k)
    else:
        scores, best = probabilities[:, target_ids].topk(min(top_k, len(target_ids)))
        tokens = torch.from_numpy(target_ids)[best]
    return tokens.tolist(), scores.tolist()
