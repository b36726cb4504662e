"""Sentence embeddings: what a model's own sentence-transformers configuration makes of its last hidden state.

The configuration is read, never run: modules that are not known here are none that can be served. It must never know
pipelines, requests or HTTP.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from transformers.utils import cached_file

from errors import ConfigurationError, Rejected

logger = logging.getLogger(__name__)

MODULES = "modules.json"
# Where the length is said to which texts are cut; older versions named the file by the model's family.
TRANSFORMER_CONFIGS = tuple(
    f"sentence_{family}_config.json"
    for family in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# How the pooling's first form named its kinds, in the order in which they are put together.
MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "Identity": lambda values: values,
    "Tanh": torch.tanh,
    "ReLU": torch.relu,
    "GELU": torch.nn.functional.gelu,
    "SiLU": torch.nn.functional.silu,
    "Sigmoid": torch.sigmoid,
}
Step = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Pooling:
    """From all tokens to one vector, in the ways that are named, one after the other."""

    modes: tuple[str, ...] = ("mean",)
    include_prompt: bool = True

    def __call__(self, hidden: torch.Tensor, prompt_tokens: int) -> torch.Tensor:
        """`hidden` `[tokens, hidden]`, all of them real, to `[modes * hidden]`."""
        skipped = 0 if self.include_prompt else min(prompt_tokens, len(hidden))
        return torch.cat([self._pooled(mode, hidden, skipped) for mode in self.modes])

    def _pooled(self, mode: str, hidden: torch.Tensor, skipped: int) -> torch.Tensor:
        read = hidden[skipped:]
        if mode == "cls":
            return hidden[skipped if len(read) else 0]
        if mode == "lasttoken":
            return hidden[-1]
        if mode == "max":
            return read.amax(dim=0)
        if mode == "weightedmean":
            weights = torch.arange(skipped + 1, len(hidden) + 1, dtype=hidden.dtype)[:, None]
            return (read * weights).sum(dim=0) / weights.sum()
        return read.sum(dim=0) / (len(read) if mode == "mean" else len(read) ** 0.5)


@dataclass(frozen=True, slots=True)
class SentenceEmbedding:
    """One model's configuration. `max_tokens` is to how many tokens texts are cut; None: as the tokenizer says."""

    pooling: Pooling
    steps: Sequence[Step] = ()
    normalize: bool = False
    max_tokens: int | None = None
    lowercase: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None

    def describe(self) -> dict[str, object]:
        """What `/info` says of it."""
        return {
            "pooling": list(self.pooling.modes),
            "normalize": self.normalize,
            "max_tokens": self.max_tokens,
            "prompts": list(self.prompts),
            "default_prompt": self.default_prompt,
        }

    def prompt(self, name: str | None) -> str:
        """What is put before a text. Raises `Rejected` for a name that the configuration has not."""
        if name is None:
            return self.prompts.get(self.default_prompt or "", "")
        if name not in self.prompts:
            raise Rejected(f"Parameter 'prompt_name': the model's prompts are {', '.join(self.prompts) or 'none'}.")
        return self.prompts[name]

    def embed(self, hidden: torch.Tensor, prompt_tokens: int = 0, normalize: bool | None = None) -> np.ndarray:
        """`hidden` `[1, tokens, hidden]` of one text to float32 `[dimensions]`.

        `normalize` says otherwise than the configuration whether the length becomes one.
        """
        values = self.pooling(hidden[0].float(), prompt_tokens)
        for step in self.steps:
            values = step(values)
        if self.normalize if normalize is None else normalize:
            values = torch.nn.functional.normalize(values, dim=-1)
        embedding: np.ndarray = values.numpy()
        return embedding


# Reading


