"""The one pipeline: warm up, run a batch stage by stage, isolate failures.

A batch goes through the stages that `transformers` documents for pipelines (`_sanitize_parameters`, `preprocess`,
`forward`, `postprocess`), so that each input keeps its own parameters and its own errors, and every result equals
`pipe(input, **parameters)`. It must never know requests, queues or HTTP.
"""

import logging
from collections.abc import Collection, Sequence
from typing import Any

import torch
from transformers.pipelines.base import Pipeline

from pipeline_webserver.errors import (
    ConfigurationError,
    PipelineServerError,
    Rejected,
    TooLarge,
    Unavailable,
    first_line,
)
from pipeline_webserver.inference.acceleration.last_layer import MaskedHead, Reads, first_token
from pipeline_webserver.inference.acceleration.selection import Outcome, Probe, accelerate, speed_ups_for, tolerance_of
from pipeline_webserver.inference.acceleration.unpadding import NoPadding
from pipeline_webserver.inference.forward import Passes, Row, numbers
from pipeline_webserver.inference.preprocessing.base import Limits, PreparedInput, failed
from pipeline_webserver.inference.preprocessing.registry import postprocess_of, preparation_of
from pipeline_webserver.telemetry import metrics

logger = logging.getLogger(__name__)

# Words of the texts that speed-ups are tried on, short beside long, and of the one that is timed alone. A model with a
# sliding window is tried on a text beyond it, too.
PROBED_WORDS = (3, 100, 8, 24, 14)
MOST_PROBED_WORDS = 1_000
MEASURED_WORDS = 24


class LoadedPipeline:
    """A pipeline taken apart into its stages. Plain blocking calls, for one thread at a time."""

    def __init__(
        self,
        pipe: Pipeline,
        *,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        max_batch_tokens: int | None = None,
        speed_up: bool = True,
    ) -> None:
        self.pipe = pipe
        self.speed_ups: list[Outcome] = []
        self._speed_up = speed_up
        self.task: str = pipe.task
        self.prepare = preparation_of(pipe, limits)
        self.passes = Passes(pipe, max_batch_tokens, by_shape=self.prepare.by_shape, why_alone=self.prepare.why_alone)
        self._postprocess = postprocess_of(pipe)

    def sample(self, words: int) -> PreparedInput:
        """An input of about `words` tokens that the pipeline takes; always the same. Raises `ConfigurationError`."""
        (prepared,) = self.prepare([self.prepare.sample(words)])
        if isinstance(prepared, TooLarge) and words > 1:
            return self.sample(words // 2)
        if isinstance(prepared, PipelineServerError):
            raise ConfigurationError(f"the model refuses a plain input: {prepared}")
        return prepared

    def warm_up(self) -> None:
        """Run a few passes, learn from them, and speed the model up. Raises `ConfigurationError`."""
        passes = self.passes
        try:
            measured = self.sample(MEASURED_WORDS).rows[0]
            probed = [row for words in PROBED_WORDS for row in self.sample(words).rows]
            passes.measure(measured)
            passes.try_sharing(probed)
            if self._speed_up:
                if window := getattr(self.pipe.model.config, "sliding_window", None):
                    probed += self.sample(min(2 * window, MOST_PROBED_WORDS)).rows
                self._accelerate(probed, measured)
                passes.measure(measured)
        except ConfigurationError:
            raise
        except Exception as error:
            raise ConfigurationError(f"the model fails on a plain input: {first_line(error)}") from error
        if passes.why_alone is not None:
            logger.warning("Each input has a pass of its own: %s.", passes.why_alone.rstrip("."))
        elif not passes.by_shape and not passes.can_pad and not passes.padding_is_free:
            logger.warning("Only inputs of equal length share a pass: %s.", passes.why_not_padded)

    def _accelerate(self, rows: Sequence[Row], alone: Row) -> None:
        passes = self.passes
        only_products = passes.by_shape or self.prepare.writes
        speed_ups = speed_ups_for(
            self.pipe.model, self.reads(), can_pad=passes.can_collate, only_products=only_products
        )

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

    def run(self, batch: Sequence[PreparedInput]) -> Sequence[object]:
        """One output or error for each, equal inputs computed once.

        Raises `Unavailable` when the model works for no input at all.
        """
        different = list({prepared.identity: prepared for prepared in batch}.values())
        metrics.DEDUPLICATED.inc(len(batch) - len(different))
        outputs = self.passes.run([row for prepared in different for row in prepared.rows])
        metrics.PADDING_TOKENS.observe(self.passes.padding_tokens)
        if all(isinstance(output, Exception) for output in outputs):
            self._check_alive()
        taken = iter(outputs)
        results = {
            prepared.identity: self._finish(prepared, [next(taken) for _ in prepared.rows]) for prepared in different
        }
        return [results[prepared.identity] for prepared in batch]

    def _finish(self, prepared: PreparedInput, outputs: list[Any]) -> object:
        for output in outputs:
            if isinstance(output, ValueError) and self.prepare.writes and prepared.parameters:
                return Rejected(str(output))  # how to write is only looked at there
            if isinstance(output, Exception):
                return failed("The model failed on this input.", output)
        try:
            given = outputs if self.prepare.chunked else outputs[0]
            result = self._postprocess(given, **prepared.postprocess_parameters)
        except ValueError as error:
            if prepared.parameters:  # some are only looked at here
                return Rejected(str(error))
            return failed("The model's output for this input could not be read.", error)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic in the tokenizer's Rust, here too
            return failed("The model's output for this input could not be read.", error)
        return [result] if prepared.is_wrapped else result

    def _check_alive(self) -> None:
        """Every input of a batch failed. Raises `Unavailable` if a plain text fails too: then it is not the inputs."""
        try:
            self.passes.one(self.sample(1).rows)
        except Exception as error:
            raise Unavailable("The model is broken: it fails on every input.") from error
