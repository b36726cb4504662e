"""The naive servers with sentence-transformers instead of a pipeline: what embeddings are compared with.

Owns two ASGI apps, `unbatched` and `batched`; the model's folder is `BENCHMARK_MODEL`. It must never know anything of
this server.
"""

import os
from typing import Any

import torch
from sentence_transformers import SentenceTransformer

from benchmarks.naive import create_app, in_batches, one_by_one


def encoder() -> Any:
    """A function that is called like a pipeline: with one text or with a list."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = SentenceTransformer(os.environ["BENCHMARK_MODEL"], device="cpu")

    def encode(texts: Any, batch_size: int = 1) -> Any:
        return model.encode(texts, batch_size=batch_size).tolist()

    return encode


unbatched = create_app(one_by_one, encoder)
batched = create_app(in_batches, encoder)
