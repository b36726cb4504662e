"""A runner with full control: how long it takes, what it rejects, what fails. It holds the promises of the real one."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline_webserver.errors import InferenceFailed, PipelineServerError, Rejected, Unavailable
from pipeline_webserver.model_info import ModelInfo


@dataclass(frozen=True, slots=True)
class FakePrepared:
    input: str
    parameters: Mapping[str, object]

    @property
    def tokens(self) -> int:
        return len(self.input.split())


def failure() -> InferenceFailed:
    error = InferenceFailed("It failed.")
    error.__cause__ = RuntimeError("the tensors do not fit")
    return error


class Panic(BaseException):
    """As a panic in Rust comes out in Python."""


@dataclass
class FakeRunner:
    """Answers a text with its upper case, a token for each word.

    A batch takes `model_s` seconds of the loop's time, or lasts until `gate` is set; preprocessing takes
    `preprocess_s`. "bad" in a text is rejected by preprocessing, "poison" fails in the model, "broken" breaks the model
    for good. "bug", "panic" and "short" are bugs of a runner: an exception, one that is no `Exception`, and too few
    results. `heartbeat` is that of the last batch.
    """

    model_s: float = 0.0
    preprocess_s: float = 0.0
    gate: asyncio.Event | None = None
    task: str = "fill-mask"
    max_batch_tokens: int = 512
    batches: list[tuple[float, list[str]]] = field(default_factory=list)
    fixed_cost_tokens: float = 0.0
    closed: bool = False
    steps: None = None
    heartbeat: Callable[[], None] = field(default=lambda: None)

    async def start(self) -> None:
        pass

    @property
    def info(self) -> ModelInfo:
        return ModelInfo(model="fake", name="fake", task=self.task, device="none", dtype="float32", threads=1)

    async def preprocess(
        self, inputs: Sequence[tuple[object, Mapping[str, object]]], heartbeat: Callable[[], None]
    ) -> Sequence[FakePrepared | PipelineServerError]:
        if self.preprocess_s:
            await asyncio.sleep(self.preprocess_s)
        return [
            Rejected(f"{text} is rejected") if "bad" in str(text) else FakePrepared(str(text), parameters)
            for text, parameters in inputs
        ]

    async def run(self, batch: Sequence[Any], heartbeat: Callable[[], None]) -> Sequence[object]:
        self.heartbeat = heartbeat
        texts = [prepared.input for prepared in batch]
        self.batches.append((asyncio.get_running_loop().time(), texts))
        if self.gate is not None:
            await self.gate.wait()
        elif self.model_s:
            await asyncio.sleep(self.model_s)
        if any("broken" in text for text in texts):
            raise Unavailable("The model is broken.")
        if any("bug" in text for text in texts):
            raise ZeroDivisionError("a bug of the runner")
        if any("panic" in text for text in texts):
            raise Panic("at tokenizer.rs")
        if any("short" in text for text in texts):
            return []
        return [failure() if "poison" in text else text.upper() for text in texts]

    def close(self) -> bool:
        self.closed = True
        return True
