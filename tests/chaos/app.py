"""The real app with the real bundled model, whose forward passes fail at random.

For the process that `tests.chaos` starts: `uvicorn tests.chaos.app:app`. Only a pass that has a row with the word
`CHAOS_WORD` can fail. So the failing passes are those of marked texts: the check that a plain text still works,
and the warm-up, are never hit, and a client whose text has not that word can be promised that it gets no error of it.
A fault strikes in the middle of the model, where a pass leaves most behind. How many there were is on `/metrics`.

Owns the faults: which pass fails, and how. It must never know the clients: its options are in the environment.
"""

import logging
import os
import random
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from prometheus_client import Counter
from transformers.pipelines.base import Pipeline
from uvicorn.logging import DefaultFormatter

from config import from_environment
from pipeline_webserver.inference.acceleration.base import encoder_layers
from pipeline_webserver.inference.cpus import usable_cores
from pipeline_webserver.inference.inference_thread import InferenceThread
from pipeline_webserver.inference.model_inputs import Limits
from pipeline_webserver.inference.pipeline_runner import open_runner
from pipeline_webserver.telemetry.logs import ACCESS
from server import create_app
from tests.support.pipelines import PREPROCESSORS, load_pipeline

KINDS = ("hang", "out_of_memory", "raise")
FAULTS = Counter("chaos_faults", "Forward passes that were made to fail, by kind.", ["kind"])


class Faults:
    """Which pass fails, and how: by draws of `chance`, `rates` of those that can.

    Memory runs out only with over `max_rows` rows; a pass that hangs goes on after `hang_s` seconds.
    """

    def __init__(
        self, chance: random.Random, rates: Mapping[str, float], token: int, max_rows: int, hang_s: float
    ) -> None:
        self.chance = chance
        self.rates = rates
        self.token = token
        self.max_rows = max_rows
        self.hang_s = hang_s
        self._due: str | None = None

    def draw(self, model: torch.nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        """Before a pass."""
        ids = kwargs["input_ids"]
        self._due = self.kind(len(ids)) if (ids == self.token).any() else None

    def kind(self, rows: int) -> str | None:
        """The fault of a pass of so many rows, one of them marked. Each kind takes a draw, whatever the others gave."""
        drawn = [kind for kind in KINDS if self.chance.random() < self.rates[kind]]
        return next((kind for kind in drawn if kind != "out_of_memory" or rows > self.max_rows), None)

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
    pipe = load_pipeline(settings.model, settings.task)
    faults = Faults(
        random.Random(os.environ["CHAOS_SEED"]),  # noqa: S311 - repeatable, not secret
        {kind: float(os.environ[f"CHAOS_{kind.upper()}"]) for kind in KINDS},
        pipe.tokenizer.convert_tokens_to_ids(os.environ["CHAOS_WORD"]),
        int(os.environ["CHAOS_MAX_ROWS"]),
        float(os.environ["CHAOS_HANG_S"]),
    )
    layers = encoder_layers(pipe.model)
    pipe.model.register_forward_pre_hook(faults.draw, with_kwargs=True)
    layers[len(layers) // 2].register_forward_pre_hook(faults.strike)
    return pipe


for kind in KINDS:
    FAULTS.labels(kind)  # on /metrics from the start, with 0
settings = from_environment()
open_faulty = partial(open_runner, load_faulty, PREPROCESSORS, Limits(), None, settings.accelerate)
app = create_app(settings, InferenceThread(open_faulty, settings.threads or usable_cores()))

# A line for each request, though uvicorn is started with `--no-access-log`.
lines = logging.StreamHandler()
lines.setFormatter(DefaultFormatter("%(levelprefix)s %(message)s"))
logging.getLogger(ACCESS).addHandler(lines)
logging.getLogger(ACCESS).setLevel(logging.INFO)
