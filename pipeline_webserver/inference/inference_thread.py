"""The one thread that everything of the pipeline runs in: the awaitable face of `LoadedPipeline`.

It must never know requests, queues of requests or HTTP, nor what a pipeline computes.
"""

import asyncio
import ctypes
import gc
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch
import transformers
from transformers.pipelines.base import Pipeline

from pipeline_webserver.errors import PipelineServerError
from pipeline_webserver.inference.pipeline_runner import LoadedPipeline
from pipeline_webserver.inference.preprocessing.base import Limits, PreparedInput, Work

Params = ParamSpec("Params")
Result = TypeVar("Result")

CLOSING_S = 1.0
# How often freed memory goes back: passes of ever other sizes leave holes, which otherwise grow for minutes.
TRIM_EVERY_S = 10.0


def settle() -> None:
    """What the start has made, stays: garbage collection need not go through it again."""
    gc.collect()
    gc.freeze()
    trim()


def trim() -> None:
    """Give freed memory back to the system; glibc keeps much. It takes a few milliseconds."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


class PipelineThread:
    """The one thread that everything of the pipeline runs in; the awaitable face of `LoadedPipeline`.

    Not an executor of the standard library: the interpreter waits for those at its end, and a pass that never returns
    would keep the process from ending.
    """

    def __init__(
        self,
        load: Callable[[], Pipeline],
        *,
        threads: int,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        max_batch_tokens: int | None = None,
        speed_up: bool = True,
    ) -> None:
        self._load = load
        self._speed_up = speed_up
        self._threads = threads
        self._limits = limits
        self._max_batch_tokens = max_batch_tokens
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="pipeline", daemon=True)
        self._loaded: LoadedPipeline | None = None
        self.on_progress: Callable[[], None] = lambda: None  # called in the event loop, between the passes of a batch

    async def start(self) -> None:
        """Load and warm up. Raises `ConfigurationError`."""
        self._thread.start()
        self._loaded = await self._call(self._open)
        tell_progress = partial(self._tell_progress, asyncio.get_running_loop())
        self._loaded.passes.on_progress = self._loaded.prepare.on_progress = tell_progress

    def _open(self) -> LoadedPipeline:
        torch.set_num_threads(self._threads)  # counts for the thread that calls it
        loaded = LoadedPipeline(
            self._load(), limits=self._limits, max_batch_tokens=self._max_batch_tokens, speed_up=self._speed_up
        )
        loaded.warm_up()
        settle()
        return loaded

    @property
    def loaded(self) -> LoadedPipeline:
        assert self._loaded is not None, "start() comes first"
        return self._loaded

    @property
    def task(self) -> str:
        return self.loaded.task

    @property
    def max_batch_tokens(self) -> int:
        return self.loaded.passes.max_tokens

    @property
    def fixed_cost_tokens(self) -> float:
        return self.loaded.passes.fixed_cost_tokens

    def _tell_progress(self, loop: asyncio.AbstractEventLoop) -> None:
        """In the pipeline's thread."""
        with suppress(RuntimeError):  # the loop has ended, and nobody listens any more
            loop.call_soon_threadsafe(self.on_progress)

    async def prepare(self, work: Sequence[Work]) -> Sequence[PreparedInput | PipelineServerError]:
        return await self._call(self.loaded.prepare, work)

    async def run(self, batch: Sequence[PreparedInput]) -> Sequence[object]:
        return await self._call(self.loaded.run, batch)

    def describe(self) -> dict[str, object]:
        """What `/info` says of the model."""
        pipe = self.loaded.pipe
        path = Path(pipe.model.name_or_path)
        return {
            "model": path.name if path.is_dir() else pipe.model.name_or_path,
            "task": self.task,
            "device": str(pipe.device),
            "dtype": str(pipe.model.dtype).removeprefix("torch."),
            "threads": self._threads,
            "max_tokens": self.loaded.prepare.max_tokens,
            **self.loaded.prepare.describe(),
            "speed_ups": [asdict(speed_up) for speed_up in self.loaded.speed_ups],
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        }

    def close(self) -> bool:
        """End the thread after the call that is under way, if that ends soon; whether it has ended."""
        self._calls.put(None)
        self._thread.join(CLOSING_S)
        return not self._thread.is_alive()

    def _work(self) -> None:
        trimmed, worked = time.monotonic(), False
        while True:
            try:
                call = self._calls.get(timeout=TRIM_EVERY_S if worked else None)
            except queue.Empty:
                trim()
                worked = False
                continue
            if call is None:
                return
            call()
            del call  # it holds the batch and its results, which may be large, until the next one
            worked = True
            if time.monotonic() - trimmed > TRIM_EVERY_S:
                trim()
                trimmed = time.monotonic()

    async def _call(self, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs) -> Result:
        future: Future[Result] = Future()

        def call() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    result = function(*args, **kwargs)
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)

        self._calls.put(call)
        return await asyncio.wrap_future(future)
