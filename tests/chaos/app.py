"""The real app with the real bundled model, whose forward passes fail at random.

For the process that `tests.chaos` starts: `uvicorn tests.chaos.app:app`. Only a pass that has a row with the word
`ORDEAL_WORD` can fail. So the failing passes are those of marked texts: the check that a plain text still works,
and the warm-up, are never hit, and a client whose text has not that word can be promised that it gets no error of it.
A fault strikes in the middle of the model, where a pass leaves most behind. How many there were is on `/metrics`.

Owns the faults: which pass fails, and how. It must never know the clients: what it is told is in the environment.
"""

import logging
import os
import random
import time
from collections.abc import Mapping
from typing import Any

import torch
from prometheus_client import Counter
from transformers.pipelines.base import Pipeline
from uvicorn.logging import DefaultFormatter

from config import from_environment, usable_cores
from pipeline_webserver.api.tasks import TASKS
from pipeline_webserver.inference.acceleration.base import stack_of
from pipeline_webserver.inference.inference_thread import PipelineThread
from pipeline_webserver.inference.loading import load
from pipeline_webserver.telemetry.logs import ACCESS
from server import create_app

KINDS = ("hang", "out_of_memory", "raise")
FAULTS = Counter("ordeal_faults", "Forward passes that were made to fail, by kind.", ["kind"])


class Faults:
    """Which pass fails, and how: by draws of `chance`, `rates` of those that can.

    Memory runs out only with over `most_rows` rows; a pass that hangs goes on after `hang_s` seconds.
    """

    def __init__(
        self, chance: random.Random, rates: Mapping[str, float], token: int, most_rows: int, hang_s: float
    ) -> None:
        self.chance = chance
        self.rates = rates
        self.token = token
        self.most_rows = most_rows
        self.hang_s = hang_s
        self._due: str | None = None

    def draw(self, model: torch.nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        """Before a pass."""
        ids = kwargs["input_ids"]
        self._due = self.kind(len(ids)) if (ids == self.token).any() else None

    def kind(self, rows: int) -> str | None:
        """The fault of a pass of so many rows, one of them marked. Each kind takes a draw, whatever the others gave."""
        drawn = [kind for kind in KINDS if self.chance.random() < self.rates[kind]]
        return next((kind for kind in drawn if kind != "out_of_memory" or rows > self.most_rows), None)

    def strike(self, layer: torch.nn.Module, args: Any) -> None:
        """In the middle of a pass."""
        kind, self._due = self._due, None
        if kind is None:
            return
        FAULTS.labels(kind).inc()
        if kind == "hang":
            time.sleep(self.hang_s)
        elif kind == "out_of_memory":
            raise torch.OutOfMemoryError("an injected lack of memory")
        else:
            raise RuntimeError("an injected failure")


def load_faulty() -> Pipeline:
    pipe = load(settings.model, settings.task, None, "cpu", None, tuple(TASKS))
    faults = Faults(
        random.Random(os.environ["ORDEAL_SEED"]),  # noqa: S311 - repeatable, not secret
        {kind: float(os.environ[f"ORDEAL_{kind.upper()}"]) for kind in KINDS},
        pipe.tokenizer.convert_tokens_to_ids(os.environ["ORDEAL_WORD"]),
        int(os.environ["ORDEAL_MOST_ROWS"]),
        float(os.environ["ORDEAL_HANG_S"]),
    )
    layers = stack_of(pipe.model)
    pipe.model.register_forward_pre_hook(faults.draw, with_kwargs=True)
    layers[len(layers) // 2].register_forward_pre_hook(faults.strike)
    return pipe


for kind in KINDS:
    FAULTS.labels(kind)  # on /metrics from the start, with 0
settings = from_environment()
app = create_app(settings, PipelineThread(load_faulty, threads=settings.threads or usable_cores()))

# A line for each request, though uvicorn was told to have none.
lines = logging.StreamHandler()
lines.setFormatter(DefaultFormatter("%(levelprefix)s %(message)s"))
logging.getLogger(ACCESS).addHandler(lines)
logging.getLogger(ACCESS).setLevel(logging.INFO)
