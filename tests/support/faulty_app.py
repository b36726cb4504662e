"""The real app with the real bundled model, in which single words make the forward pass hang, fail or break for good.

For processes of their own: `uvicorn tests.support.faulty_app:app`. A pass with the word "hold" connects to the port
`FAULTY_APP_HOLD` of 127.0.0.1, and goes on when that connection is closed; with the word "work", too, it computes
meanwhile, as a real pass does, instead of just waiting.
"""

import os
import select
import socket
from functools import partial
from typing import Any

import torch
from transformers.pipelines.base import Pipeline

from config import from_environment
from pipeline_webserver.inference.inference_thread import InferenceThread
from pipeline_webserver.inference.model_inputs import Limits
from pipeline_webserver.inference.pipeline_runner import open_runner
from server import create_app
from tests.support.pipelines import PREPROCESSORS, load_pipeline


def load_faulty() -> Pipeline:
    pipe = load_pipeline(settings.model, settings.task)
    words = {word: pipe.tokenizer.convert_tokens_to_ids(word) for word in ("hold", "work", "poison", "kill")}
    broken = False

    def fault(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        nonlocal broken
        ids = kwargs["input_ids"]
        if (ids == words["hold"]).any():
            with socket.create_connection(("127.0.0.1", int(os.environ["FAULTY_APP_HOLD"]))) as held:
                while (ids == words["work"]).any() and not select.select([held], [], [], 0)[0]:
                    torch.ones(64, 64) @ torch.ones(64, 64)
                held.recv(1)
        broken = broken or bool((ids == words["kill"]).any())
        if broken or (ids == words["poison"]).any():
            raise RuntimeError("a secret of the model")

    pipe.model.register_forward_pre_hook(fault, with_kwargs=True)
    return pipe


settings = from_environment()
open_faulty = partial(open_runner, load_faulty, PREPROCESSORS, Limits(), None, accelerate=False)
app = create_app(settings, InferenceThread(open_faulty, threads=1))
