"""A watchdog over one call at a time: it reports a call that makes no progress, and its recovery.

It must never know what is called.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# How much too early an event loop may call back: uvloop's time is in whole milliseconds.
EARLY_S = 0.001


class Watchdog:
    """Calls `on_stall` after `timeout_s` seconds without a heartbeat, `on_recovery` when the call goes on or ends."""

    def __init__(self, timeout_s: float, on_stall: Callable[[], None], on_recovery: Callable[[], None]) -> None:
        self.timeout_s = timeout_s
        self.on_stall = on_stall
        self.on_recovery = on_recovery
        self.is_stalled = False
        self._last_progress: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def stalled_s(self) -> float:
        """Seconds since the call under way began or had its last heartbeat; 0 where there is none."""
        return 0.0 if self._last_progress is None else asyncio.get_running_loop().time() - self._last_progress

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the call that is made inside."""
        self._last_progress = asyncio.get_running_loop().time()
        self._set_timer()
        try:
            yield
            self._recover()
        finally:
            self._last_progress, self.is_stalled = None, False
            if self._timer is not None:
                self._timer.cancel()

    def heartbeat(self) -> None:
        """The call goes on. A heartbeat of a call that has ended has no effect."""
        if self._last_progress is None:
            return
        self._last_progress = asyncio.get_running_loop().time()
        if self.is_stalled:
            self._recover()
            self._set_timer()

    def _recover(self) -> None:
        if self.is_stalled:
            self.is_stalled = False
            self.on_recovery()

    def _set_timer(self) -> None:
        assert self._last_progress is not None, "a call is under way"
        self._timer = asyncio.get_running_loop().call_at(self._last_progress + self.timeout_s, self._check)

    def _check(self) -> None:
        """The time-out has passed: set the timer again if there was a heartbeat since."""
        if self.stalled_s < self.timeout_s - EARLY_S:
            self._set_timer()
        else:
            self.is_stalled = True
            self.on_stall()
