"""Everything of the pipeline runs in one thread, which ends with the server."""

import asyncio
import gc
import threading
from collections.abc import Callable
from pathlib import Path

import torch

from pipeline_webserver.api.tasks import TASKS
from pipeline_webserver.inference.inference_thread import PipelineThread
from pipeline_webserver.inference.loading import load
from tests.support.pipelines import hooked


def test_everything_runs_in_the_one_named_thread_with_its_own_thread_count(model_of: Callable[[str], Path]) -> None:
    seen: set[tuple[str, int]] = set()

    def look(ids: torch.Tensor) -> None:
        seen.add((threading.current_thread().name, torch.get_num_threads()))

    async def main() -> object:
        thread = PipelineThread(
            lambda: load(str(model_of("fill-mask")), None, None, "cpu", None, list(TASKS)), threads=1
        )
        await thread.start()
        with hooked(thread.loaded, look):
            prepared = await thread.prepare([("a [MASK]", {})])
            (result,) = await thread.run(prepared)  # type: ignore[arg-type]
        thread.close()
        assert "pipeline" not in {running.name for running in threading.enumerate()}
        assert gc.get_freeze_count() > 100_000  # what the start has made, collections leave alone
        assert thread.task == "fill-mask"
        assert thread.max_batch_tokens == thread.loaded.passes.max_tokens
        described = thread.describe()
        assert {key: described[key] for key in ("task", "device", "dtype", "threads", "max_tokens")} == {
            "task": "fill-mask",
            "device": "cpu",
            "dtype": "float32",
            "threads": 1,
            "max_tokens": 128,
        }
        assert "/" not in str(described["model"])  # a folder is named, its path is nobody's business
        return result

    assert len(asyncio.run(main())) == 5  # type: ignore[arg-type]
    assert seen == {("pipeline", 1)}
