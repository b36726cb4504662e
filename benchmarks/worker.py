"""The line protocol of a process that runs a pipeline without a server: a command a line in, JSON a line out.

Owns `measure SECONDS BATCH_SIZE` and `answers COUNT`. It must never know which pipeline runs.
"""

import itertools
import json
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.figures import milliseconds, percentile

Run = Callable[[Sequence[str]], Sequence[Any]]


def measure(run: Run, texts: Sequence[str], seconds: float, batch_size: int) -> dict[str, object]:
    """Run batches of consecutive texts until the time is over; latency is that of a batch."""
    endless = itertools.cycle(texts)
    latencies_s = array("d")
    started = now = time.perf_counter()
    while now < started + seconds:
        run(list(itertools.islice(endless, batch_size)))
        before, now = now, time.perf_counter()
        latencies_s.append(now - before)
    return {
        "texts_per_s": len(latencies_s) * batch_size / (now - started),
        "p50_ms": milliseconds(percentile(latencies_s, 0.5)),
        "p99_ms": milliseconds(percentile(latencies_s, 0.99)),
        "answers": len(latencies_s) * batch_size,
        "seconds": now - started,
    }


def serve_lines(run: Run, texts: Sequence[str]) -> None:
    """Carry out the commands of the standard input, until it ends."""
    for line in sys.stdin:
        match line.split():
            case ["measure", seconds, batch_size]:
                answer: object = measure(run, texts, float(seconds), int(batch_size))
            case ["answers", count]:
                answer = [run([text])[0] for text in texts[: int(count)]]
            case _:
                raise SystemExit(f"no such command: {line!r}")
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
