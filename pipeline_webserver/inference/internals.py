"""Every private name of transformers and torch that this project depends on, each in one function.

A test calls each of them, so that a new version which lacks one fails there. It must never know what they are used for.
"""

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.base import Pipeline
from transformers.utils import cached_file


def stage_parameters(pipe: Pipeline, parameters: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """The parameters of `preprocess`, `forward` and `postprocess`: the pipeline's own, and those of one call."""
    preprocess, forward, postprocess = pipe._sanitize_parameters(**parameters)
    return (
        {**pipe._preprocess_params, **preprocess},
        {**pipe._forward_params, **forward},
        {**pipe._postprocess_params, **postprocess},
    )


def generation_settings(pipe: Pipeline, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What the pipeline generates by: the parameters of a call, the model's own settings and the pipeline's."""
    settings: dict[str, Any]
    if hasattr(pipe, "_get_set_generation_params"):
        settings = pipe._get_set_generation_params(pipe._prepare_generate_kwargs(dict(parameters)))
        return settings
    # Before transformers 5.22 the pipeline has them in one configuration, where what was not set has its default.
    defaults = pipe.model.generation_config._get_default_generation_params()
    settings = pipe.generation_config.to_diff_dict()
    set_ones = {name: item for name, item in settings.items() if name not in defaults or item != defaults[name]}
    return {**set_ones, **parameters}


def decode(tokenizer: Any, ids: list[int], *, skip_special_tokens: bool = False) -> str:
    """`tokenizer.decode` of a list of ids, which would first look at each of them for whether it is an array."""
    text: str = tokenizer._decode(ids, skip_special_tokens=skip_special_tokens)
    return text


def pipeline_class(task: str) -> type[Pipeline]:
    """The class of a task's pipeline."""
    found: Any = PIPELINE_REGISTRY.check_task(task)[1]["impl"]
    if isinstance(found, str):  # since transformers 5.22, which imports it only then
        module, _, name = found.rpartition(".")
        found = getattr(importlib.import_module(module), name)
    kind: type[Pipeline] = found
    return kind


def needs_part(kind: type[Pipeline], part: str) -> bool | None:
    """Whether a pipeline works with a `tokenizer`, `image_processor` or `feature_extractor`; None: if there is one."""
    needed: bool | None = getattr(kind, f"_load_{part}")
    return needed


def model_classes(task: str, config: PreTrainedConfig) -> list[Any]:
    """The classes in which a task's pipeline takes a model of this configuration, the first that works being used."""
    return [kind for kind in PIPELINE_REGISTRY.check_task(task)[1]["pt"] if type(config) in kind._model_mapping]


def audio_frames(model: PreTrainedModel, samples: int) -> int | None:
    """How many frames a model of the raw wave makes of so many samples; None for models of spectrograms."""
    frames_of = getattr(model, "_get_feat_extract_output_lengths", None)
    return None if frames_of is None else int(frames_of(torch.tensor(samples)))


def can_set_attention(model: PreTrainedModel) -> bool:
    """Whether the model looks its attention up in the `AttentionInterface`."""
    return bool(model._can_set_attn_implementation())


def attention_of(model: PreTrainedModel) -> str:
    """The name of the attention that the model looks up."""
    name: str = model.config._attn_implementation
    return name


def keeps_state(model: PreTrainedModel) -> bool:
    """Whether the model keeps a state from token to token, instead of or beside keys and values."""
    return bool(model._is_stateful)


def attention_configs(model: PreTrainedModel) -> list[PreTrainedConfig]:
    """The configurations in which the model's modules look up the name of their attention."""
    return list({id(module.config): module.config for module in model.modules() if hasattr(module, "config")}.values())


def use_attention(configs: Iterable[PreTrainedConfig], name: str) -> None:
    """Let modules look up another attention: `set_attn_implementation`, without its search for kernels."""
    for config in configs:
        config._attn_implementation_internal = name


def cached_path(model: str, name: str, revision: str | None) -> Path | None:
    """A file of a model, in its folder, the cache or on the Hub; None if it has none, or if none of them can tell.

    Without a network the cache cannot tell a missing file from one that never was. Raises `OSError`.
    """
    found = cached_file(
        model,
        name,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if found is None else Path(found)


def attribute_stores(module: torch.nn.Module) -> list[dict[str, Any]]:
    """The dictionaries of a module's attributes, buffers and modules: its own, not copies."""
    return [vars(module), module._buffers, module._modules]


def notes_hooks(attribute: str) -> bool:
    """Whether an attribute says that transformers has hooked a model's modules, which a first pass does for good."""
    return attribute == "_output_capturing_hooks_installed"


def version_of(tensor: torch.Tensor) -> int:
    """How many times a tensor was changed in place."""
    return int(tensor._version)


def onednn_linear(weight: torch.Tensor, bias: torch.Tensor | None, inputs: torch.Tensor) -> torch.Tensor:
    """oneDNN's product of `inputs` `[..., in]` with a `weight` `[out, in]`, plain or prepacked: `[..., out]`."""
    output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return output


def onednn_prepack(weight: torch.Tensor) -> torch.Tensor:
    """The weight `[out, in]` in the memory layout that oneDNN's product reads; `to_dense()` undoes it."""
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
    return packed


def onednn_supports(dtype: torch.dtype) -> bool:
    """Whether the CPU has instructions with which oneDNN computes this type."""
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return dtype == torch.float32
