"""The real app with the real bundled model, in which single words make the forward pass hang, fail or break for good.

For processes of their own: `uvicorn tests.support.faulty_app:app`. A pass with the word "hold" connects to the port
`FAULTY_APP_HOLD` of 127.0.0.1, and goes on when that connection is closed.
"""

import os
import select
import socket
from typing import Any

import torch
from transformers.pipelines.base import Pipeline

from config import from_environment
from pipeline_webserver.api.tasks import TASKS
from pipeline_webserver.inference.inference_thread import PipelineThread
from pipeline_webserver.inference.loading import load
from server import create_app


def load_faulty() -> Pipeline:
    pipe = load(settings.model, settings.task, None, "cpu", None, tuple(TASKS))
    words = {word: pipe.tokenizer.convert_tokens_to_ids(word) for word in ("hold", "poison", "kill")}
    broken = False

    def fault(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        nonlocal broken
        ids = kwargs["input_ids"]
        if (ids == words["hold"]).any():
            with socket.create_connection(("127.0.0.1", int(os.environ["FAULTY_APP_HOLD"]))) as held:
                held.setblocking(False)
                while not select.select([held], [], [], 0)[0]:  # computing, as a real pass does, and not just waiting
                    torch.ones(64, 64) @ torch.ones(64, 64)
        broken = broken or bool((ids == words["kill"]).any())
        if broken or (ids == words["poison"]).any():
            raise RuntimeError("a secret of the model")

    pipe.model.register_forward_pre_hook(fault, with_kwargs=True)
    return pipe


settings = from_environment()
app = create_app(settings, PipelineThread(load_faulty, threads=1, speed_up=False))
