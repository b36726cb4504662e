"""The models that are measured: their shapes, their tasks, their folders.

Owns the list and the cache of folders. It must never know torch: `weights.py` creates the weights, in a process of its
own.
"""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import ROOT, run_module

BUNDLED = ROOT / "pipeline_webserver" / "bundled_model" / "bert-small-english"
VOCABULARY_SIZE = 30_522


@dataclass(frozen=True, slots=True)
class Shape:
    layers: int
    hidden: int
    heads: int
    intermediate: int


@dataclass(frozen=True, slots=True)
class Model:
    """A model with random weights of a shape, or, without one, the bundled model."""

    name: str
    task: str
    description: str
    shape: Shape | None


MODELS = {
    model.name: model
    for model in (
        Model("bert-base", "fill-mask", "BERT-base, 12 layers of 768", Shape(12, 768, 12, 3072)),
        Model("bundled", "fill-mask", "the bundled model, 6 layers of 384", None),
        Model("bert-tiny", "fill-mask", "a tiny BERT, 2 layers of 128", Shape(2, 128, 2, 512)),
        Model("minilm-classifier", "text-classification", "a MiniLM, 6 layers of 384", Shape(6, 384, 12, 1536)),
    )
}


async def folder_of(model: Model, cache: Path) -> Path:
    """The model's folder, created if it does not exist. Raises `RuntimeError`."""
    if model.shape is None:
        return BUNDLED
    folder = cache / model.name
    exists = (folder / "config.json").is_file()
    if not exists and await run_module("benchmarks.weights", model.name, str(folder)):
        raise RuntimeError(f"the model {model.name} could not be created")
    return folder
