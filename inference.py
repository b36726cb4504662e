"""The one pipeline and its one thread: warm up, prepare inputs, run a batch stage by stage, isolate failures.

A batch goes through the stages that `transformers` documents for pipelines (`_sanitize_parameters`, `preprocess`,
`forward`, `postprocess`), so that each input keeps its own parameters and its own errors, and every result equals
`pipe(input, **parameters)`. It must never know requests, queues or HTTP.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
import transformers
from transformers.pipelines.base import ChunkPipeline, Pipeline, pad_collate_fn
from transformers.pipelines.pt_utils import PipelineIterator

import loading
from errors import ConfigurationError, InferenceFailed, PipelineServerError, Rejected, TooLarge, Unavailable

logger = logging.getLogger(__name__)
Params = ParamSpec("Params")
Result = TypeVar("Result")

# How each pipeline is told to cut long texts. The others cut without being told.
TRUNCATION: dict[str, dict[str, object]] = {
    "fill-mask": {"tokenizer_kwargs": {"truncation": True}},
    "text-classification": {"truncation": True},
    "feature-extraction": {"truncation": True},
}
MOST_AUTO_BATCH_TOKENS = 16_384


# Decisions


def most_tokens(pipe: Pipeline) -> int | None:
    """The longest input the model takes, in tokens; None where there is no such limit.

    A table of positions has the last word: past its end a forward pass fails. Models of the RoBERTa family leave its
    first rows unused, up to the padding index. Without a table it is what the tokenizer says.
    """
    tables = [
        module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
        for name, module in pipe.model.named_modules()
        if isinstance(module, torch.nn.Embedding) and name.endswith("position_embeddings")
    ]
    if tables:
        return min(tables)
    said: int = pipe.tokenizer.model_max_length
    return said if said < 10**9 else None


def plan_passes(lengths: Sequence[int], max_tokens: int, fixed_cost_tokens: float) -> list[list[int]]:
    """Which rows share a forward pass, as indices into `lengths` (tokens a row).

    A pass costs `fixed_cost_tokens` plus its padded tokens. Taken by length, a row joins a pass only while the padding
    that it causes costs less than a pass of its own, and the padded pass has at most `max_tokens`.
    """
    passes: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if passes:
            last = passes[-1]
            padding = (lengths[row] - lengths[last[-1]]) * len(last)
            if padding <= fixed_cost_tokens and lengths[row] * (len(last) + 1) <= max_tokens:
                last.append(row)
                continue
        passes.append([row])
    return passes


def enough_tokens(fixed_cost_tokens: float, longest: int) -> int:
    """The smallest pass that reaches 95 % of the best throughput, when a pass costs a fixed part and one a token."""
    return max(longest, min(MOST_AUTO_BATCH_TOKENS, round(19 * fixed_cost_tokens)))


def cut_padding(outputs: Any, inputs: Mapping[str, Any], length: int, padded: int, *, left: bool) -> Any:
    """One row's model outputs as they would be had it run alone.

    Cut along the second dimension: what came in as `[1, tokens]`, and what has the shape `[1, tokens, ...]`.
    `[1, labels]` stays whole, even where there are as many labels as tokens.
    """
    if length == padded:
        return outputs
    for name, value in outputs.items():
        is_sequence = isinstance(value, torch.Tensor) and value.ndim >= 2 and value.shape[1] == padded
        if is_sequence and (value.ndim >= 3 or name in inputs):
            outputs[name] = value[:, -length:] if left else value[:, :length]
    return outputs


def stack(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows of equal length as one batch, for tokenizers that have no padding token."""
    values = {name: [row[name] for row in rows] for name in rows[0]}
    return {name: torch.cat(all_) if isinstance(all_[0], torch.Tensor) else all_ for name, all_ in values.items()}


# Running


@dataclass(slots=True)
class Row:
    """One model input of one row, `[1, tokens, ...]`; a chunked pipeline makes several of one text."""

    inputs: Mapping[str, Any]
    forward_parameters: dict[str, Any]
    length: int

    @property
    def kind(self) -> str:
        """Rows of one kind can share a forward pass."""
        return repr((sorted(self.inputs), sorted(self.forward_parameters.items())))


@dataclass(slots=True)
class PreparedInput:
    """An input that passed every check before computing, and how to finish its outputs."""

    rows: list[Row]
    parameters: Mapping[str, object]
    postprocess_parameters: dict[str, Any]

    @property
    def tokens(self) -> int:
        return sum(row.length for row in self.rows)


