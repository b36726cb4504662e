"""The one pipeline: warm-up, preprocessing, batches stage by stage, isolation of failures.

A batch goes through the stages that `transformers` documents for pipelines (`_sanitize_parameters`, `preprocess`,
`forward`, `postprocess`), so that each input keeps its own parameters and its own errors, and every result equals
`pipe(input, **parameters)`. It must never know requests, queues or HTTP.
"""

import copy
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import transformers
from transformers.pipelines.base import Pipeline

from pipeline_webserver.errors import (
    ConfigurationError,
    PipelineServerError,
    TooLarge,
    Unavailable,
    first_line,
)
from pipeline_webserver.inference.acceleration.base import Optimization
from pipeline_webserver.inference.acceleration.selection import TIMING_BUDGET_S, Probe, optimizations_for, optimize
from pipeline_webserver.inference.batch_plan import UNPADDED, BatchStrategy, alone
from pipeline_webserver.inference.calibration import check_repeatability, choose_strategy, measure_cost
from pipeline_webserver.inference.forward import ForwardRunner
from pipeline_webserver.inference.model_checks import check_answers, check_head, check_token_ids, check_trained
from pipeline_webserver.inference.model_inputs import (
    Heartbeat,
    Limits,
    ModelInput,
    PreparedInput,
    no_heartbeat,
)
from pipeline_webserver.inference.numerics import tolerance_of
from pipeline_webserver.inference.postprocessing import Postprocessor
from pipeline_webserver.inference.preprocessing.base import Preprocessor
from pipeline_webserver.inference.preprocessing.registry import preprocessor_class
from pipeline_webserver.model_info import BatchingInfo, ModelInfo, OptimizationReport
from pipeline_webserver.telemetry import metrics

logger = logging.getLogger(__name__)

# Words of the texts that optimizations are tried on, short beside long, and of the one that is timed alone. A model
# with a sliding window is tried on a text beyond it, too.
PROBE_WORDS = (3, 100, 8, 24, 14)
MAX_PROBE_WORDS = 1_000
MEASURED_WORDS = 24
# The longest input is tried at the start unless it has more tokens than this, which take seconds.
MAX_PROVED_TOKENS = 1_024


