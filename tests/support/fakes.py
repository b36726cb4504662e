"""A runner with full control: how long it takes, what it refuses, what fails. It holds the promises of the real one."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline_webserver.errors import InferenceFailed, PipelineServerError, Rejected, Unavailable


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

    A batch takes `model_s` seconds of the loop's time, or lasts until `gate` is set; preparing takes `prepare_s`. "bad"
    in a text is refused when it is prepared, "poison" fails in the model, "broken" breaks the model for good. Nobody
    foresaw "bug", "panic" and "short": an exception, one that is no `Exception`, and too few results.
    """

    model_s: float = 0.0
    prepare_s: float = 0.0
    gate: asyncio.Event | None = None
    task: str = "fill-mask"
    max_batch_tokens: int = 512
    batches: list[tuple[float, list[str]]] = field(default_factory=list)
    fixed_cost_tokens: float = 0.0
    closed: bool = False

    def __post_init__(self) -> None:
        self.on_progress: Callable[[], None] = lambda: None

    async def start(self) -> None:
        pass

    async def prepare(
        self, work: Sequence[tuple[object, Mapping[str, object]]]
    ) -> Sequence[FakePrepared | PipelineServerError]:
        if self.prepare_s:
            await asyncio.sleep(self.prepare_s)
        return [
            Rejected(f"{text} is refused") if "bad" in str(text) else FakePrepared(str(text), parameters)
            for text, parameters in work
        ]

    async def run(self, batch: Sequence[Any]) -> Sequence[object]:
        texts = [prepared.input for prepared in batch]
        self.batches.append((asyncio.get_running_loop().time(), texts))
        if self.gate is not None:
            await self.gate.wait()
        elif self.model_s:
            await asyncio.sleep(self.model_s)
        if any("broken" in text for text in texts):
            raise Unavailable("The model is broken.")
        if any("bug" in text for text in texts):
            raise ZeroDivisionError("nobody foresaw this")
        if any("panic" in text for text in texts):
            raise Panic("at tokenizer.rs")
        if any("short" in text for text in texts):
            return []
        return [failure() if "poison" in text else text.upper() for text in texts]

    def describe(self) -> dict[str, object]:
        return {"model": "fake", "task": self.task, "device": "none", "threads": 1}

    def close(self) -> bool:
        self.closed = True
        return True
