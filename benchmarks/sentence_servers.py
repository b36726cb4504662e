"""The naive servers with sentence-transformers in the pipeline's place, which our embeddings are compared with.

Owns two ASGI apps, `unbatched` and `batched`; the model's folder is `BENCHMARK_MODEL`. It must never know anything of
ours that is measured.
"""

import os
from typing import Any

import torch
from sentence_transformers import SentenceTransformer

from benchmarks.naive import create_app, in_batches, one_by_one


def encoder() -> Any:
    """What is called like a pipeline: one text or a list of them."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = SentenceTransformer(os.environ["BENCHMARK_MODEL"], device="cpu")

    def encode(texts: Any, batch_size: int = 1) -> Any:
        return model.encode(texts, batch_size=batch_size).tolist()

    return encode


unbatched = create_app(one_by_one, encoder)
batched = create_app(in_batches, encoder)
