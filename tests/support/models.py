"""Small models with random weights and the bundled tokenizer, made on the spot."""

from pathlib import Path
from typing import Any

import torch
import transformers

from pipeline_webserver.inference.loading import BUNDLED_MODEL
from tests.support.media_models import MAKERS, make

CLASSES = {
    "fill-mask": transformers.BertForMaskedLM,
    "text-classification": transformers.BertForSequenceClassification,
    "token-classification": transformers.BertForTokenClassification,
    "feature-extraction": transformers.BertModel,
    "zero-shot-classification": transformers.BertForSequenceClassification,
}
LABELS = {
    "text-classification": ["sad", "calm", "glad"],
    "token-classification": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"],
    "zero-shot-classification": ["contradiction", "neutral", "entailment"],
}


def make_model(task: str, folder: Path, labels: list[str] | None = None, **changes: Any) -> Path:
    """Save a two-layer model for a task, with all that its pipeline needs; weights wide enough that results differ."""
    if task in MAKERS:
        return make(MAKERS[task], folder, **changes)
    labels = labels or LABELS.get(task, ["only"])
    options: dict[str, Any] = {
        "vocab_size": 8192,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
        "initializer_range": 0.5,
        "pad_token_id": 0,
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    torch.manual_seed(0)
    CLASSES[task](transformers.BertConfig(**{**options, **changes})).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(BUNDLED_MODEL).save_pretrained(folder)
    return folder
