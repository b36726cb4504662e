"""The start of a model that generates: whether steps give its scores, what they cost, and how much room there is."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline_webserver.inference.generation import generation_runner as module
from pipeline_webserver.inference.generation.generation_runner import GenerationRunner, generation_runner
from pipeline_webserver.inference.generation.step_model import NotSteppable, StepModel
from pipeline_webserver.inference.pipeline_runner import PipelineRunner
from tests.support import media_models
from tests.support.pipelines import load_pipeline, runner_of


def warmed_up(folder: Path, maker: Any = media_models.llama) -> PipelineRunner:
    runner = runner_of(load_pipeline(media_models.make(maker, folder)))
    runner.warm_up(accelerate=False)
    return runner


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> PipelineRunner:
    return warmed_up(tmp_path_factory.mktemp("llama"))


def test_a_model_whose_steps_give_its_scores_generates_step_by_step(runner: PipelineRunner) -> None:
    found = generation_runner(runner)
    assert found is not None
    assert found.fixed_cost_tokens > 0
    assert runner.describe(threads=1).batching.strategy == "continuous"
    assert not any(arena.slots for arena in found.engine.cache.arenas.values())


@pytest.mark.parametrize("available", [None, 1_000_000])
def test_the_room_for_tokens_is_a_part_of_the_memory_that_is_left(
    available: int | None, runner: PipelineRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "available_bytes", lambda device: available)
    bytes_per_token = 2 * 2 * 32 * 4  # keys and values of two layers, 32 numbers each
    expected = module.DEFAULT_CACHE_TOKENS if available is None else int(0.5 * available / bytes_per_token)
    assert GenerationRunner(runner).max_cache_tokens == expected
    assert GenerationRunner(runner, 77).max_cache_tokens == 77


def test_a_model_whose_steps_give_other_scores_generates_as_a_whole_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runner = warmed_up(tmp_path)
    own = StepModel.step
    monkeypatch.setattr(StepModel, "step", lambda self, chunks: own(self, chunks) + torch.arange(258))
    with caplog.at_level(logging.WARNING):
        assert generation_runner(runner) is None
    batching = runner.describe(threads=1).batching
    assert batching.strategy in {"padded", "same_length"}
    assert (batching.reason or "").startswith("its steps change the scores by ")
    assert f"The model generates for inputs as a whole, not step by step: {runner.steps_reason}." in caplog.messages


def test_a_model_whose_steps_fail_says_how(runner: PipelineRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: StepModel, chunks: Any) -> torch.Tensor:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(StepModel, "step", fail)
    with pytest.raises(NotSteppable, match=r"its steps fail \(no such thing\)"):
        GenerationRunner(runner)


def test_a_model_that_changes_itself_generates_as_a_whole(
    runner: PipelineRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner.forward.state, "changed", {"Attention.state"})
    with pytest.raises(NotSteppable, match="a pass changes the model itself"):
        GenerationRunner(runner)


def test_other_tasks_have_no_steps(tmp_path: Path) -> None:
    assert generation_runner(warmed_up(tmp_path, media_models.vit)) is None
