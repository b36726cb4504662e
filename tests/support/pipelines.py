"""Pipelines taken apart, and what they are given, for the tests of each of their stages."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers.pipelines.base import Pipeline

from pipeline_webserver.api.tasks import TASKS
from pipeline_webserver.inference.acceleration.base import NotApplicable, Optimization
from pipeline_webserver.inference.acceleration.selection import optimizations_for
from pipeline_webserver.inference.batch_plan import PADDED, UNPADDED
from pipeline_webserver.inference.loading import load
from pipeline_webserver.inference.model_inputs import Limits, PositionsRead, PreparedInput
from pipeline_webserver.inference.pipeline_runner import PipelineRunner
from pipeline_webserver.inference.preprocessing.registry import preprocessor_class
from tests.support.device import DEVICE

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


SERVED = {name: task.architectures for name, task in TASKS.items()}
PREPROCESSORS = {name: (task.preprocessor, task.extra) for name, task in TASKS.items()}


def load_pipeline(folder: Path | str | None, task: str | None = None, dtype: str | None = None) -> Pipeline:
    """The pipeline of a folder, by default of the bundled model."""
    return load(None if folder is None else str(folder), task, None, DEVICE, dtype or "float32", SERVED)


def runner_of(pipe: Pipeline, limits: Limits | None = None, **options: Any) -> PipelineRunner:
    """A pipeline taken apart, as it is before its warm-up."""
    preprocessor = preprocessor_class(pipe.task, *PREPROCESSORS[pipe.task])(pipe, limits or Limits())
    return PipelineRunner(pipe, preprocessor, **options)


def open_pipeline(
    folder: Path, task: str | None = None, limits: Limits | None = None, **options: Any
) -> PipelineRunner:
    """A pipeline that pads as much as it can: any two model inputs share a pass."""
    runner = runner_of(load_pipeline(folder, task), limits, **options)
    share_all(runner)
    return runner


def share_all(runner: PipelineRunner) -> None:
    """Any two model inputs share a pass, whatever their lengths."""
    runner.forward.strategy, runner.forward.fixed_cost_tokens = PADDED, 1e9


def inputs_of(task: str) -> list[str]:
    if task == "fill-mask":
        return [f"{text} [MASK] {text}" for text in TEXTS] + ["two [MASK] of [MASK]"]
    return [text for text in TEXTS if text or task != "zero-shot-classification"]


def run(runner: PipelineRunner, inputs: list[tuple[Any, Parameters]]) -> list[Any]:
    """One batch; the error or the output of each."""
    prepared = runner.preprocess(inputs)
    results = iter(runner.run([item for item in prepared if isinstance(item, PreparedInput)]))
    return [next(results) if isinstance(item, PreparedInput) else item for item in prepared]


def prepare(runner: PipelineRunner, value: Any, parameters: Parameters | None = None) -> PreparedInput:
    """An input that passes every check."""
    (prepared,) = runner.preprocess([(value, parameters or {})])
    assert isinstance(prepared, PreparedInput), prepared
    return prepared


@contextmanager
def hooked(runner: PipelineRunner, hook: Callable[[torch.Tensor], None]) -> Iterator[list[int]]:
    """Look at what the real model is given before each pass, and perhaps raise; the rows of each pass."""
    rows: list[int] = []

    def look(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        inputs = [kwargs[name] for name in ("pixel_values", "input_ids") if name in kwargs] or [*args, *kwargs.values()]
        rows.append(len(inputs[0]))
        hook(inputs[0])

    handle = runner.pipe.model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield rows
    finally:
        handle.remove()


def count_rows(runner: PipelineRunner) -> AbstractContextManager[list[int]]:
    """The rows of each pass of the real model."""
    return hooked(runner, lambda tensor: None)


def apply_all(model: Any, positions_read: PositionsRead | None) -> list[Optimization]:
    """Apply the optimizations that are for this model, whatever they gain here."""
    applied = []
    for optimization in optimizations_for(model, positions_read):
        try:
            optimization.apply()
        except NotApplicable:
            optimization.revert()
        else:
            applied.append(optimization)
    return applied


def accelerated(runner: PipelineRunner) -> PipelineRunner:
    """The same with all optimizations that are for its model, whatever they gain here."""
    apply_all(runner.pipe.model, runner.preprocess.positions_read)
    runner.forward.strategy = UNPADDED
    return runner
