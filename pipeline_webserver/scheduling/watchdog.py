"""The watch on a call that may never come back: an alarm when it has made no progress for too long, and an all-clear.

It must never know what is called.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# How much too early an event loop may call: uvloop's time is in whole milliseconds.
EARLY_S = 0.001


class Watch:
    """One call at a time. `alarm` is called when it has made no progress for `patience_s` seconds, and `all_clear` when
    it goes on, or comes to its end, after all.
    """

    def __init__(self, patience_s: float, alarm: Callable[[], None], all_clear: Callable[[], None]) -> None:
        self.patience_s = patience_s
        self.alarm = alarm
        self.all_clear = all_clear
        self.is_stuck = False
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def idle_s(self) -> float:
        """For how long the call has made no progress; 0 when there is none."""
        return 0.0 if self._since is None else asyncio.get_running_loop().time() - self._since

    @contextmanager
    def over_a_call(self) -> Iterator[None]:
        self._since = asyncio.get_running_loop().time()
        self._look_later()
        try:
            yield
            self._relax()
        finally:
            self._since, self.is_stuck = None, False
            if self._timer is not None:
                self._timer.cancel()

    def progressed(self) -> None:
        """The call goes on. From one that is over this says nothing."""
        if self._since is None:
            return
        self._since = asyncio.get_running_loop().time()
        if self.is_stuck:
            self._relax()
            self._look_later()

    def _relax(self) -> None:
        if self.is_stuck:
            self.is_stuck = False
            self.all_clear()

    def _look_later(self) -> None:
        assert self._since is not None, "there is a call"
        self._timer = asyncio.get_running_loop().call_at(self._since + self.patience_s, self._look)

    def _look(self) -> None:
        """It had its time: again later, if there was progress since."""
        if self.idle_s < self.patience_s - EARLY_S:
            self._look_later()
        else:
            self.is_stuck = True
            self.alarm()
