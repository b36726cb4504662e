"""A pipeline's two threads: what runs in which, at the same time, and how they end."""

import asyncio
import gc
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from pipeline_webserver.errors import ConfigurationError
from pipeline_webserver.inference.inference_thread import SWITCH_INTERVAL_S, InferenceThread, WorkerThread
from pipeline_webserver.inference.model_inputs import Heartbeat, Limits, PreparedInput
from pipeline_webserver.inference.pipeline_runner import PipelineRunner, open_runner
from pipeline_webserver.model_info import ModelInfo
from tests.support.pipelines import PREPROCESSORS, hooked, load_pipeline

# No test waits as long: it fails instead.
TIMEOUT_S = 30.0
# The preprocessing thread, and its number of torch's threads.
PREPROCESSING: list[object] = [("preprocessing", 1)]


@pytest.fixture(autouse=True)
def switch_interval() -> Iterator[None]:
    """As it was, behind each test: it is the whole process's."""
    before = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before)


@dataclass
class FakeRunner:
    """Returns the thread that it runs in, and that thread's number of torch's threads.

    A run sets `is_running` and lasts until `may_end` is set.
    """

    task = "fill-mask"

    is_running: threading.Event = field(default_factory=threading.Event)
    may_end: threading.Event = field(default_factory=threading.Event)
    has_ended: threading.Event = field(default_factory=threading.Event)

    def preprocess(self, inputs: Sequence[Any], heartbeat: Heartbeat) -> list[tuple[str, int]]:
        heartbeat()
        return [(threading.current_thread().name, torch.get_num_threads())]

    def run(self, batch: Sequence[Any], heartbeat: Heartbeat) -> list[tuple[str, int]]:
        self.is_running.set()
        assert self.may_end.wait(TIMEOUT_S)
        heartbeat()
        self.has_ended.set()
        return [(threading.current_thread().name, torch.get_num_threads())]

    def describe(self, threads: int) -> ModelInfo:
        return ModelInfo(model="fake", name="fake", task="fill-mask", device="none", dtype="float32", threads=threads)


def opening(runner: FakeRunner) -> Callable[[], PipelineRunner]:
    return lambda: cast("PipelineRunner", runner)


def nothing() -> None:
    pass


async def with_a_call_under_way(runner: FakeRunner) -> tuple[InferenceThread, asyncio.Task[Sequence[object]]]:
    """A thread, and its call of the runner, which lasts until `may_end` is set."""
    thread = InferenceThread(opening(runner), threads=1)
    await thread.start()
    call = asyncio.create_task(thread.run([], nothing))
    assert await asyncio.to_thread(runner.is_running.wait, TIMEOUT_S)
    return thread, call


def running_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()} & {"model", "preprocessing"}


def test_a_real_pipeline_is_served_in_two_named_threads(model_of: Callable[[str], Path]) -> None:
    seen: set[tuple[str, int]] = set()

    def look(ids: torch.Tensor) -> None:
        seen.add((threading.current_thread().name, torch.get_num_threads()))

    async def main() -> Any:
        load = partial(load_pipeline, model_of("fill-mask"))
        thread = InferenceThread(partial(open_runner, load, PREPROCESSORS, Limits(), None, accelerate=False), threads=1)
        await thread.start()
        assert running_threads() == {"model", "preprocessing"}
        assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL_S)
        with hooked(thread.runner, look):
            (prepared,) = await thread.preprocess([("a [MASK]", {})], nothing)
            assert isinstance(prepared, PreparedInput)
            (result,) = await thread.run([prepared], nothing)
        assert thread.close() is True
        assert running_threads() == set()
        assert gc.get_freeze_count() > 100_000  # what the start has made is excluded from garbage collection
        assert thread.info.task == "fill-mask"
        assert thread.max_batch_tokens == thread.runner.forward.max_tokens
        assert thread.fixed_cost_tokens == thread.runner.forward.fixed_cost_tokens
        assert thread.info == thread.runner.describe(threads=1)
        return result

    assert len(asyncio.run(main())) == 5
    assert seen == {("model", 1)}


def test_inputs_are_preprocessed_while_the_model_runs() -> None:
    async def main() -> None:
        runner = FakeRunner()
        thread, call = await with_a_call_under_way(runner)
        assert [*await thread.preprocess([], nothing)] == PREPROCESSING
        assert not call.done()
        runner.may_end.set()
        assert await call == [("model", 1)]
        thread.close()

    asyncio.run(main())


