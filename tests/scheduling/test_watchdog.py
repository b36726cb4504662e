"""A call that makes no progress is found out at the exact time, once, and so is its return."""

import asyncio
from contextlib import suppress

from pipeline_webserver.scheduling.watchdog import Watch
from tests.support.clock import run


class Watched:
    """A watch whose words are kept with their times."""

    def __init__(self, patience_s: float) -> None:
        self.told: list[tuple[float, str]] = []
        self.watch = Watch(patience_s, lambda: self._tell("alarm"), lambda: self._tell("all clear"))

    def _tell(self, word: str) -> None:
        self.told.append((asyncio.get_running_loop().time(), word))


def test_a_call_that_ends_in_time_is_not_spoken_of() -> None:
    async def main() -> None:
        watched = Watched(10)
        for _ in range(3):
            with watched.watch.over_a_call():
                await asyncio.sleep(9.999)
        await asyncio.sleep(100)
        assert (watched.told, watched.watch.is_stuck, watched.watch.idle_s) == ([], False, 0)

    run(main())


def test_one_that_does_not_is_told_of_once_and_so_is_its_end() -> None:
    async def main() -> None:
        watched = Watched(10)
        with watched.watch.over_a_call():
            await asyncio.sleep(25)
            assert (watched.watch.is_stuck, watched.watch.idle_s) == (True, 25)
        assert watched.told == [(10, "alarm"), (25, "all clear")]
        assert watched.watch.is_stuck is False

    run(main())


def test_progress_moves_the_alarm_and_ends_it() -> None:
    async def main() -> None:
        watched = Watched(10)
        with watched.watch.over_a_call():
            await asyncio.sleep(9)
            watched.watch.progressed()
            await asyncio.sleep(15)
            watched.watch.progressed()
            await asyncio.sleep(15)
        watched.watch.progressed()  # it says nothing any more
        assert watched.told == [(19, "alarm"), (24, "all clear"), (34, "alarm"), (39, "all clear")]

    run(main())


def test_a_call_that_is_given_up_is_no_return() -> None:
    async def main() -> None:
        watched = Watched(10)
        with suppress(ZeroDivisionError), watched.watch.over_a_call():
            await asyncio.sleep(11)
            raise ZeroDivisionError
        assert watched.told == [(10, "alarm")]
        assert watched.watch.is_stuck is False

    run(main())
