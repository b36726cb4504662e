"""From model outputs to the result of each input, or to its own error.

It must never know how the outputs were computed, requests or HTTP.
"""

import logging
from collections.abc import Hashable, Sequence
from typing import Any

from transformers.pipelines.base import Pipeline

from pipeline_webserver.errors import Rejected
from pipeline_webserver.inference.model_inputs import PreparedInput
from pipeline_webserver.inference.preprocessing.base import BatchPostprocess, Preprocessor, inference_failed

logger = logging.getLogger(__name__)


class Postprocessor:
    """The last stage of one pipeline; `pipe` is a copy of it for the thread that calls this, with its own tokenizer."""

    def __init__(self, preprocessor: Preprocessor, pipe: Pipeline) -> None:
        self.postprocess = preprocessor.make_postprocess(pipe)
        self._is_chunked = preprocessor.is_chunked
        self._generates = preprocessor.generates

    def results(self, inputs: Sequence[PreparedInput], outputs: Sequence[list[Any]]) -> list[object]:
        """The result of each input, or its own error.

        Each has a list of `outputs`, one for each of its model inputs.
        """
        results = self._batch_results(inputs, outputs)
        for index, (prepared, chunks) in enumerate(zip(inputs, outputs, strict=True)):
            if index not in results:
                results[index] = self._result(prepared, chunks)
        return [results[index] for index in range(len(inputs))]

    def _batch_results(self, inputs: Sequence[PreparedInput], outputs: Sequence[list[Any]]) -> dict[int, object]:
        """The results, by index, of those inputs that can be postprocessed together, and were without an error."""
        postprocess, results = self.postprocess, dict[int, object]()
        if not isinstance(postprocess, BatchPostprocess):
            return results
        groups: dict[Hashable, list[int]] = {}
        for index, (prepared, chunks) in enumerate(zip(inputs, outputs, strict=True)):
            key = postprocess.batch_key(prepared.postprocess_parameters)
            if key is not None and not isinstance(chunks[0], Exception):
                groups.setdefault(key, []).append(index)
        for group in groups.values():
            try:
                batch = postprocess.batch([(outputs[i][0], inputs[i].postprocess_parameters) for i in group])
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # each by itself will have its own
                logger.debug("Postprocessing %d outputs together failed: %s", len(group), error)
            else:
                results.update(zip(group, batch, strict=True))
        return results

    def _result(self, prepared: PreparedInput, outputs: list[Any]) -> object:
        """The result of an input, or its own error."""
        for output in outputs:
            if isinstance(output, ValueError) and self._generates and prepared.parameters:
                return Rejected(str(output))  # generation parameters are only checked there
            if isinstance(output, Exception):
                return inference_failed("The model failed on this input.", output)
        try:
            chunks = outputs if self._is_chunked else outputs[0]
            result = self.postprocess(chunks, **prepared.postprocess_parameters)
        except ValueError as error:
            if prepared.parameters:  # some are only checked here
                return Rejected(str(error))
            return inference_failed("The model's output for this input could not be read.", error)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic in the tokenizer's Rust is no `Exception`
            return inference_failed("The model's output for this input could not be read.", error)
        return [result] if prepared.is_wrapped else result
