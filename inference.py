"""The one pipeline and its one thread: warm up, prepare inputs, run a batch stage by stage, isolate failures.

A batch goes through the stages that `transformers` documents for pipelines (`_sanitize_parameters`, `preprocess`,
`forward`, `postprocess`), so that each input keeps its own parameters and its own errors, and every result equals
`pipe(input, **parameters)`. It must never know requests, queues or HTTP.
"""

import asyncio
import ctypes
import gc
import logging
import queue
import random
import sys
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
import transformers
from transformers.pipelines.base import ChunkPipeline, Pipeline, PipelineException
from transformers.pipelines.fill_mask import FillMaskPipeline

from acceleration import Outcome, Probe, accelerate, speed_ups_for, tolerance_of
from errors import (
    ConfigurationError,
    InferenceFailed,
    PipelineServerError,
    Rejected,
    TooLarge,
    Unavailable,
    first_line,
)
from fillmask import FillMask
from packing import NoPadding
from passes import Passes, Row, numbers
from reading import MaskedHead, Reads, first_token

logger = logging.getLogger(__name__)

Params = ParamSpec("Params")
Result = TypeVar("Result")

# How each pipeline is told to cut long texts. The others cut without being told.
TRUNCATION: dict[str, dict[str, object]] = {
    "fill-mask": {"tokenizer_kwargs": {"truncation": True}},
    "text-classification": {"truncation": True},
    "feature-extraction": {"truncation": True},
}
# What one input may ask for, so that a few bytes cannot cost minutes: tokens over all its chunks, and guesses over all
# its masks (each is decoded with the whole text).
MOST_TOKENS_OF_ONE_INPUT = 16_384
MOST_GUESSES_OF_ONE_INPUT = 4_096
# Words of the texts that speed-ups are tried on, short beside long, and of the one that is timed alone. A model with a
# sliding window is tried on a text beyond it, too.
PROBED_WORDS = (3, 100, 8, 24, 14)
MOST_PROBED_WORDS = 1_000
MEASURED_WORDS = 24
WORDS = (
    "the",
    "a",
    "of",
    "and",
    "in",
    "to",
    "is",
    "was",
    "he",
    "for",
    "it",
    "with",
    "as",
    "his",
    "on",
    "be",
    "at",
    "by",
)
CLOSING_S = 1.0


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


def guesses_at_a_mask(parameters: Mapping[str, Any]) -> int:
    """As the fill-mask pipeline counts: five unless told, and no more than there are targets."""
    guesses: int = parameters.get("top_k", 5)
    targets = parameters.get("targets")
    return guesses if targets is None else min(guesses, len(targets))


def failed(message: str, cause: BaseException) -> InferenceFailed:
    failure = InferenceFailed(message)
    failure.__cause__ = cause
    return failure


# The stages


@dataclass(slots=True)
class PreparedInput:
    """An input that passed every check before computing, and how to finish its outputs."""

    rows: list[Row]
    parameters: Mapping[str, object]
    postprocess_parameters: dict[str, Any]
    identity: tuple[object, str]  # equal for inputs that have equal answers

    @property
    def tokens(self) -> int:
        return sum(row.length for row in self.rows)


