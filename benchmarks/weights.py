"""The weights: a model's folder is created, or loaded as a `transformers` pipeline in float32.

Owns what the other files need of torch. It must never know servers, or anything of this server.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.models import BUNDLED, MODELS, VOCABULARY_SIZE, Model

LABELS = ("anger", "fear", "joy", "sadness", "surprise")
SEED = 0
# A random model finds everything equally likely; with weights of its output enlarged to logits that spread so far, its
# answers are as peaked as real ones. What lies below keeps the usual range: larger weights there would blow up every
# rounding error on the way.
LOGITS_SPREAD = 3.0
# Texts move what the classifier sees much less than they move a masked token.
CLASSIFIER_SPREAD = 30.0


def save_tokenizer(folder: Path) -> None:
    """The bundled tokenizer, with unused entries up to BERT's size, so that every id can be decoded."""
    tokenizer: dict[str, Any] = json.loads((BUNDLED / "tokenizer.json").read_text("utf-8"))
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    vocabulary |= {f"[unused{number}]": number for number in range(len(vocabulary), VOCABULARY_SIZE)}
    tokenizer["truncation"] = None
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), "utf-8")
    shutil.copy(BUNDLED / "tokenizer_config.json", folder)


def random_model(model: Model) -> Any:
    """BERT of the model's shape and for its task."""
    assert model.shape is not None, "the bundled model has its weights"
    configuration = transformers.BertConfig(
        vocab_size=VOCABULARY_SIZE,
        num_hidden_layers=model.shape.layers,
        hidden_size=model.shape.hidden,
        num_attention_heads=model.shape.heads,
        intermediate_size=model.shape.intermediate,
        id2label=dict(enumerate(LABELS)),
        label2id={label: number for number, label in enumerate(LABELS)},
    )
    usual_spread = configuration.initializer_range * model.shape.hidden**0.5
    torch.manual_seed(SEED)
    with torch.no_grad():
        if model.task == "text-classification":
            bert = transformers.BertForSequenceClassification(configuration)
            bert.classifier.weight.mul_(CLASSIFIER_SPREAD / usual_spread)
        else:
            bert = transformers.BertForMaskedLM(configuration)
            bert.get_input_embeddings().weight.mul_(LOGITS_SPREAD / usual_spread)  # tied to the output's
    return bert


def make(model: Model, folder: Path) -> None:
    """Save the model; the folder appears only once it is complete."""
    partial = folder.with_suffix(".partial")
    partial.mkdir(parents=True, exist_ok=True)
    transformers.utils.logging.disable_progress_bar()
    random_model(model).save_pretrained(partial)
    save_tokenizer(partial)
    partial.rename(folder)


def load(folder: Path, task: str) -> Any:
    """The pipeline as a guide would make it, but always in float32: by default a float16 checkpoint stays float16."""
    transformers.utils.logging.disable_progress_bar()
    return transformers.pipeline(task, model=str(folder), dtype=torch.float32)


if __name__ == "__main__":
    make(MODELS[sys.argv[1]], Path(sys.argv[2]))
