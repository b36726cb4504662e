"""The threads that everything of the pipeline runs in: the awaitable face of `PipelineRunner`.

One thread runs the model; another preprocesses what arrives meanwhile. It must never know requests, queues of requests
or HTTP, nor what a pipeline computes.
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
from typing import ParamSpec, TypeVar

import torch

from pipeline_webserver.errors import PipelineServerError
from pipeline_webserver.inference.generation.generation_runner import GenerationRunner, generation_runner
from pipeline_webserver.inference.generation.generations import GeneratedSequence, Generation
from pipeline_webserver.inference.model_inputs import Heartbeat, PreparedInput, RawInput
from pipeline_webserver.inference.pipeline_runner import PipelineRunner
from pipeline_webserver.model_info import ModelInfo

Params = ParamSpec("Params")
Output = TypeVar("Output")

JOIN_TIMEOUT_S = 1.0
# How often freed memory is returned: passes of ever different sizes leave holes, which otherwise grow for minutes.
TRIM_INTERVAL_S = 10.0
# How long a thread that computes in Python may keep the interpreter's lock while another waits for it. The model gives
# it back in each operation, and Python's default of 5 ms to get it again is more than most operations take: beside one
# busy Python thread, a batch of 16 on a two-layer BERT took 866 ms instead of 10, with this 23 ms (2 cores, AMD EPYC).
SWITCH_INTERVAL_S = 0.0005


def settle() -> None:
    """Exclude what the start has made from garbage collection: it lives as long as the process."""
    gc.collect()
    gc.freeze()
    trim()


def trim() -> None:
    """Return freed memory to the system; glibc keeps much of it. This takes a few milliseconds."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


class WorkerThread:
    """A thread that runs calls one after the other, with `threads` threads of torch's own in each.

    Not an executor of the standard library: the interpreter waits for those at exit, and a pass that never returns
    would keep the process from ending.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._threads = threads
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._has_threads = threading.Event()

    def start(self) -> None:
        """Return when torch's threads are set: the last setting is the default of threads without one."""
        self._thread.start()
        self._has_threads.wait()

    async def call(self, function: Callable[Params, Output], *args: Params.args, **kwargs: Params.kwargs) -> Output:
        """What the function returns or raises, called in the thread."""
        future: Future[Output] = Future()

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

    def close(self) -> bool:
        """End the thread after the call under way; returns whether that was within `JOIN_TIMEOUT_S`."""
        self._calls.put(None)
        if self._thread.ident is not None:
            self._thread.join(JOIN_TIMEOUT_S)
        return not self._thread.is_alive()

    def _work(self) -> None:
        torch.set_num_threads(self._threads)
        torch.get_num_threads()  # makes it this thread's own, whatever other threads set later
        self._has_threads.set()
        trimmed_at, has_worked = time.monotonic(), False
        while True:
            try:
                call = self._calls.get(timeout=TRIM_INTERVAL_S if has_worked else None)
            except queue.Empty:
                trim()
                has_worked = False
                continue
            if call is None:
                return
            call()
            del call  # it holds the batch and its results, which may be large, until the next one
            has_worked = True
            if time.monotonic() - trimmed_at > TRIM_INTERVAL_S:
                trim()
                trimmed_at = time.monotonic()


class InferenceThread:
    """The model's thread and the preprocessing thread of one pipeline, which `open_runner` opens in the former.

    `max_cache_tokens`: the room for keys and values of a model that generates.
    """

    def __init__(
        self, open_runner: Callable[[], PipelineRunner], threads: int, max_cache_tokens: int | None = None
    ) -> None:
        self._open_runner = open_runner
        self._threads = threads
        self._max_cache_tokens = max_cache_tokens
        self._model_thread = WorkerThread("model", threads)
        # One thread of torch's: two pools of OpenMP threads make each other wait, 24 to 32 ms a pass.
        self._preprocessing_thread = WorkerThread("preprocessing", 1)
        self._runner: PipelineRunner | None = None
        self._steps: StepThread | None = None
        self._info: ModelInfo | None = None

    async def start(self) -> None:
        """Load and warm up. Raises `ConfigurationError`."""
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._preprocessing_thread.start()
        self._model_thread.start()
        self._runner = await self._model_thread.call(self._open)
        self._info = self._runner.describe(self._threads)

    def _open(self) -> PipelineRunner:
        runner = self._open_runner()
        if generation := generation_runner(runner, self._max_cache_tokens):
            self._steps = StepThread(generation, self._model_thread, self._preprocessing_thread)
        settle()
        return runner

    @property
    def runner(self) -> PipelineRunner:
        """The pipeline, once it is loaded."""
        assert self._runner is not None, "start() comes first"
        return self._runner

    @property
    def info(self) -> ModelInfo:
        """What is known of the model, once it is loaded."""
        assert self._info is not None, "start() comes first"
        return self._info

    @property
    def max_batch_tokens(self) -> int:
        return self.runner.forward.max_tokens

    @property
    def fixed_cost_tokens(self) -> float:
        return self.runner.forward.fixed_cost_tokens

    @property
    def steps(self) -> "StepThread | None":
        """The steps of a model that generates step by step."""
        return self._steps

    async def preprocess(
        self, inputs: Sequence[RawInput], heartbeat: Heartbeat
    ) -> Sequence[PreparedInput | PipelineServerError]:
        return await self._preprocessing_thread.call(self.runner.preprocess, inputs, in_this_loop(heartbeat))

    async def run(self, batch: Sequence[PreparedInput], heartbeat: Heartbeat) -> Sequence[object]:
        return await self._model_thread.call(self.runner.run, batch, in_this_loop(heartbeat))

    def close(self) -> bool:
        """End both threads after the calls under way, if those end soon; returns whether they have ended."""
        return all([self._model_thread.close(), self._preprocessing_thread.close()])


class StepThread:
    """The awaitable face of `GenerationRunner`, in the same threads."""

    def __init__(self, runner: GenerationRunner, model: WorkerThread, preprocessing: WorkerThread) -> None:
        self._runner = runner
        self._model_thread = model
        self._preprocessing_thread = preprocessing

    @property
    def fixed_cost_tokens(self) -> float:
        return self._runner.fixed_cost_tokens

    @property
    def max_cache_tokens(self) -> int:
        return self._runner.max_cache_tokens

    async def preprocess(
        self, inputs: Sequence[RawInput], heartbeat: Heartbeat
    ) -> Sequence[Generation | PipelineServerError]:
        return await self._preprocessing_thread.call(self._runner.preprocess, inputs, in_this_loop(heartbeat))

    async def step(
        self, work: Sequence[tuple[GeneratedSequence, int]], released: Sequence[Generation], heartbeat: Heartbeat
    ) -> None:
        await self._model_thread.call(self._runner.step, work, released, in_this_loop(heartbeat))

    async def run(self, batch: Sequence[Generation], heartbeat: Heartbeat) -> Sequence[object]:
        return await self._model_thread.call(self._runner.run, batch, in_this_loop(heartbeat))


def in_this_loop(heartbeat: Heartbeat) -> Heartbeat:
    """The heartbeat, for another thread to call: it arrives in the running event loop."""
    loop = asyncio.get_running_loop()

    def call() -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(heartbeat)

    return call
