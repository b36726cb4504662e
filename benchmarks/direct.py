"""The process that calls `pipe(text)`, one text after the other: no server, no batching.

Owns nothing but that call. It must never know anything of this server.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import texts, weights, worker


def runner(pipe: Any) -> worker.Run:
    def run(batch: Sequence[str]) -> list[Any]:
        return [pipe(text) for text in batch]

    return run


def main(folder: Path, task: str) -> None:
    worker.serve_lines(runner(weights.load(folder, task)), texts.texts_for(folder, task))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
