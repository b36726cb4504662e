"""An event loop whose time is a number: when everyone waits, it jumps to the next timer. No test sleeps."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class VirtualClockLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self.now


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self, loop: VirtualClockLoop) -> None:
        super().__init__()
        self.loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everyone waits for something that never comes"
        # To the nanosecond, so that times come out as they are written.
        self.loop.now = round(self.loop.now + max(timeout, 0), 9)
        return []


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Run to the end on a clock that starts at 0 s."""
    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        return runner.run(main)
