"""Texts of WordPiece tokens that differ in one token, equal to what the tokenizer's `decode` gives.

In the decoder of WordPiece the text of a token depends on nothing but whether it is the first, so each token is decoded
once, not once for each text. It must never know models, requests or HTTP.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from tokenizers.decoders import WordPiece

from pipeline_webserver.inference import internals

CACHED_TOKENS = 2**16


def is_wordpiece(tokenizer: Any) -> bool:
    """Whether the tokenizer decodes as WordPiece does."""
    return isinstance(getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None), WordPiece)


class WordPieceDecoder:
    """`tokenizer.decode` of texts that have all tokens but one in common."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special_ids = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._text_of = lru_cache(CACHED_TOKENS)(self._decode_token)

    def decode(
        self, before: Sequence[int], tokens: Iterable[int], after: Sequence[int], *, skip_special_tokens: bool
    ) -> list[str]:
        """The text of `[*before, token, *after]` for each of `tokens`."""
        skipped = self._special_ids if skip_special_tokens else set[int]()
        kept = [i for i in before if i not in skipped]
        if not kept:  # each of the tokens may be the first
            whole = ([token, *after] for token in tokens)
            return [internals.decode(self._tokenizer, ids, skip_special_tokens=skip_special_tokens) for ids in whole]
        text_of = self._text_of
        start = self._tokenizer.backend_tokenizer.decode(kept[:1], skip_special_tokens=False)
        start += "".join([text_of(i) for i in kept[1:]])
        end = "".join([text_of(i) for i in after if i not in skipped])
        texts = [start + ("" if token in skipped else text_of(token)) + end for token in tokens]
        if self._tokenizer.clean_up_tokenization_spaces:
            return [self._tokenizer.clean_up_tokenization(text) for text in texts]
        return texts

    def _decode_token(self, token_id: int) -> str:
        """The text of a token that is not the first; empty for one that the tokenizer does not have."""
        decode = self._tokenizer.backend_tokenizer.decode
        alone: str = decode([token_id], skip_special_tokens=False)
        twice: str = decode([token_id, token_id], skip_special_tokens=False)
        return twice[len(alone) :]
