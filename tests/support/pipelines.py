"""Pipelines taken apart, and what they are given, for the tests of each of their stages."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from pipeline_webserver.api.tasks import TASKS
from pipeline_webserver.inference.acceleration.base import DoesNotFit
from pipeline_webserver.inference.acceleration.selection import speed_ups_for
from pipeline_webserver.inference.loading import load
from pipeline_webserver.inference.pipeline_runner import LoadedPipeline
from pipeline_webserver.inference.preprocessing.base import PreparedInput

Parameters = dict[str, object]
TEXTS = [
    "test",
    "",
    "paris is the capital of france .",
    "the quick brown fox jumps over the lazy dog , and then it does the same again in the other direction",
    "a",
    "albert einstein was born in ulm and worked in bern , berlin and princeton " * 2,
]
PARAMETERS: dict[str, list[Parameters]] = {
    "fill-mask": [{}, {"top_k": 2}, {"targets": ["france", "city", "dog"]}, {"top_k": 1, "targets": ["fox", "test"]}],
    "text-classification": [
        {},
        {"top_k": 2},
        {"top_k": 1},
        {"function_to_apply": "sigmoid"},
        {"function_to_apply": "none"},
    ],
    "token-classification": [
        {},
        {"ignore_labels": []},
        {"aggregation_strategy": "simple"},
        {"aggregation_strategy": "first", "ignore_labels": ["PER"]},
        {"aggregation_strategy": "average"},
        {"aggregation_strategy": "max", "stride": 4},
    ],
    "feature-extraction": [{}, {"truncation": True}],
    "zero-shot-classification": [
        {"candidate_labels": ["travel", "science"]},
        {"candidate_labels": ["a", "much longer label than the others", "b"], "multi_label": True},
        {"candidate_labels": ["one"], "hypothesis_template": "Is it {}?"},
    ],
}


class Panic(BaseException):
    """As pyo3 raises them for the tokenizer's Rust: no `Exception`."""


def open_pipeline(folder: Path, task: str | None = None, **options: Any) -> LoadedPipeline:
    """A pipeline that pads as much as it can: any two rows share a pass."""
    loaded = LoadedPipeline(load(str(folder), task, None, "cpu", None, list(TASKS)), **options)
    loaded.passes.why_not_padded, loaded.passes.fixed_cost_tokens = None, 1e9
    return loaded


def inputs_of(task: str) -> list[str]:
    if task == "fill-mask":
        return [f"{text} [MASK] {text}" for text in TEXTS] + ["two [MASK] of [MASK]"]
    return [text for text in TEXTS if text or task != "zero-shot-classification"]


def run(loaded: LoadedPipeline, work: list[tuple[Any, Parameters]]) -> list[Any]:
    """One batch; the error or the output of each."""
    prepared = loaded.prepare(work)
    results = iter(loaded.run([item for item in prepared if isinstance(item, PreparedInput)]))
    return [next(results) if isinstance(item, PreparedInput) else item for item in prepared]


@contextmanager
def hooked(loaded: LoadedPipeline, hook: Callable[[torch.Tensor], None]) -> Iterator[list[int]]:
    """Look at what the real model is given before each pass, and perhaps raise; the rows of each pass."""
    rows: list[int] = []

    def look(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        given = [kwargs[name] for name in ("pixel_values", "input_ids") if name in kwargs] or [*args, *kwargs.values()]
        rows.append(len(given[0]))
        hook(given[0])

    handle = loaded.pipe.model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield rows
    finally:
        handle.remove()


def sped_up(loaded: LoadedPipeline) -> LoadedPipeline:
    """The same with all speed-ups, whatever they gain here."""
    for speed_up in speed_ups_for(loaded.pipe.model, loaded.reads()):
        with suppress(DoesNotFit):
            speed_up.on()
    loaded.passes.padding_is_free = True
    return loaded
