"""What a request asks of an embedding, and what an embedding is made of: prompts, tokens, the length."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline_webserver.errors import Rejected
from pipeline_webserver.inference.embeddings.sentence_embedding import count_prompt_tokens
from tests.support.embeddings import ours, read
from tests.support.sentences import HIDDEN, MINILM, layer_norm, normalize, pooling, sentence_model

TEXT = "paris is the capital of france ."


def test_a_request_may_set_whether_the_embedding_is_normalized(tmp_path: Path) -> None:
    raw = ours(MINILM, "a test", normalize=False)
    assert np.linalg.norm(raw) > 1.5
    assert np.abs(raw / np.linalg.norm(raw) - ours(MINILM, "a test")).max() < 1e-6
    folder = sentence_model(tmp_path, [pooling("mean"), normalize(), layer_norm()])
    assert ours(folder, TEXT, normalize=False).tolist() == ours(folder, TEXT).tolist()
    assert np.linalg.norm(ours(folder, TEXT)) > 1.5
    assert np.linalg.norm(ours(folder, TEXT, normalize=True)) == pytest.approx(1, abs=1e-6)


def test_a_prompt_is_found_by_its_name(tmp_path: Path) -> None:
    declared = {"prompts": {"query": "q: ", "passage": None}, "default_prompt_name": "query"}
    embedding = read(sentence_model(tmp_path, [pooling("mean")], config_sentence_transformers=declared))
    assert [embedding.prompt(name) for name in (None, "query", "document", "passage")] == ["q: ", "q: ", "", ""]
    assert embedding.text("A", "query") == "q: A"
    with pytest.raises(
        Rejected, match=r"^Parameter 'prompt_name': the model's prompts are query, document, passage\.$"
    ):
        embedding.text("A", "search")


@pytest.mark.parametrize(
    ("tokens", "prompt_tokens", "why"),
    [
        (0, 0, "The text has no tokens to make an embedding of."),
        (3, 3, "The text has no tokens behind the 3 of its prompt to make an embedding of."),
    ],
)
def test_where_no_token_is_left_there_is_no_embedding(
    tokens: int, prompt_tokens: int, why: str, tmp_path: Path
) -> None:
    embedding = read(sentence_model(tmp_path, [pooling("max", include_prompt=False)]))
    with pytest.raises(Rejected) as raised:
        embedding.embed(torch.ones(1, tokens, HIDDEN), prompt_tokens)
    assert str(raised.value) == why


def test_a_hidden_state_of_half_precision_or_with_gradients_gives_float32(tmp_path: Path) -> None:
    embedding = read(sentence_model(tmp_path, [pooling("cls")]))
    hidden = torch.full((1, 3, HIDDEN), 0.5, dtype=torch.bfloat16, requires_grad=True)
    given = embedding.embed(hidden)
    assert given.dtype == np.float32
    assert given.tolist() == [0.5] * HIDDEN


@pytest.mark.parametrize(("tokens", "count"), [([], 0), ([2, 7, 8, 3], 3), ([2, 7, 8], 3), ([3], 0)])
def test_a_special_token_at_the_end_of_a_prompt_does_not_count(tokens: list[int], count: int) -> None:
    assert count_prompt_tokens(tokens, [2, 3]) == count
