"""What the decoder of WordPiece gives, for texts that differ in one token: the tokenizer's own text of each."""

import random
from typing import Any

import pytest
from transformers import AutoTokenizer

from pipeline_webserver.inference.loading import BUNDLED_MODEL
from pipeline_webserver.inference.preprocessing.wordpiece import WordPieceDecoder, is_wordpiece
from tests.support.media_models import byte_tokenizer


def wordpiece() -> Any:
    return AutoTokenizer.from_pretrained(str(BUNDLED_MODEL))


def test_only_tokenizers_that_decode_as_wordpiece_are_decoded_by_parts() -> None:
    assert is_wordpiece(wordpiece())
    assert not is_wordpiece(byte_tokenizer())
    assert not is_wordpiece(object())


@pytest.mark.parametrize("clean_up", [False, True])
@pytest.mark.parametrize("skip_special_tokens", [False, True])
def test_each_text_is_the_tokenizers_own(skip_special_tokens: bool, clean_up: bool) -> None:
    tokenizer = wordpiece()
    tokenizer.clean_up_tokenization_spaces = clean_up
    decoder, generator = WordPieceDecoder(tokenizer), random.Random(0)  # noqa: S311 - repeatable, not secret
    words = len(tokenizer)
    suffixes = [index for token, index in tokenizer.get_vocab().items() if token.startswith("##")]
    common = [*range(200), *suffixes[:50], *(tokenizer.convert_tokens_to_ids(token) for token in "'.,?!")]

    def some(known: int, most: int) -> list[int]:
        count = generator.randrange(most)
        return [generator.choice([generator.choice(common), generator.randrange(known)]) for _ in range(count)]

    for _ in range(300):
        before, after = some(words, 6), some(words, 6)
        tokens = [*some(words + 5, 6), words]  # models may have more numbers than the tokenizer has tokens
        assert decoder.decode(before, tokens, after, skip_special_tokens=skip_special_tokens) == [
            tokenizer.decode([*before, token, *after], skip_special_tokens=skip_special_tokens) for token in tokens
        ]
