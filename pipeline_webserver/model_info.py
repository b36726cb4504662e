"""What is known of the loaded model: filled in by `inference`, published by `api`. It must never know either."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class OptimizationReport:
    """What became of one optimization at the start.

    `difference` is the worst of its outputs, relative to the largest number. `gains` is the time without it by the time
    with it, for each probe. `reason` says why it is not applied, or that it is, or is not, without having been timed.
    """

    name: str
    applied: bool
    difference: float | None = None
    gains: Mapping[str, float] | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class BatchingInfo:
    """How inputs share forward passes, and why not more. `put_back`: what passes change in the model, behind each."""

    strategy: str = "alone"
    reason: str | None = None
    put_back: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class EmbeddingInfo:
    """What a sentence-transformers configuration says; `max_tokens` is None where texts are not cut."""

    dim: int
    pooling: Sequence[str]
    normalize: bool
    max_tokens: int | None
    prompts: Sequence[str]
    default_prompt: str | None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What `/info` and the OpenAPI document say of the model. `max_tokens` is None where inputs have no such limit.

    `model` is its Hub id or its folder's name, `name` what to call it. `task_source` is where the task was read. The
    fields below `versions` belong to some tasks, and are None for the others; `no_embedding` is why a model with a
    configuration for embeddings is served without them.
    """

    model: str
    name: str
    task: str
    device: str
    dtype: str
    threads: int
    task_source: str | None = None
    max_tokens: int | None = None
    batching: BatchingInfo = BatchingInfo()
    optimizations: Sequence[OptimizationReport] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    mask_token: str | None = None
    max_top_k: int | None = None
    max_stride: int | None = None
    embedding: EmbeddingInfo | None = None
    no_embedding: str | None = None
    subtasks: Sequence[str] | None = None
    generates: bool | None = None
    timestamps: bool | None = None
    max_heard_s: float | None = None

    def as_json(self) -> dict[str, Any]:
        """As plain values, without the fields that belong to other tasks."""
        return {name: value for name, value in asdict(self).items() if value is not None or name == "max_tokens"}
