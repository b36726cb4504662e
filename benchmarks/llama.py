"""The model whose text generation is measured: a Llama with random weights, which never ends a text by itself.

It also is the naive server for it: one request after the other, each as `pipe(text, **parameters)`. It must never know
anything of this server.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks import weights
from benchmarks.models import VOCABULARY_SIZE
from benchmarks.naive import Waiting, create_app

SHAPE = {"num_hidden_layers": 12, "hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 1376}


def make(folder: Path) -> None:
    """Save it; the folder appears only once it is complete."""
    partial = folder.with_suffix(".partial")
    partial.mkdir(parents=True, exist_ok=True)
    transformers.utils.logging.disable_progress_bar()
    ends = {"bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}
    torch.manual_seed(weights.SEED)
    config = transformers.LlamaConfig(vocab_size=VOCABULARY_SIZE, initializer_range=0.05, **SHAPE, **ends)
    transformers.LlamaForCausalLM(config).save_pretrained(partial)
    weights.save_tokenizer(partial)
    partial.rename(folder)


async def one_by_one(pipe: Any, arrivals: asyncio.Queue[Waiting]) -> None:
    """Requests are the JSON form: an input and its parameters."""
    while True:
        text, response = await arrivals.get()
        asked = json.loads(text)
        response.put_nowait(pipe(asked["inputs"], **asked["parameters"]))


naive = create_app(one_by_one)

if __name__ == "__main__":
    make(Path(sys.argv[1]))
