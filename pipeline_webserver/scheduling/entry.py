"""One input in flight, and what became of it. It must never know the queue, the loop, or what runs a batch."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline_webserver.errors import PipelineServerError

TOO_LATE = "There was no answer in time; the server is slow or busy."


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of an entry: its output or its error.

    `queue_s` and `model_s` are the seconds it waited for its batch and the seconds that the batch ran; `batch_size` is
    the number of entries in that batch, 0 where the model never saw it. Where it was in many steps, `queue_s` is until
    the first, `model_s` from there to the end of the last, and `batch_size` that of the largest.
    """

    output: object = None
    error: PipelineServerError | None = None
    queue_s: float = 0.0
    model_s: float = 0.0
    batch_size: int = 0


@dataclass(slots=True, eq=False)
class Entry:
    """One admitted input. Its response queue gets exactly one `Result`.

    Entries are served by `rank`, and by `arrival` where ranks are equal. `enqueued_at` and `deadline` are in seconds of
    `loop.time()`, `submitted_at` is in seconds of the measuring clock. `prepared` is what preprocessing made of the
    input.
    """

    input: object
    parameters: Mapping[str, object]
    rank: int
    arrival: int
    enqueued_at: float
    deadline: float
    submitted_at: float
    response_queue: asyncio.Queue[Result] = field(default_factory=lambda: asyncio.Queue(maxsize=1))
    cancelled: bool = False
    prepared: Any = None

    def __lt__(self, other: "Entry") -> bool:
        return (self.rank, self.arrival) < (other.rank, other.arrival)
