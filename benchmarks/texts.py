"""The texts that are sent: random words, different from each other, the same in every run.

Owns their lengths and words; reads a vocabulary from a model's folder. It must never know servers, HTTP or torch.
"""

import itertools
import json
import math
import random
import re
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

TEXTS = 1024
# All blocks of so many texts have about the same length: throughput does not depend on how far a server got.
BLOCK = 32
SHORTEST, LONGEST = 5, 120
MEDIAN_WORDS, SIGMA = 22, 0.65
SEED = 1


def lengths(count: int, generator: random.Random) -> Iterator[int]:
    """Numbers of words, log-normal and clipped. Each block has one from every part of the distribution, shuffled."""
    normal = statistics.NormalDist(math.log(MEDIAN_WORDS), SIGMA)
    for _ in range(math.ceil(count / BLOCK)):
        shares = [(part + generator.uniform(0.01, 0.99)) / BLOCK for part in range(BLOCK)]
        generator.shuffle(shares)
        for share in shares:
            yield min(LONGEST, max(SHORTEST, round(math.exp(normal.inv_cdf(share)))))


def make_texts(words: Sequence[str], mask: str | None, count: int = TEXTS) -> list[str]:
    """Different texts of words drawn by Zipf's law, the first the most frequent; with one word masked, or none."""
    generator = random.Random(SEED)  # noqa: S311 - repeatable, not secret
    weights = list(itertools.accumulate(1 / (rank + 1) for rank in range(len(words))))
    texts: dict[str, None] = {}
    for length in lengths(count, generator):
        while True:
            drawn = generator.choices(words, cum_weights=weights, k=length)
            if mask is not None:
                drawn[generator.randrange(length)] = mask
            text = " ".join(drawn)
            if text not in texts:
                break
        texts[text] = None
    return list(texts)[:count]


def whole_words(folder: Path) -> list[str]:
    """The vocabulary's whole words of letters, in the order of their ids, which is about that of their frequency."""
    vocabulary: dict[str, int] = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    return [word for word in sorted(vocabulary, key=vocabulary.__getitem__) if re.fullmatch("[a-z]{2,}", word)]


def texts_for(folder: Path, task: str) -> list[str]:
    """The texts for a model, each word of which is one token."""
    configuration: dict[str, str] = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    return make_texts(whole_words(folder), configuration["mask_token"] if task == "fill-mask" else None)
