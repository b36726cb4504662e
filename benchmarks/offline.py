"""The process that runs our own `LoadedPipeline` without a server: what is left to gain by a better one.

Owns the one place that knows how `LoadedPipeline` is used. It must never know queues or HTTP.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import texts, weights, worker
from pipeline_webserver.inference.pipeline_runner import LoadedPipeline


def runner(pipe: Any) -> worker.Run:
    loaded = LoadedPipeline(pipe)
    loaded.warm_up()

    def run(batch: Sequence[str]) -> Sequence[object]:
        prepared: list[Any] = list(loaded.prepare([(text, {}) for text in batch]))
        outputs = loaded.run(prepared)
        assert not any(isinstance(output, Exception) for output in outputs), "every text is a plain one"
        return outputs

    return run


def main(folder: Path, task: str) -> None:
    worker.obey(runner(weights.load(folder, task)), texts.texts_for(folder, task))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
