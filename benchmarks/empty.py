"""This server around a model that costs nothing: the costs of HTTP, the queue and the server loop remain.

Owns the app that `uvicorn benchmarks.empty:app` serves. It must never know torch.
"""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from config import Settings
from pipeline_webserver.model_info import ModelInfo
from server import create_app

ANSWER = [
    {"score": 0.1 + place / 100, "token": place, "token_str": "word", "sequence": "one word in a text of some length."}
    for place in range(5)
]


@dataclass(frozen=True, slots=True)
class OneToken:
    tokens: int = 1


class NoModel:
    """Answers each text at once with the same answer, of a usual size."""

    info = ModelInfo(model="none", name="none", task="fill-mask", device="none", dtype="none", threads=0)
    max_batch_tokens = 16_384
    fixed_cost_tokens = 0.0
    steps = None

    async def start(self) -> None:
        gc.freeze()  # as the real one does

    async def preprocess(
        self, inputs: Sequence[tuple[object, Mapping[str, object]]], heartbeat: Callable[[], None]
    ) -> Sequence[OneToken]:
        return [OneToken()] * len(inputs)

    async def run(self, batch: Sequence[Any], heartbeat: Callable[[], None]) -> Sequence[object]:
        return [ANSWER] * len(batch)

    def close(self) -> bool:
        return True


app = create_app(Settings(), NoModel())
