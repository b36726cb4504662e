"""The positions of a model are found by what it looks up, whatever the table is called and wherever its rows begin."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from pipeline_webserver.inference.position_tables import configured_limit, table_limit

WIDE: dict[str, Any] = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
SIZES: dict[str, Any] = {**WIDE, "intermediate_size": 64, "max_position_embeddings": 64}
EMBED: dict[str, Any] = {"vocab_size": 50, "n_positions": 64, "n_embd": 32, "n_layer": 1, "n_head": 2}
SEQ2SEQ: dict[str, Any] = {"vocab_size": 50, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1}
SEQ2SEQ |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 64}
ROTARY: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
NYSTROM: dict[str, Any] = {"segment_means_seq_len": 8, "num_landmarks": 8}
# Each has 64 positions that tokens can have, whatever the rows of its table.
WITH_TABLE: dict[str, Callable[[], Any]] = {
    "bert": lambda: transformers.BertConfig(**SIZES),
    "roberta": lambda: transformers.RobertaConfig(**{**SIZES, "max_position_embeddings": 66}, pad_token_id=1),
    "longformer": lambda: transformers.LongformerConfig(
        **{**SIZES, "max_position_embeddings": 66}, attention_window=8, pad_token_id=1
    ),
    "nystromformer": lambda: transformers.NystromformerConfig(**SIZES, **NYSTROM),
    "gpt2": lambda: transformers.GPT2Config(**EMBED),
    "openai-gpt": lambda: transformers.OpenAIGPTConfig(**EMBED),
    "bart": lambda: transformers.BartConfig(**SEQ2SEQ),
    "opt": lambda: transformers.OPTConfig(**WIDE, ffn_dim=64, word_embed_proj_dim=32, max_position_embeddings=64),
    "xlm": lambda: transformers.XLMConfig(vocab_size=50, emb_dim=32, n_layers=1, n_heads=2, max_position_embeddings=64),
}
WITHOUT_TABLE: dict[str, Callable[[], Any]] = {
    "modernbert": lambda: transformers.ModernBertConfig(**SIZES, **ROTARY),
    "ctrl": lambda: transformers.CTRLConfig(**{**EMBED, "n_positions": 64}, dff=64),
    "deberta-v2": lambda: transformers.DebertaV2Config(**SIZES, relative_attention=True, position_biased_input=False),
}


def limit_of(config: Any) -> int | None:
    model = transformers.AutoModel.from_config(config).eval()

    def run(words: int) -> int:
        model(input_ids=torch.full((1, words + 2), 7))
        return words + 2

    return table_limit(run)


@pytest.mark.parametrize("family", WITH_TABLE)
def test_a_table_of_positions_is_found_without_the_rows_that_stay_unused(family: str) -> None:
    config = WITH_TABLE[family]()
    assert limit_of(config) == 64
    model = transformers.AutoModel.from_config(config).eval()
    with torch.no_grad():
        model(input_ids=torch.full((1, 64), 7))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, 72), 7))


@pytest.mark.parametrize("family", WITHOUT_TABLE)
def test_a_model_without_one_has_the_positions_that_its_configuration_names(family: str) -> None:
    config = WITHOUT_TABLE[family]()
    assert limit_of(config) is None
    assert configured_limit(config) == 64


def test_a_configuration_that_names_none_has_no_limit() -> None:
    assert configured_limit(transformers.XLNetConfig()) is None