class LoadedPipeline:
    """A pipeline taken apart into its stages. Plain blocking calls, for one thread at a time."""

    def __init__(self, pipe: Pipeline, *, truncate: bool = False, max_batch_tokens: int | None = None) -> None:
        self.pipe = pipe
        self.task: str = pipe.task
        self.truncate = truncate
        self.max_tokens = most_tokens(pipe)
        if truncate and self.max_tokens is not None:
            pipe.tokenizer.model_max_length = min(pipe.tokenizer.model_max_length, self.max_tokens)
        self.fixed_cost_tokens = 0.0
        self.can_pad = False
        self.max_batch_tokens = max_batch_tokens or MOST_AUTO_BATCH_TOKENS
        self._auto = max_batch_tokens is None
        self._chunked = isinstance(pipe, ChunkPipeline)
        self._left = pipe.tokenizer.padding_side == "left"
        self._collate = pad_collate_fn(pipe.tokenizer, None) if pipe.tokenizer.pad_token_id is not None else stack

    # Start-up

    def sample(self, words: int) -> PreparedInput:
        """An input of about `words` tokens that the pipeline takes."""
        parameters: dict[str, object] = {}
        text = " ".join(["test"] * words)
        if self.task == "fill-mask":
            text = f"{text} {self.pipe.tokenizer.mask_token}"
        if self.task == "zero-shot-classification":
            parameters["candidate_labels"] = ["test"]
        prepared = self.prepare_one(text, parameters)
        if isinstance(prepared, TooLarge) and words > 1:
            return self.sample(words // 2)
        if isinstance(prepared, PipelineServerError):
            raise ConfigurationError(f"the model refuses a plain text: {prepared}")
        return prepared

    def warm_up(self) -> None:
        """Measure what a pass costs, a fixed time and a time for each token, and check that padding changes nothing.

        Raises `ConfigurationError`.
        """
        try:
            short, long = self.sample(8), self.sample(96)
            (few, fast_s), (many, slow_s) = self._time(short), self._time(long)
            self.can_pad = self._collate is not stack and self._padding_is_exact([*short.rows, *long.rows])
        except PipelineServerError:
            raise
        except Exception as error:
            raise ConfigurationError(f"the model fails on a plain text: {error!s}") from error
        per_token_s = max((slow_s - fast_s) / max(many - few, 1), 1e-9)
        self.fixed_cost_tokens = max(0.0, fast_s / per_token_s - few)
        if self._auto:
            self.max_batch_tokens = enough_tokens(self.fixed_cost_tokens, self.max_tokens or 512)

    def _padding_is_exact(self, rows: Sequence[Row]) -> bool:
        """Whether rows that share a pass come out as they do alone: some models look at the padding."""
        tolerance = 1e-4 if self.pipe.model.dtype == torch.float32 else 5e-2
        worst = 0.0
        for row, shared in zip(rows, self._pass(rows), strict=True):
            (alone,) = self._pass([row])
            for name, value in alone.items():
                if isinstance(value, torch.Tensor) and value.is_floating_point():
                    scale = max(1.0, value.abs().max().item())
                    worst = max(worst, (value - shared[name]).abs().max().item() / scale)
        if worst > tolerance:
            logger.warning("Padding changes the answers by %.1e: only inputs of equal length share a pass.", worst)
        return worst <= tolerance

    def _time(self, prepared: PreparedInput) -> tuple[int, float]:
        """Tokens, and the seconds of the fastest of a few passes; the first ones also warm up."""
        times = []
        for _ in range(5):
            start = time.perf_counter()
            self._pass(prepared.rows)
            times.append(time.perf_counter() - start)
        return prepared.tokens, min(times)

    # Preparing

    def prepare(
        self, work: Sequence[tuple[object, Mapping[str, object]]]
    ) -> Sequence[PreparedInput | PipelineServerError]:
        """Check and tokenise each input by itself: ready for the model, or its own `Rejected` or `TooLarge`."""
        return [self.prepare_one(text, parameters) for text, parameters in work]

    def prepare_one(self, text: object, parameters: Mapping[str, object]) -> PreparedInput | PipelineServerError:
        pipe = self.pipe
        try:
            given = {**TRUNCATION.get(self.task, {}), **parameters} if self.truncate else parameters
            preprocess, forward, postprocess = pipe._sanitize_parameters(**given)
            made = pipe.preprocess(text, **{**pipe._preprocess_params, **preprocess})
            inputs = list(made) if self._chunked else [made]
        except Exception as error:
            return Rejected(str(error).strip() or type(error).__name__)
        forward = {**pipe._forward_params, **forward}
        rows = [Row(row, forward, int(row["input_ids"].shape[1])) for row in inputs]
        longest = max(row.length for row in rows)
        if self.max_tokens is not None and longest > self.max_tokens:
            return TooLarge(f"The input has {longest} tokens; the model takes at most {self.max_tokens}.")
        return PreparedInput(rows, parameters, {**pipe._postprocess_params, **postprocess})

    # Running

    def run(self, batch: Sequence[PreparedInput]) -> Sequence[object]:
        """One output or error for each. Raises `Unavailable` when the model works for no input at all."""
        rows = [row for prepared in batch for row in prepared.rows]
        outputs = self._forward_all(rows)
        if all(isinstance(output, Exception) for output in outputs):
            self._check_alive()
        taken = iter(outputs)
        return [self._finish(prepared, [next(taken) for _ in prepared.rows]) for prepared in batch]

    def _forward_all(self, rows: Sequence[Row]) -> list[Any]:
        """The model's outputs, or the exception, of each row; rows of one kind share passes."""
        outputs: list[Any] = [None] * len(rows)
        for kind in dict.fromkeys(row.kind for row in rows):
            alike = [index for index, row in enumerate(rows) if row.kind == kind]
            lengths = [rows[index].length for index in alike]
            worth = self.fixed_cost_tokens if self.can_pad else 0.0
            for planned in plan_passes(lengths, self.max_batch_tokens, worth):
                members = [alike[index] for index in planned]
                results = self._halving([rows[index] for index in members])
                for index, result in zip(members, results, strict=True):
                    outputs[index] = result
        return outputs

    def _halving(self, rows: Sequence[Row]) -> list[Any]:
        """A pass; if it fails, its halves by themselves, so that only rows that fail alone fail."""
        try:
            return self._pass(rows)
        except Exception as error:
            if len(rows) == 1:
                return [error]
            logger.warning("A pass of %d failed (%s); trying its halves.", len(rows), str(error))
        middle = len(rows) // 2
        return self._halving(rows[:middle]) + self._halving(rows[middle:])

    def _pass(self, rows: Sequence[Row]) -> list[Any]:
        """One forward pass; each row's outputs as they would be had it run alone."""
        forward = rows[0].forward_parameters
        if len(rows) == 1:
            return [self.pipe.forward(rows[0].inputs, **forward)]
        batch = self._collate([row.inputs for row in rows])
        padded = max(row.length for row in rows)
        separate = PipelineIterator([batch], self.pipe.forward, forward, loader_batch_size=len(rows))
        return [
            cut_padding(outputs, row.inputs, row.length, padded, left=self._left)
            for row, outputs in zip(rows, separate, strict=True)
        ]

    def _finish(self, prepared: PreparedInput, outputs: list[Any]) -> object:
        for output in outputs:
            if isinstance(output, Exception):
                failure = InferenceFailed("The model failed on this input.")
                failure.__cause__ = output
                return failure
        try:
            given = outputs if self._chunked else outputs[0]
            result = self.pipe.postprocess(given, **prepared.postprocess_parameters)
        except Exception as error:
            if prepared.parameters:  # without any, this stage does not depend on the client
                return Rejected(f"The pipeline refuses the parameters {', '.join(prepared.parameters)}: {error!s}")
            failure = InferenceFailed("The model's output for this input could not be read.")
            failure.__cause__ = error
            return failure
        # This one pipeline wraps its result, and only when it was not asked for a number of labels.
        return [result] if self.task == "text-classification" and "top_k" not in prepared.parameters else result

    def _check_alive(self) -> None:
        """Every input of a batch failed. Raises `Unavailable` if a plain text fails too: then it is not the inputs."""
        try:
            self._pass(self.sample(1).rows)
        except Exception as error:
            raise Unavailable("The model is broken: it fails on every input.") from error


def load_pipeline(
    model: str,
    *,
    task: str | None = None,
    revision: str | None = None,
    device: str = "auto",
    dtype: str | None = None,
    served: Iterable[str],
    truncate: bool = False,
    max_batch_tokens: int | None = None,
) -> LoadedPipeline:
    """Load a pipeline of one of the `served` tasks, not warmed up yet. Raises `ConfigurationError`."""
    pipe = loading.load(model, task, revision, device, dtype, served)
    return LoadedPipeline(pipe, truncate=truncate, max_batch_tokens=max_batch_tokens)


# The thread


class PipelineThread:
    """The one thread that everything of the pipeline runs in; the awaitable face of `LoadedPipeline`."""

    def __init__(self, load_pipeline: Callable[[], LoadedPipeline], threads: int) -> None:
        self._load_pipeline = load_pipeline
        self._threads = threads
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pipeline")
        self._loaded: LoadedPipeline | None = None

    async def start(self) -> None:
        """Load and warm up. Raises `ConfigurationError`."""
        self._loaded = await self._call(self._start)

    def _start(self) -> LoadedPipeline:
        torch.set_num_threads(self._threads)  # counts for the thread that calls it
        loaded = self._load_pipeline()
        loaded.warm_up()
        return loaded

    @property
    def task(self) -> str:
        return self.loaded.task

    @property
    def max_batch_tokens(self) -> int:
        return self.loaded.max_batch_tokens

    @property
    def loaded(self) -> LoadedPipeline:
        assert self._loaded is not None, "start() comes first"
        return self._loaded

    async def prepare(
        self, work: Sequence[tuple[object, Mapping[str, object]]]
    ) -> Sequence[PreparedInput | PipelineServerError]:
        return await self._call(self.loaded.prepare, work)

    async def run(self, batch: Sequence[PreparedInput]) -> Sequence[object]:
        return await self._call(self.loaded.run, batch)

    def describe(self) -> dict[str, object]:
        """What `/info` says of the model."""
        loaded = self.loaded
        pipe = loaded.pipe
        path = Path(pipe.model.name_or_path)
        return {
            "model": path.name if path.is_dir() else pipe.model.name_or_path,
            "task": loaded.task,
            "device": str(pipe.device),
            "dtype": str(pipe.model.dtype).removeprefix("torch."),
            "threads": self._threads,
            "max_tokens": loaded.max_tokens,
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        }

    def close(self) -> None:
        """Take no more work; a call that is under way ends by itself."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _call(self, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs) -> Result:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: function(*args, **kwargs))