class Files:
    """A model's files, in its folder or of the Hub, at one revision."""

    def __init__(self, model: str, revision: str | None) -> None:
        self._model = model
        self._revision = revision

    def path(self, name: str) -> str | None:
        """None if the model has no such file."""
        found: str | None = cached_file(
            self._model,
            name,
            revision=self._revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,  # the model was there, so what it has is in the cache
        )
        return found

    def json(self, name: str) -> Any:
        """An empty configuration if the model has no such file."""
        path = self.path(name)
        if path is None:
            return {}
        with open(path, encoding="utf-8") as file:  # noqa: PTH123
            return json.load(file)

    def weights(self, folder: str) -> dict[str, torch.Tensor]:
        """Raises `ConfigurationError` if they are not there in a form that holds no code."""
        path = self.path(f"{folder}/model.safetensors")
        if path is None:
            raise ConfigurationError(f"{folder} has no model.safetensors")
        return {name: tensor.float() for name, tensor in load_file(path).items()}


def read_embedding(model: str, revision: str | None) -> SentenceEmbedding | None:
    """None where there is no configuration of sentence-transformers, or none that can be served: the log says why."""
    if not model:  # made, not loaded
        return None
    files = Files(model, revision)
    try:
        modules = files.json(MODULES)
        return _embedding(files, modules) if modules else None
    except ConfigurationError as error:
        logger.warning("No sentence embeddings: %s.", error)
        return None


def _embedding(files: Files, modules: Sequence[Mapping[str, str]]) -> SentenceEmbedding:
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    paths = [module["path"] for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or paths[0]:
        raise ConfigurationError(f"its modules are {', '.join(kinds)}, not a Transformer at its root and a Pooling")
    steps: list[Step] = []
    normalize = False
    for kind, path in zip(kinds[2:], paths[2:], strict=True):
        if kind == "Normalize":
            normalize = True
        elif normalize or kind not in STEPS:
            raise ConfigurationError(f"its module {kind} is not known" + (" behind Normalize" if normalize else ""))
        else:
            steps.append(STEPS[kind](files, path))
    transformer: dict[str, Any] = next(filter(None, map(files.json, TRANSFORMER_CONFIGS)), {})
    told = files.json("config_sentence_transformers.json")
    return SentenceEmbedding(
        _pooling(files.json(f"{paths[1]}/config.json")),
        steps,
        normalize,
        transformer.get("max_seq_length"),
        bool(transformer.get("do_lower_case")),
        told.get("prompts") or {},
        told.get("default_prompt_name"),
    )


def _pooling(config: Mapping[str, Any]) -> Pooling:
    named = config.get("pooling_mode")
    modes = [named] if isinstance(named, str) else named or [mode for key, mode in MODES.items() if config.get(key)]
    if unknown := [mode for mode in modes if mode not in MODES.values()]:
        raise ConfigurationError(f"its pooling {unknown[0]!r} is not known")
    return Pooling(tuple(modes) or ("mean",), config.get("include_prompt", True))


def _dense(files: Files, path: str) -> Step:
    config, weights = files.json(f"{path}/config.json"), files.weights(path)
    name = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    activation = ACTIVATIONS.get(name.rpartition(".")[2])
    if activation is None or not name.startswith("torch.nn."):
        raise ConfigurationError(f"its activation function {name!r} is not known")
    if config.get("use_residual") or config.get("module_input_name", "sentence_embedding") != "sentence_embedding":
        raise ConfigurationError(f"its module {path} does more than a layer")
    weight, bias = weights["linear.weight"], weights.get("linear.bias")
    return lambda values: activation(torch.nn.functional.linear(values, weight, bias))


def _layer_norm(files: Files, path: str) -> Step:
    weights = files.weights(path)
    weight, bias = weights["norm.weight"], weights["norm.bias"]
    return lambda values: torch.nn.functional.layer_norm(values, weight.shape, weight, bias)


STEPS: dict[str, Callable[[Files, str], Step]] = {
    "Dense": _dense,
    "LayerNorm": _layer_norm,
    "Dropout": lambda files, path: lambda values: values,  # only in training
}
