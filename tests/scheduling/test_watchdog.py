"""A call that makes no progress is reported at the exact time, once, and so is its recovery."""

import asyncio
from contextlib import suppress

from pipeline_webserver.scheduling.watchdog import Watchdog
from tests.support.clock import run


class Watched:
    """A watchdog whose reports are kept with their times."""

    def __init__(self, timeout_s: float) -> None:
        self.reports: list[tuple[float, str]] = []
        self.dog = Watchdog(timeout_s, lambda: self._report("stall"), lambda: self._report("recovery"))

    def _report(self, report: str) -> None:
        self.reports.append((asyncio.get_running_loop().time(), report))


def test_a_call_that_ends_in_time_is_not_reported() -> None:
    async def main() -> None:
        watched = Watched(10)
        for _ in range(3):
            with watched.dog.watching():
                await asyncio.sleep(9.999)
        await asyncio.sleep(100)
        assert (watched.reports, watched.dog.is_stalled, watched.dog.stalled_s) == ([], False, 0)

    run(main())


def test_one_that_does_not_is_reported_once_and_so_is_its_end() -> None:
    async def main() -> None:
        watched = Watched(10)
        with watched.dog.watching():
            await asyncio.sleep(25)
            assert (watched.dog.is_stalled, watched.dog.stalled_s) == (True, 25)
        assert watched.reports == [(10, "stall"), (25, "recovery")]
        assert watched.dog.is_stalled is False

    run(main())


def test_a_heartbeat_delays_the_report_and_ends_the_stall() -> None:
    async def main() -> None:
        watched = Watched(10)
        with watched.dog.watching():
            await asyncio.sleep(9)
            watched.dog.heartbeat()
            await asyncio.sleep(15)
            watched.dog.heartbeat()
            await asyncio.sleep(15)
        watched.dog.heartbeat()  # it has no effect any more
        assert watched.reports == [(19, "stall"), (24, "recovery"), (34, "stall"), (39, "recovery")]

    run(main())


def test_a_call_that_fails_does_not_recover() -> None:
    async def main() -> None:
        watched = Watched(10)
        with suppress(ZeroDivisionError), watched.dog.watching():
            await asyncio.sleep(11)
            raise ZeroDivisionError
        assert watched.reports == [(10, "stall")]
        assert watched.dog.is_stalled is False

    run(main())
