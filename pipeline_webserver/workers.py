"""The processes that serve the same app beside this one: their number, and the process that starts them.

Of uvicorn's and hypercorn's `--workers` and of gunicorn, whatever sets the number: an option, a variable, a file. None
of them passes it on, so it is read off their own objects. It must never know what is divided among workers, or shared.
"""

import inspect
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType


@dataclass(frozen=True, slots=True)
class Workers:
    """How many there are, and the process id of their parent, which is the same for all of them.

    `uid` and `gid` are those that they will have, where this process is the parent; -1 where it is a worker.
    """

    count: int
    parent_pid: int
    uid: int = -1
    gid: int = -1


def find_workers() -> Workers | None:
    """The workers that this process is one of; to be called while the app is imported or made. None without others."""
    found = _of_gunicorn() or _of_multiprocessing()
    return found if found is not None and found.count > 1 else None


def _of_gunicorn() -> Workers | None:
    """gunicorn forks its workers, and imports the app in each of them or, with `--preload`, before it forks."""
    for frame in _callers():
        module = frame.f_globals.get("__name__")
        if module in {"gunicorn.workers.base", "gunicorn.arbiter"} and "self" in frame.f_locals:
            config = frame.f_locals["self"].cfg
            is_worker = module == "gunicorn.workers.base"
            own = (os.getppid(),) if is_worker else (os.getpid(), config.uid, config.gid)
            return Workers(config.workers, *own)
    return None


def _callers() -> Iterator[FrameType]:
    frame = inspect.currentframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


def _of_multiprocessing() -> Workers | None:
    """uvicorn and hypercorn spawn their workers, each with the whole configuration as an argument."""
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid is None:
        return None
    return Workers(count_of(getattr(multiprocessing.current_process(), "_kwargs", {}).get("config")), parent.pid)


def count_of(config: object) -> int:
    """The number of workers in a configuration of uvicorn's or hypercorn's; with `--reload` there is only one."""
    count = 1 if getattr(config, "should_reload", False) else getattr(config, "workers", 1)
    return count if isinstance(count, int) else 1
