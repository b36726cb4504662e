"""This server around a model that costs nothing: what is left is HTTP, the queue and the server loop.

Owns the app that `uvicorn benchmarks.empty:app` serves. It must never know torch.
"""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from config import Settings
from server import create_app

ANSWER = [
    {"score": 0.1 + place / 100, "token": place, "token_str": "word", "sequence": "one word in a text of some length."}
    for place in range(5)
]


@dataclass(frozen=True, slots=True)
class Nothing:
    tokens: int = 1


class NoModel:
    """Gives each text the same answer, of a usual size, at once."""

    task = "fill-mask"
    max_batch_tokens = 16_384
    fixed_cost_tokens = 0.0

    def __init__(self) -> None:
        self.on_progress: Callable[[], None] = lambda: None

    async def start(self) -> None:
        gc.freeze()  # as the real one does

    async def prepare(self, work: Sequence[tuple[object, Mapping[str, object]]]) -> Sequence[Nothing]:
        return [Nothing()] * len(work)

    async def run(self, batch: Sequence[Any]) -> Sequence[object]:
        return [ANSWER] * len(batch)

    def describe(self) -> dict[str, object]:
        return {"model": "none", "task": self.task, "device": "none", "threads": 0}

    def close(self) -> bool:
        return True


app = create_app(Settings(), NoModel())