class LoadedPipeline:
    """A pipeline taken apart into its stages. Plain blocking calls, for one thread at a time."""

    def __init__(
        self, pipe: Pipeline, *, truncate: bool = False, max_batch_tokens: int | None = None, speed_up: bool = True
    ) -> None:
        self.pipe = pipe
        self.speed_ups: list[Outcome] = []
        self._speed_up = speed_up
        self.task: str = pipe.task
        self.truncate = truncate
        self.max_tokens = most_tokens(pipe)
        if truncate and self.max_tokens is not None:
            pipe.tokenizer.model_max_length = min(pipe.tokenizer.model_max_length, self.max_tokens)
        self.passes = Passes(pipe, max_batch_tokens)
        self._chunked = isinstance(pipe, ChunkPipeline)
        self._postprocess: Callable[..., Any] = FillMask(pipe) if type(pipe) is FillMaskPipeline else pipe.postprocess

    def sample(self, words: int) -> PreparedInput:
        """An input of about `words` tokens that the pipeline takes; always the same. Raises `ConfigurationError`."""
        parameters: dict[str, object] = {}
        chosen = random.Random(words).choices(WORDS, k=words)  # noqa: S311 - repeatable, not secret
        if self.task == "fill-mask":
            for _ in range(1 + words // 20):
                chosen.insert(words // 2, self.pipe.tokenizer.mask_token)
        text = " ".join(chosen)
        if self.task == "zero-shot-classification":
            parameters["candidate_labels"] = ["test"]
        prepared = self.prepare_one(text, parameters)
        if isinstance(prepared, TooLarge) and words > 1:
            return self.sample(words // 2)
        if isinstance(prepared, PipelineServerError):
            raise ConfigurationError(f"the model refuses a plain text: {prepared}")
        return prepared

    def warm_up(self) -> None:
        """Run a few passes, learn from them, and speed the model up. Raises `ConfigurationError`."""
        passes = self.passes
        try:
            measured = self.sample(MEASURED_WORDS).rows[0]
            probed = [row for words in PROBED_WORDS for row in self.sample(words).rows]
            passes.measure(measured)
            passes.try_padding(probed)
            if self._speed_up:
                if window := getattr(self.pipe.model.config, "sliding_window", None):
                    probed += self.sample(min(2 * window, MOST_PROBED_WORDS)).rows
                self._accelerate(probed, measured)
                passes.measure(measured)
        except ConfigurationError:
            raise
        except Exception as error:
            raise ConfigurationError(f"the model fails on a plain text: {first_line(error)}") from error
        if passes.why_alone is not None:
            logger.warning("Each input has a pass of its own: %s.", passes.why_alone.rstrip("."))
        elif not passes.can_pad and not passes.padding_is_free:
            logger.warning("Only inputs of equal length share a pass: %s.", passes.why_not_padded)

    def _accelerate(self, rows: Sequence[Row], alone: Row) -> None:
        passes = self.passes
        speed_ups = speed_ups_for(self.pipe.model, self.reads(), can_pad=passes.can_collate)

        def in_a_batch(names: Collection[str]) -> list[torch.Tensor]:
            outputs = passes.one(rows) if NoPadding.name in names else passes.run_strictly(rows)
            return [self._read(row, output) for row, output in zip(rows, outputs, strict=True)]

        def by_itself(names: Collection[str]) -> list[torch.Tensor]:
            return [self._read(alone, passes.one([alone])[0])]

        reference = [self._read(row, passes.one([row])[0]) for row in rows]
        probes = [Probe("in a batch", in_a_batch, reference), Probe("alone", by_itself, by_itself([]))]
        self.speed_ups = accelerate(speed_ups, probes, tolerance_of(self.pipe.model.dtype))
        passes.padding_is_free = self._pads_free([speed_up.name for speed_up in self.speed_ups if speed_up.on])

    def reads(self) -> Reads | None:
        """Which tokens the pipeline reads of the model's output, where that is not every one."""
        if self.task == "fill-mask":
            mask: int = self.pipe.tokenizer.mask_token_id
            return lambda input_ids: input_ids == mask
        return first_token if self.task in {"text-classification", "zero-shot-classification"} else None

    def _pads_free(self, speed_ups: Collection[str]) -> bool:
        """Whether padding costs no time: not in the encoder, nor in a head for each word of the vocabulary."""
        return NoPadding.name in speed_ups and (self.task != "fill-mask" or MaskedHead.name in speed_ups)

    def _read(self, row: Row, output: Any) -> torch.Tensor:
        """The numbers of a model's output that the pipeline goes on with."""
        if self.task == "fill-mask":
            scores: torch.Tensor = output["logits"][row.inputs["input_ids"] == self.pipe.tokenizer.mask_token_id]
            return scores
        return numbers(output)

    def prepare(
        self, work: Sequence[tuple[object, Mapping[str, object]]]
    ) -> Sequence[PreparedInput | PipelineServerError]:
        """Check and tokenise each input by itself: ready for the model, or its own error."""
        return [self.prepare_one(text, parameters) for text, parameters in work]

    def prepare_one(self, text: object, parameters: Mapping[str, object]) -> PreparedInput | PipelineServerError:
        try:
            return self._prepare(text, parameters)
        except PipelineServerError as error:
            return error
        except (ValueError, TypeError, LookupError, PipelineException) as error:
            return Rejected(str(error).strip() or type(error).__name__)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic in the tokenizer's Rust is no `Exception`, and costs one input only
            return failed("This input could not be prepared.", error)

    def _prepare(self, text: object, parameters: Mapping[str, object]) -> PreparedInput:
        pipe = self.pipe
        given = {**TRUNCATION.get(self.task, {}), **parameters} if self.truncate else parameters
        self._check_parameters(given)
        preprocess, forward, postprocess = pipe._sanitize_parameters(**given)
        made = pipe.preprocess(text, **{**pipe._preprocess_params, **preprocess})
        rows: list[Row] = []
        for inputs in made if self._chunked else [made]:  # chunks come one by one, so too many stop early
            rows.append(Row(inputs, {**pipe._forward_params, **forward}, int(inputs["input_ids"].shape[1])))
            self._check_size(rows)
        self._check_guesses(rows[0], parameters)
        identity = (text, repr(sorted(parameters.items())))
        return PreparedInput(rows, parameters, {**pipe._postprocess_params, **postprocess}, identity)

    def _check_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Raises `Rejected` for what would fail, or cost too much, only later."""
        if self.task == "fill-mask" and guesses_at_a_mask(parameters) > self.pipe.model.config.vocab_size:
            raise Rejected(f"Parameter 'top_k' is over the {self.pipe.model.config.vocab_size} words the model knows.")
        most_stride = self.pipe.tokenizer.model_max_length // 2
        if parameters.get("stride", 0) > most_stride:  # the nearer to a whole chunk, the more chunks, without end
            raise Rejected(f"Parameter 'stride' is over half of the model's length, {most_stride}.")

    def _check_size(self, rows: Sequence[Row]) -> None:
        """Raises `TooLarge` or `Rejected`."""
        last, total = rows[-1].length, sum(row.length for row in rows)
        if last == 0:
            raise Rejected("The input has no tokens.")
        if self.max_tokens is not None and last > self.max_tokens:
            raise TooLarge(f"The input has {last} tokens; the model takes at most {self.max_tokens}.")
        if len(rows) > 1 and total > MOST_TOKENS_OF_ONE_INPUT:
            raise TooLarge(f"The input makes over {total - last} tokens; the server takes {MOST_TOKENS_OF_ONE_INPUT}.")

    def _check_guesses(self, row: Row, parameters: Mapping[str, Any]) -> None:
        """Raises `TooLarge`."""
        at_a_mask = guesses_at_a_mask(parameters) if self.task == "fill-mask" else 0
        if row.length * at_a_mask <= MOST_GUESSES_OF_ONE_INPUT:  # there are no more masks than tokens
            return
        guesses = at_a_mask * int((row.inputs["input_ids"] == self.pipe.tokenizer.mask_token_id).sum())
        if guesses > MOST_GUESSES_OF_ONE_INPUT:
            raise TooLarge(f"The input asks for {guesses} guesses; the server makes {MOST_GUESSES_OF_ONE_INPUT}.")

    def run(self, batch: Sequence[PreparedInput]) -> Sequence[object]:
        """One output or error for each, equal inputs computed once.

        Raises `Unavailable` when the model works for no input at all.
        """
        different = list({prepared.identity: prepared for prepared in batch}.values())
        outputs = self.passes.run([row for prepared in different for row in prepared.rows])
        if all(isinstance(output, Exception) for output in outputs):
            self._check_alive()
        taken = iter(outputs)
        results = {
            prepared.identity: self._finish(prepared, [next(taken) for _ in prepared.rows]) for prepared in different
        }
        return [results[prepared.identity] for prepared in batch]

    def _finish(self, prepared: PreparedInput, outputs: list[Any]) -> object:
        for output in outputs:
            if isinstance(output, Exception):
                return failed("The model failed on this input.", output)
        try:
            given = outputs if self._chunked else outputs[0]
            result = self._postprocess(given, **prepared.postprocess_parameters)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic in the tokenizer's Rust, here too
            return failed("The model's output for this input could not be read.", error)
        # This one pipeline wraps its result, and only when it was not asked for a number of labels.
        return [result] if self.task == "text-classification" and "top_k" not in prepared.parameters else result

    def _check_alive(self) -> None:
        """Every input of a batch failed. Raises `Unavailable` if a plain text fails too: then it is not the inputs."""
        try:
            self.passes.one(self.sample(1).rows)
        except Exception as error:
            raise Unavailable("The model is broken: it fails on every input.") from error


# The thread


def settle() -> None:
    """What the start has made, stays: garbage collection need not go through it again. What it has freed goes back."""
    gc.collect()
    gc.freeze()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # in glibc; it keeps much
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
        truncate: bool = False,
        max_batch_tokens: int | None = None,
        speed_up: bool = True,
    ) -> None:
        self._load = load
        self._speed_up = speed_up
        self._threads = threads
        self._truncate = truncate
        self._max_batch_tokens = max_batch_tokens
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="pipeline", daemon=True)
        self._loaded: LoadedPipeline | None = None

    async def start(self) -> None:
        """Load and warm up. Raises `ConfigurationError`."""
        self._thread.start()
        self._loaded = await self._call(self._open)

    def _open(self) -> LoadedPipeline:
        torch.set_num_threads(self._threads)  # counts for the thread that calls it
        loaded = LoadedPipeline(
            self._load(), truncate=self._truncate, max_batch_tokens=self._max_batch_tokens, speed_up=self._speed_up
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

    async def prepare(
        self, work: Sequence[tuple[object, Mapping[str, object]]]
    ) -> Sequence[PreparedInput | PipelineServerError]:
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
            "max_tokens": self.loaded.max_tokens,
            "speed_ups": [asdict(speed_up) for speed_up in self.loaded.speed_ups],
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        }

    def close(self) -> bool:
        """End the thread after the call that is under way, if that ends soon; whether it has ended."""
        self._calls.put(None)
        self._thread.join(CLOSING_S)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            del call  # it holds the batch and its results, which may be large, until the next one

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
