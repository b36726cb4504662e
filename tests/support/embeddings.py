"""Embeddings of texts, computed by this project's code from a model as transformers alone loads it."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from pipeline_webserver.inference.embeddings.configuration import read_embedding
from pipeline_webserver.inference.embeddings.sentence_embedding import SentenceEmbedding, count_prompt_tokens


def read(folder: Path) -> SentenceEmbedding:
    embedding = read_embedding(str(folder), None)
    assert embedding is not None
    return embedding


@lru_cache(maxsize=4)
def plain(folder: Path) -> tuple[Any, Any]:
    """The model and its tokenizer, as transformers alone loads them."""
    return transformers.AutoModel.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)


def ours(folder: Path, text: str, prompt_name: str | None = None, normalize: bool | None = None) -> np.ndarray:
    embedding, (model, tokenizer) = read(folder), plain(folder)
    prompt = embedding.prompt(prompt_name)
    prompt_tokens = count_prompt_tokens(tokenizer(prompt)["input_ids"], tokenizer.all_special_ids) if prompt else 0
    options = {"truncation": True, "max_length": embedding.max_tokens}
    inputs = tokenizer(embedding.text(text, prompt_name), return_tensors="pt", **options)
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state
    return embedding.embed(hidden, prompt_tokens, normalize)