def test_both_threads_keep_their_torch_thread_counts_whatever_other_threads_set() -> None:
    async def main() -> None:
        runner = FakeRunner()
        runner.may_end.set()
        thread = InferenceThread(opening(runner), threads=3)
        await thread.start()
        for count in (4, 2):
            torch.set_num_threads(count)
            assert await thread.run([], nothing) == [("model", 3)]
            assert [*await thread.preprocess([], nothing)] == PREPROCESSING
        assert thread.info.threads == 3
        thread.close()

    before = torch.get_num_threads()
    asyncio.run(main())
    torch.set_num_threads(before)


def test_heartbeats_arrive_in_the_event_loop() -> None:
    async def main() -> None:
        runner, beats = FakeRunner(), asyncio.Queue[str]()
        runner.may_end.set()
        thread = InferenceThread(opening(runner), threads=1)
        await thread.start()

        def heartbeat() -> None:
            assert asyncio.get_running_loop()
            beats.put_nowait(threading.current_thread().name)

        await thread.preprocess([], heartbeat)
        await thread.run([], heartbeat)
        async with asyncio.timeout(TIMEOUT_S):
            assert [await beats.get() for _ in range(2)] == [threading.main_thread().name] * 2
        thread.close()

    asyncio.run(main())


def test_a_heartbeat_after_the_event_loop_has_ended_does_not_fail_the_call() -> None:
    runner = FakeRunner()
    thread = InferenceThread(opening(runner), threads=1)

    async def main() -> None:
        await thread.start()
        asyncio.create_task(thread.run([], nothing))  # noqa: RUF006 - it is left behind on purpose
        assert await asyncio.to_thread(runner.is_running.wait, TIMEOUT_S)

    asyncio.run(main())
    runner.may_end.set()
    assert thread.close() is True
    assert runner.has_ended.is_set()


def test_an_error_of_a_call_is_raised_and_the_next_call_runs() -> None:
    async def main() -> None:
        worker = WorkerThread("model", 1)
        worker.start()
        with pytest.raises(ZeroDivisionError):
            await worker.call(lambda: 1 / 0)
        assert await worker.call(lambda: 1 + 1) == 2
        assert worker.close() is True

    asyncio.run(main())


def test_a_call_that_is_cancelled_before_its_turn_does_not_run() -> None:
    async def main() -> None:
        runner, calls = FakeRunner(), []
        worker = WorkerThread("model", 1)
        worker.start()
        under_way = asyncio.create_task(worker.call(runner.run, [], nothing))
        assert await asyncio.to_thread(runner.is_running.wait, TIMEOUT_S)
        cancelled = asyncio.create_task(worker.call(lambda: calls.append("cancelled")))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        runner.may_end.set()
        await under_way
        await worker.call(lambda: calls.append("next"))
        assert calls == ["next"]
        worker.close()

    asyncio.run(main())


def test_a_start_that_fails_raises_its_configuration_error_and_the_threads_end() -> None:
    def fail() -> PipelineRunner:
        raise ConfigurationError("check PIPELINE_MODEL")

    async def main() -> None:
        thread = InferenceThread(fail, threads=1)
        with pytest.raises(ConfigurationError, match=r"^check PIPELINE_MODEL$"):
            await thread.start()
        assert thread.close() is True
        assert running_threads() == set()

    asyncio.run(main())


def test_a_model_that_fails_at_the_start_is_a_configuration_error(tmp_path: Path) -> None:
    async def main() -> None:
        load = partial(load_pipeline, tmp_path)
        thread = InferenceThread(partial(open_runner, load, PREPROCESSORS, Limits(), None, accelerate=False), threads=1)
        with pytest.raises(ConfigurationError, match=f"^cannot load '{tmp_path}': "):
            await thread.start()
        assert thread.close() is True

    asyncio.run(main())


@pytest.mark.parametrize("starts", [False, True])
def test_closing_reports_that_both_threads_have_ended(starts: bool) -> None:
    async def main() -> None:
        thread = InferenceThread(opening(FakeRunner()), threads=1)
        if starts:
            await thread.start()
        assert thread.close() is True
        assert running_threads() == set()

    asyncio.run(main())


def test_closing_reports_a_call_that_does_not_end_and_the_thread_ends_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline_webserver.inference.inference_thread.JOIN_TIMEOUT_S", 0.01)

    async def main() -> None:
        runner = FakeRunner()
        thread, call = await with_a_call_under_way(runner)
        assert thread.close() is False
        assert running_threads() == {"model"}
        (model_thread,) = (running for running in threading.enumerate() if running.name == "model")
        assert model_thread.daemon  # it does not keep the process from ending
        runner.may_end.set()
        await call
        model_thread.join(TIMEOUT_S)
        assert running_threads() == set()

    asyncio.run(main())