class PipelineRunner:
    """A pipeline taken apart into its stages. Plain blocking calls.

    `preprocess` may run in one thread while `run` runs in another: each has a tokenizer of its own, since tokenizers
    are not made for two callers at a time.
    """

    def __init__(self, pipe: Pipeline, preprocessor: Preprocessor, *, max_batch_tokens: int | None = None) -> None:
        self.pipe = pipe
        self.task: str = pipe.task
        self.preprocess = preprocessor
        self.reports: list[OptimizationReport] = []
        self.forward = ForwardRunner(
            pipe, max_batch_tokens, by_shape=preprocessor.by_shape, generates=preprocessor.generates
        )
        self._postprocessor = Postprocessor(preprocessor, with_own_tokenizer(pipe))
        self._plain_input: list[ModelInput] = []
        self.in_steps = False  # whether it generates step by step; if not, `steps_reason` may say why
        self.steps_reason: str | None = None

    def warm_up(
        self, *, accelerate: bool, timing_budget_s: float = TIMING_BUDGET_S, allow_untrained: bool = False
    ) -> None:
        """Run a few passes, check that they answer, learn from them, and optimize the model.

        Raises `ConfigurationError`.
        """
        started = time.perf_counter()
        try:
            self._plain_input = self.warmup_input(1).model_inputs
            measured = self.warmup_input(MEASURED_WORDS).model_inputs[0]
            unlike = [self.warmup_input(words).model_inputs for words in PROBE_WORDS]
            probes = [row for rows in unlike for row in rows]
            logger.info("Checking that the model answers, and how inputs share its passes.")
            self.forward.settle(self._plain_input[:1])
            self._check(measured, [rows[0] for rows in unlike], allow_untrained=allow_untrained)
            self._calibrate(measured, probes)
            self._prove_limit(measured)
            if accelerate:
                logger.info("Checked in %.1f s; timing the optimizations.", time.perf_counter() - started)
                self._optimize(measured, probes, timing_budget_s)
        except ConfigurationError:
            raise
        except Exception as error:
            raise ConfigurationError(f"the model fails on a plain input: {first_line(error)}") from error
        self._log_strategy()
        logger.info("Ready to serve after %.1f s of warm-up.", time.perf_counter() - started)

    def _check(self, measured: ModelInput, unlike: Sequence[ModelInput], *, allow_untrained: bool) -> None:
        numbers_read = self.preprocess.numbers_read
        check_token_ids(self.pipe)
        check_trained(self.forward, measured, numbers_read, allow=allow_untrained)
        check_head(self.pipe, allow=allow_untrained)
        check_answers(self.forward, unlike, numbers_read)

    def warmup_input(self, words: int) -> PreparedInput:
        """An input of about `words` tokens that the pipeline takes; always the same. Raises `ConfigurationError`."""
        (prepared,) = self.preprocess([self.preprocess.warmup_input(words)])
        if isinstance(prepared, TooLarge) and words > 1:
            return self.warmup_input(words // 2)
        if isinstance(prepared, PipelineServerError):
            raise ConfigurationError(f"the model rejects a plain input: {prepared}")
        return prepared

    def _prove_limit(self, measured: ModelInput) -> None:
        """Run the longest input: past the end of a table, a GPU ends the process. Raises `ConfigurationError`."""
        limit = self.preprocess.max_tokens
        if limit is None or limit > MAX_PROVED_TOKENS or not self.preprocess.encodes_text:
            return
        try:
            self.forward.forward([repeated(measured, limit)])
        except Exception as error:
            raise ConfigurationError(
                f"the model fails on {limit} tokens, which it should take ({first_line(error)}); "
                "set model_max_length in its tokenizer_config.json to what it takes"
            ) from error

    def _calibrate(self, measured: ModelInput, probes: Sequence[ModelInput]) -> None:
        # A long input behind one of a single word, a short one behind the long one, and the other way around.
        reason = check_repeatability(self.forward, [self._plain_input[0], probes[1], probes[0]])
        if reason is not None:
            measure_cost(self.forward, measured)
            self.forward.strategy = alone(reason)
        elif self.preprocess.strategy is None:
            self.forward.strategy = choose_strategy(self.forward, measured, probes)
        else:
            measure_cost(self.forward, measured)
            self.forward.strategy = self.preprocess.strategy

    def _log_strategy(self) -> None:
        strategy = self.forward.strategy
        if strategy.kind == "alone":
            logger.warning("Each input has a forward pass of its own: %s.", (strategy.reason or "").rstrip("."))
        elif strategy.kind == "same_length":
            logger.warning("Only inputs of equal length share a forward pass: %s.", strategy.reason)

    def _optimize(self, measured: ModelInput, probes: list[ModelInput], timing_budget_s: float) -> None:
        if window := getattr(self.pipe.model.config, "sliding_window", None):
            probes = probes + self.warmup_input(min(2 * window, MAX_PROBE_WORDS)).model_inputs
        candidates = optimizations_for(
            self.pipe.model,
            self.preprocess.positions_read,
            can_pad=self.forward.can_collate,
            encodes_text=self.preprocess.encodes_text,
        )
        tolerance = tolerance_of(self.pipe.model.dtype)
        self.reports = optimize(candidates, self._probes(measured, probes), tolerance, budget_s=timing_budget_s)
        applied = [optimization for optimization in candidates if optimization.is_applied]
        self.forward.strategy = optimized_strategy(
            self.forward.strategy, applied, scores_vocabulary=self.preprocess.scores_vocabulary
        )
        measure_cost(self.forward, measured)

    def _probes(self, measured: ModelInput, probes: Sequence[ModelInput]) -> list[Probe]:
        """What optimizations are tried on: many inputs as the passes would be, and one alone."""

        def run_batch(applied: Sequence[Optimization]) -> list[torch.Tensor]:
            is_unpadded = any("encoder" in optimization.removes_padding for optimization in applied)
            outputs = self.forward.forward(probes) if is_unpadded else self.forward.run(probes, raise_errors=True)
            return [self.preprocess.numbers_read(*pair) for pair in zip(probes, outputs, strict=True)]

        def run_alone(applied: Sequence[Optimization]) -> list[torch.Tensor]:
            return [self.preprocess.numbers_read(measured, self.forward.forward([measured])[0])]

        reference = [self.preprocess.numbers_read(probe, self.forward.forward([probe])[0]) for probe in probes]
        return [Probe("in a batch", run_batch, reference), Probe("alone", run_alone, run_alone([]))]

    def run(self, batch: Sequence[PreparedInput], heartbeat: Heartbeat = no_heartbeat) -> Sequence[object]:
        """One output or error for each input, equal inputs computed once.

        Raises `Unavailable` when the model works for no input at all.
        """
        distinct = list({prepared.dedup_key: prepared for prepared in batch}.values())
        metrics.DEDUPLICATED.inc(len(batch) - len(distinct))
        outputs = self.forward.run([row for prepared in distinct for row in prepared.model_inputs], heartbeat)
        metrics.PADDING_TOKENS.observe(self.forward.padding_tokens)
        if all(isinstance(output, Exception) for output in outputs):
            self.check_alive()
        remaining = iter(outputs)
        results = self._postprocessor.results(
            distinct, [[next(remaining) for _ in prepared.model_inputs] for prepared in distinct]
        )
        by_key = {prepared.dedup_key: result for prepared, result in zip(distinct, results, strict=True)}
        return [by_key[prepared.dedup_key] for prepared in batch]

    def postprocess_one(self, prepared: PreparedInput, outputs: object) -> object:
        """The result of an input from what its forward pass returned, or from the exception that it failed with."""
        return self._postprocessor.results([prepared], [[outputs]])[0]

    def check_alive(self) -> None:
        """Every input of a batch failed. Raises `Unavailable` if a plain one fails too: then it is not the inputs."""
        try:
            self.forward.forward(self._plain_input or self.warmup_input(1).model_inputs)
        except Exception as error:
            raise Unavailable("The model is broken: it fails on every input.") from error

    def describe(self, threads: int) -> ModelInfo:
        """What is known of the model, computed with so many threads."""
        path = Path(self.pipe.model.name_or_path)
        checkpoint = getattr(self.pipe, "checkpoint", None)  # None: constructed, not loaded
        info = ModelInfo(
            model=path.name if path.is_dir() else self.pipe.model.name_or_path,
            name=getattr(checkpoint, "name", path.name),
            task=self.task,
            task_source=getattr(checkpoint, "task_source", None),
            device=str(self.pipe.device),
            dtype=str(self.pipe.model.dtype).removeprefix("torch."),
            threads=threads,
            max_tokens=self.preprocess.max_tokens,
            batching=self._batching(),
            optimizations=tuple(self.reports),
            versions={"torch": torch.__version__, "transformers": transformers.__version__},
        )
        return self.preprocess.describe(info)

    def _batching(self) -> BatchingInfo:
        put_back = tuple(sorted(self.forward.state.changed))
        if self.in_steps:
            return BatchingInfo("continuous", None, put_back)
        reasons = [reason for reason in (self.steps_reason, self.forward.strategy.reason) if reason]
        if len(reasons) == 2 and reasons[1].startswith(reasons[0]):
            reasons = reasons[1:]
        return BatchingInfo(self.forward.strategy.kind, "; ".join(reasons) or None, put_back)


def repeated(model_input: ModelInput, tokens: int) -> ModelInput:
    """The same tokens over and over, so many of them."""
    positions = torch.arange(tokens) % model_input.num_tokens
    tensors = {
        name: value[:, positions] if getattr(value, "shape", ())[:2] == (1, model_input.num_tokens) else value
        for name, value in model_input.tensors.items()
    }
    return replace(model_input, tensors=tensors, num_tokens=tokens)


def optimized_strategy(
    strategy: BatchStrategy, applied: Sequence[Optimization], *, scores_vocabulary: bool
) -> BatchStrategy:
    """How inputs share passes once optimizations are applied: freely, if padding is removed wherever it costs time.

    That is the encoder, and a head with a score for each word of the vocabulary. What has to be computed alone, still
    is.
    """
    removed_from = {place for optimization in applied for place in optimization.removes_padding}
    costly = {"encoder", "head"} if scores_vocabulary else {"encoder"}
    return UNPADDED if removed_from >= costly and strategy.kind != "alone" else strategy


def with_own_tokenizer(pipe: Pipeline) -> Pipeline:
    """The same pipeline and model, with a copy of the tokenizer for another thread."""
    twin = copy.copy(pipe)
    twin.tokenizer = copy.deepcopy(pipe.tokenizer)
    return twin


def open_runner(
    load: Callable[[], Pipeline],
    preprocessors: Mapping[str, tuple[str, str | None]],
    limits: Limits,
    max_batch_tokens: int | None,
    accelerate: bool,
    allow_untrained: bool = False,
) -> PipelineRunner:
    """The loaded pipeline, warmed up.

    `preprocessors` has, for each task, where its preprocessor is (`module.Class` in `preprocessing`) and the extra that
    installs what it needs. Raises `ConfigurationError`.
    """
    pipe = load()
    location, extra = preprocessors[pipe.task]
    runner = PipelineRunner(
        pipe, preprocessor_class(pipe.task, location, extra)(pipe, limits), max_batch_tokens=max_batch_tokens
    )
    runner.warm_up(accelerate=accelerate, allow_untrained=allow_untrained)
    return runner
