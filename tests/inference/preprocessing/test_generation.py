"""Generation: its limits, what padding changes of it, and texts that end it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from pipeline_webserver.errors import Rejected
from pipeline_webserver.inference import internals
from pipeline_webserver.inference.preprocessing.generation import (
    StopTextCriterion,
    check_new_tokens,
    is_padding_safe,
    max_positions,
)
from tests.support.media_models import gpt2, make
from tests.support.pipelines import Parameters, load_pipeline


@pytest.mark.parametrize(
    ("config", "tokenizer_limit", "positions"),
    [
        (transformers.LlamaConfig(max_position_embeddings=64), 10**30, 64),
        (transformers.LlamaConfig(max_position_embeddings=64), 32, 32),
        (transformers.GPT2Config(n_positions=64), 10**30, 64),
        (transformers.BloomConfig(), 77, 77),  # without a limit of its own
        (transformers.BloomConfig(), 10**30, None),
    ],
)
def test_a_prompt_and_its_new_tokens_fit_into_the_positions_and_the_tokenizers_limit(
    config: Any, tokenizer_limit: int, positions: int | None
) -> None:
    pipe: Any = SimpleNamespace(
        model=SimpleNamespace(config=config), tokenizer=SimpleNamespace(model_max_length=tokenizer_limit)
    )
    assert max_positions(pipe) == positions


def test_more_new_tokens_than_the_limit_are_an_error_by_the_name_in_the_request() -> None:
    check_new_tokens({}, 5, "max_new_tokens")
    check_new_tokens({"max_new_tokens": 5}, 5, "max_new_tokens")
    with pytest.raises(Rejected, match=r"^Parameter 'parameters.max' is over the limit, 5\.$"):
        check_new_tokens({"max_new_tokens": 6}, 5, "parameters.max")


@pytest.mark.parametrize(
    ("parameters", "is_safe"),
    [
        ({}, True),
        (
            {"do_sample": True, "temperature": 2.0, "top_k": 5, "top_p": 0.5, "typical_p": 0.5, "max_new_tokens": 5},
            True,
        ),
        ({"repetition_penalty": 1.5}, False),
        ({"no_repeat_ngram_size": 2}, False),
    ],
)
def test_settings_that_look_at_tokens_before_the_next_depend_on_padding(
    parameters: Parameters, is_safe: bool, tmp_path: Path
) -> None:
    pipe = load_pipeline(make(gpt2, tmp_path))
    assert is_padding_safe(internals.generation_settings(pipe, parameters)) is is_safe


def test_a_stop_text_may_end_within_a_token_and_does_not_count_before_the_last() -> None:
    class Words:
        """A token for each word, as tokenizers have them, with the space before it."""

        words = ("", " once", " upon", " a time.", ".")

        def decode(self, tokens: list[int]) -> str:
            return "".join(self.words[token] for token in tokens)

    stop = StopTextCriterion(Words(), ["a ti", "upon a"])
    rows = torch.tensor([[1, 2, 3], [3, 1, 2], [2, 3, 4], [0, 2, 3], [3, 3, 3]])
    assert stop(rows, None).tolist() == [True, False, False, True, True]


def test_only_as_many_last_tokens_are_decoded_as_the_longest_text_may_have() -> None:
    lengths: list[int] = []

    class Recording:
        def decode(self, tokens: list[int]) -> str:
            lengths.append(len(tokens))
            return ""

    StopTextCriterion(Recording(), ["é", "abc"])(torch.zeros(1, 100, dtype=torch.long), None)
    assert lengths == [4, 3]  # three bytes and one more, and those before the last
