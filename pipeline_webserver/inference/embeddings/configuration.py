"""From a model's own sentence-transformers configuration to its `SentenceEmbedding`.

The configuration is data: no code that it names is ever imported. It must never know texts, pipelines, requests, HTTP
or settings.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from torch.nn import functional

from pipeline_webserver.errors import ConfigurationError
from pipeline_webserver.inference.embeddings.model_files import ModelFiles
from pipeline_webserver.inference.embeddings.module_list import CHOOSE, listed_modules, made_for
from pipeline_webserver.inference.embeddings.modules import (
    ACTIVATIONS,
    MODES,
    Dense,
    LayerNorm,
    Pooling,
    Step,
    activation,
    unchanged,
    unit_length,
)
from pipeline_webserver.inference.embeddings.sentence_embedding import SentenceEmbedding
from pipeline_webserver.inference.model_inputs import NO_LIMIT

# How the pooling's first form named its kinds, in the order in which they are put together.
OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# Where the first module's settings are; older versions named the file by the model's family.
TRANSFORMER_CONFIGS = tuple(
    f"sentence_{family}_config.json"
    for family in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# What may be said for loading, because it moves no result by more than rounding, or is followed here.
LOADING = {
    *("add_pooling_layer", "attn_implementation", "device_map", "dtype", "low_cpu_mem_usage", "model_max_length"),
    *("padding_side", "torch_dtype", "trust_remote_code", "use_fast", "use_safetensors"),
}
# Where torch keeps its activation functions.
PLACES = ("torch.nn", "torch.nn.modules.activation", "torch.nn.modules.linear")
# Every model has these, empty unless it says otherwise.
PROMPTS = {"query": "", "document": ""}


def read_embedding(model: str, revision: str | None) -> SentenceEmbedding | None:
    """The configuration of a folder, or of a model of the Hub or its cache. None if it has none.

    Raises `ConfigurationError` if it has one that is not computed here.
    """
    files = ModelFiles(model, revision)
    try:
        modules = files.json("modules.json")
        return None if modules is None else _embedding(files, modules)
    except ConfigurationError as error:
        raise ConfigurationError(f"{model!r} has embeddings that cannot be served: {error}") from error
    except (AttributeError, TypeError, ValueError) as error:
        why = f"its sentence-transformers configuration has a value of a wrong type ({error}); {CHOOSE}"
        raise ConfigurationError(f"{model!r} has embeddings that cannot be served: {why}") from error


def _embedding(files: ModelFiles, modules: Any) -> SentenceEmbedding:
    if (kind := made_for(files)) != "SentenceTransformer":
        raise ConfigurationError(f"it is a {kind}, not a SentenceTransformer; {CHOOSE}")
    kinds, folders = _modules(modules)
    settings = files.settings("config_sentence_transformers.json")
    at = PurePosixPath(folders[0])
    transformer = next(filter(None, (files.settings(str(at / name)) for name in TRANSFORMER_CONFIGS)), {})
    _check_transformer(transformer)
    pooling, dim = _pooling(files, folders[1])
    steps: list[Step] = []
    for kind, folder in zip(kinds[2:], folders[2:], strict=True):
        step, dim = STEPS[kind](files, folder, dim)
        steps += [step] * (step is not unchanged)
    normalized = unit_length in steps[-1:]
    while unit_length in steps[-1:]:  # one with a layer behind it is what that layer was trained on: it stays
        steps.pop()
    prompts = _prompts(settings)
    return SentenceEmbedding(
        pooling,
        min(dim, settings.get("truncate_dim") or dim),
        tuple(steps),
        normalized,
        _max_tokens(files, at, transformer),
        bool(transformer.get("do_lower_case")),
        prompts,
        _default_prompt(settings, prompts),
    )


def _modules(modules: Any) -> tuple[list[str], list[str]]:
    """The kinds and the folders of modules, all of which can be computed."""
    kinds, folders = listed_modules(modules)
    if kinds[:2] != ["Transformer", "Pooling"] or not set(kinds[2:]) <= STEPS.keys():
        computed = f"Transformer, Pooling, and then any of {', '.join(STEPS)}"
        raise ConfigurationError(f"its modules are {', '.join(kinds)}; served are {computed}; {CHOOSE}")
    return kinds, folders


def _check_transformer(transformer: Mapping[str, Any]) -> None:
    """What the first module does otherwise than the model and its tokenizer by themselves is not computed here."""
    usual = {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings"}
    changed = [name for name, value in usual.items() if transformer.get(name, value) != value]
    plain = {"method": "forward", "method_output_name": "last_hidden_state"}
    modalities = transformer.get("modality_config", {"text": plain})
    if modalities.get("text") != plain or "message" in modalities:  # with messages, texts go through a chat template
        changed.append("modality_config")
    changed += [name for name in ("processing_kwargs", "tokenizer_name_or_path") if transformer.get(name)]
    for name in ("model_args", "model_kwargs", "config_args", "config_kwargs", "tokenizer_args", "processor_kwargs"):
        changed += [f"{name}.{option}" for option in transformer.get(name) or {} if option not in LOADING]
    if changed:
        raise ConfigurationError(f"its Transformer sets {', '.join(changed)}, which is not followed here; {CHOOSE}")


def _max_tokens(files: ModelFiles, at: PurePosixPath, transformer: Mapping[str, Any]) -> int | None:
    """What is said for sentence-transformers has the last word; else the tokenizer's limit, within the model's."""
    options = [transformer.get(name) or {} for name in ("processor_kwargs", "tokenizer_args")]
    named = [*(option.get("model_max_length") for option in options), transformer.get("max_seq_length")]
    for limit in named:
        if limit is not None:
            return int(limit)
    limits = [
        files.settings(str(at / "tokenizer_config.json")).get("model_max_length"),
        files.settings(str(at / "config.json")).get("max_position_embeddings"),
    ]
    return min((int(limit) for limit in limits if limit is not None and 0 < limit < NO_LIMIT), default=None)


def _prompts(settings: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(prompt or "") for name, prompt in {**PROMPTS, **(settings.get("prompts") or {})}.items()}


def _default_prompt(settings: Mapping[str, Any], prompts: Mapping[str, str]) -> str | None:
    default: str | None = settings.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise ConfigurationError(f"its default prompt {default!r} is none of {', '.join(prompts)}; {CHOOSE}")
    return default


def _pooling(files: ModelFiles, folder: str) -> tuple[Pooling, int]:
    """And the length of what it gives."""
    config = files.settings(f"{folder}/config.json")
    size = config.get("embedding_dimension", config.get("word_embedding_dimension"))
    if not size:  # no default: a file that is not there must not become a mean
        raise ConfigurationError(f"its {folder}/config.json says no embedding_dimension; download the model again")
    named = config.get("pooling_mode") or [mode for name, mode in OLD_MODES.items() if config.get(name)] or "mean"
    modes = (named,) if isinstance(named, str) else tuple(named)
    if unknown := [mode for mode in modes if mode not in MODES]:
        raise ConfigurationError(f"its pooling {unknown[0]!r} is none of {', '.join(MODES)}; {CHOOSE}")
    return Pooling(modes, bool(config.get("include_prompt", True))), len(modes) * int(size)


# The modules behind the pooling: each from a folder and the length of its input to a step and the length of its output.


def _dense(files: ModelFiles, folder: str, dim: int) -> tuple[Step, int]:
    config = files.settings(f"{folder}/config.json")
    _check_place(config, folder)
    has_residual = config.get("use_residual", False)
    has_projection = has_residual and config.get("in_features") != config.get("out_features")
    has_bias = config.get("bias", True)
    names = ["linear.weight", *["linear.bias"] * has_bias, *["residual.weight"] * has_projection]
    tensors = dict(zip(names, files.weights(folder, names), strict=True))
    weight = tensors["linear.weight"]
    _check_length(folder, weight.shape[1], dim)
    projection: Step = partial(functional.linear, weight=tensors["residual.weight"]) if has_projection else unchanged
    function = _activation(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    return Dense(weight, tensors.get("linear.bias"), function, projection if has_residual else None), len(weight)


def _activation(path: Any) -> Step:
    place, _, name = str(path).rpartition(".")
    if name not in ACTIVATIONS or place not in PLACES:
        raise ConfigurationError(
            f"its activation function {path!r} is none of torch.nn's {', '.join(ACTIVATIONS)}; {CHOOSE}"
        )
    return activation(name)


def _layer_norm(files: ModelFiles, folder: str, dim: int) -> tuple[Step, int]:
    weight, bias = files.weights(folder, ["norm.weight", "norm.bias"])
    _check_length(folder, len(weight), dim)
    return LayerNorm(weight, bias), dim


def _normalize(files: ModelFiles, folder: str, dim: int) -> tuple[Step, int]:
    _check_place(files.settings(f"{folder}/config.json"), folder)
    return unit_length, dim


def _dropout(files: ModelFiles, folder: str, dim: int) -> tuple[Step, int]:
    return unchanged, dim  # only in training is it more


def _check_length(folder: str, taken: int, given: int) -> None:
    if taken != given:
        raise ConfigurationError(f"its {folder} takes {taken} numbers and is given {given}; download the model again")


def _check_place(config: Mapping[str, Any], folder: str) -> None:
    for name in ("module_input_name", "module_output_name"):
        if (place := config.get(name) or "sentence_embedding") != "sentence_embedding":
            raise ConfigurationError(f"its {folder} is for {place!r}, not for the sentence embedding; {CHOOSE}")


STEPS: dict[str, Callable[[ModelFiles, str, int], tuple[Step, int]]] = {
    "Dense": _dense,
    "LayerNorm": _layer_norm,
    "Normalize": _normalize,
    "Dropout": _dropout,
}
