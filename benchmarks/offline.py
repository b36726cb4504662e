"""The process that runs this server's `PipelineRunner` without a server: the most that the server can reach.

Owns the use of `PipelineRunner`, which no other file knows. It must never know queues or HTTP.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks import texts, weights, worker
from pipeline_webserver.api.tasks import TASKS
from pipeline_webserver.inference.model_inputs import Limits, PreparedInput
from pipeline_webserver.inference.pipeline_runner import PipelineRunner, open_runner


def batch_runner(runner: PipelineRunner) -> worker.Run:
    def run(batch: Sequence[str]) -> Sequence[object]:
        results = runner.preprocess([(text, {}) for text in batch])
        prepared = [result for result in results if isinstance(result, PreparedInput)]
        assert len(prepared) == len(batch), "every text is valid"
        outputs = runner.run(prepared)
        assert not any(isinstance(output, Exception) for output in outputs), "no text fails"
        return outputs

    return run


def main(folder: Path, task: str) -> None:
    preprocessors = {task: (TASKS[task].preprocessor, TASKS[task].extra)}
    load = partial(weights.load, folder, task)
    runner = open_runner(load, preprocessors, Limits(), max_batch_tokens=None, accelerate=True)
    worker.serve_lines(batch_runner(runner), texts.texts_for(folder, task))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
