"""Small models of many families with random weights, rows of mixed lengths, and what a pipeline reads of an output."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers

from pipeline_webserver.inference.acceleration.base import encoder_layers
from tests.support.device import DEVICE

MASK = 7
LENGTHS = (3, 40, 9, 40, 17, 1)
SIZES: dict[str, Any] = {
    "vocab_size": 200,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
}
SMALL = {**SIZES, "initializer_range": 0.3}
SPECIAL = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
UNPADDABLE: dict[str, Callable[[], Any]] = {
    "bert": lambda: transformers.BertConfig(**SMALL),
    "roberta": lambda: transformers.RobertaConfig(**SMALL),
    "xlm-roberta": lambda: transformers.XLMRobertaConfig(**SMALL),
    "camembert": lambda: transformers.CamembertConfig(**SMALL),
    "distilbert": lambda: transformers.DistilBertConfig(
        vocab_size=200, dim=32, n_layers=3, n_heads=4, hidden_dim=64, pad_token_id=1, initializer_range=0.3
    ),
    "electra": lambda: transformers.ElectraConfig(**SMALL, embedding_size=16),
    "ernie": lambda: transformers.ErnieConfig(**SMALL),
    "data2vec-text": lambda: transformers.Data2VecTextConfig(**SMALL),
    "nomic-bert": lambda: transformers.NomicBertConfig(**SMALL),
    "mobilebert": lambda: transformers.MobileBertConfig(
        **SIZES, embedding_size=16, intra_bottleneck_size=16, true_hidden_size=16
    ),
    "modernbert": lambda: transformers.ModernBertConfig(**SMALL, **SPECIAL, local_attention=16),
    "eurobert": lambda: transformers.EuroBertConfig(**SMALL, **SPECIAL, num_key_value_heads=2, mask_token_id=MASK),
    "albert": lambda: transformers.AlbertConfig(**SMALL, embedding_size=16),
    "albert-groups": lambda: transformers.AlbertConfig(**SMALL, embedding_size=16, num_hidden_groups=2),
    "mpnet": lambda: transformers.MPNetConfig(**{**SMALL, "initializer_range": 0.1}),
}
# Those whose last layer adds its input in modules of its own, so that it can be reduced to what is read.
REDUCIBLE = {"bert", "roberta", "xlm-roberta", "camembert", "electra", "ernie", "data2vec-text", "mobilebert", "mpnet"}
NOT_UNPADDABLE: dict[str, Callable[[], Any]] = {
    "deberta-v2": lambda: transformers.DebertaV2Config(**SMALL, relative_attention=True, pos_att_type=["p2c", "c2p"]),
    "fnet": lambda: transformers.FNetConfig(
        vocab_size=200, hidden_size=32, num_hidden_layers=3, intermediate_size=64, initializer_range=0.3
    ),
}
HEADS = {
    "masked": transformers.AutoModelForMaskedLM,
    "classifier": transformers.AutoModelForSequenceClassification,
    "bare": transformers.AutoModel,
}


def masks(input_ids: torch.Tensor) -> torch.Tensor:
    return input_ids == MASK


def make(config: Any, head: str = "masked") -> Any:
    torch.manual_seed(0)
    model = HEADS[head].from_config(config).eval()
    return model if model.device.type == "meta" else model.to(DEVICE)


def rows_of(lengths: Sequence[int]) -> list[torch.Tensor]:
    """Rows of `[1, length]`, each with one masked token."""
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(10, 200, (1, length), generator=generator).to(DEVICE) for length in lengths]
    for row in rows:
        row[0, row.shape[1] // 2] = MASK
    return rows


def padded(rows: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    longest = max(row.shape[1] for row in rows)
    ids = torch.ones(len(rows), longest, dtype=torch.long, device=DEVICE)
    for index, row in enumerate(rows):
        ids[index, : row.shape[1]] = row
    return {"input_ids": ids, "attention_mask": (ids != 1).long()}


@torch.no_grad()
def alone(model: Any, rows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [read(model(**padded([row])), 0, row) for row in rows]


@torch.no_grad()
def together(model: Any, rows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    output = model(**padded(rows))
    return [read(output, index, row) for index, row in enumerate(rows)]


def read(output: Any, index: int, row: torch.Tensor) -> torch.Tensor:
    """What a pipeline reads of an output: scores at the masks, scores of labels, or the states of real tokens."""
    first = output[0][index]
    if first.ndim == 1:
        return torch.Tensor(first)
    real = first[: row.shape[1]]
    return torch.Tensor(real[row[0] == MASK] if "logits" in output else real)


def shapes_seen(model: Any) -> list[tuple[int, ...]]:
    """Fills up with the shape that each call of an encoder's layer is given."""
    shapes: list[tuple[int, ...]] = []
    for layer in encoder_layers(model):
        layer.register_forward_pre_hook(
            lambda module, args, kwargs: shapes.append(tuple((args or tuple(kwargs.values()))[0].shape)),
            with_kwargs=True,
        )
    return shapes
