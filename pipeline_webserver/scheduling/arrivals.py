"""The queue of entries that were admitted and are not preprocessed yet. It must never know what becomes of them."""

import asyncio
from collections.abc import Callable, Sequence

from pipeline_webserver.scheduling.entry import Entry


class ArrivalQueue:
    """Entries in their order, taken as far as there is room for them.

    `has_room` says whether there is for one with so many others taken before it; `room_changed` has to be called when
    it may say otherwise.
    """

    def __init__(self, has_room: Callable[[Entry, int], bool]) -> None:
        self._has_room = has_room
        self._queue: asyncio.PriorityQueue[Entry] = asyncio.PriorityQueue()
        self._room = asyncio.Event()

    def put(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._queue.put_nowait(entry)
        self.room_changed()  # an arrival may rank before what is ready

    def room_changed(self) -> None:
        self._room.set()

    def empty(self) -> bool:
        return self._queue.empty()

    async def take(self, most: int) -> list[Entry]:
        """What has arrived, as far as there is room for it, `most` of it; waits for the first such entry."""
        while not self._has_room(entry := await self._queue.get(), 0):
            self._queue.put_nowait(entry)
            self._room.clear()
            await self._room.wait()
        arrivals = [entry]
        while len(arrivals) < most and not self._queue.empty():
            entry = self._queue.get_nowait()
            if not self._has_room(entry, len(arrivals)):
                self._queue.put_nowait(entry)
                break
            arrivals.append(entry)
        return arrivals
