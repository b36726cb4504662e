"""The folder through which workers share their metrics: prometheus_client's multiprocess mode, without an operator.

Its name is that of the workers' parent, so that each worker finds it, and each start has a fresh one. It must never
import prometheus_client, which reads the variable as it is imported, or know what is counted.
"""

import logging
import os
import shutil
import tempfile
from pathlib import Path

from pipeline_webserver.workers import Workers, find_workers

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
PREFIX = "pipeline-webserver-metrics-"

logger = logging.getLogger(__name__)


def share_among_workers() -> None:
    """Set the variable, where there are several workers and the operator has not set it."""
    if chosen := os.environ.pop(VARIABLE, ""):  # an empty one means this folder to the client
        os.environ[VARIABLE] = chosen
        _make_chosen(Path(chosen))
    elif workers := find_workers():
        try:
            folder = _make(workers)
        except OSError as error:
            logger.warning(
                "A scrape of /metrics reaches one worker of %d: no folder to share: %s", workers.count, error
            )
            return
        os.environ[VARIABLE] = str(folder)
        remove_left_over(folder.parent)


def _make_chosen(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemExit(f"pipeline-webserver: {VARIABLE} must be a folder: {error}") from error


def _make(workers: Workers) -> Path:
    """The folder that the workers share; where all users may write, its name could be another user's, or a link."""
    folder = Path(tempfile.gettempdir()) / f"{PREFIX}{workers.parent_pid}-{started(workers.parent_pid)}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or (hasattr(os, "getuid") and folder.stat().st_uid != os.getuid()):
        raise PermissionError(f"{folder} belongs to another user")
    if workers.uid != -1:  # the parent makes it, for workers that may have another user (gunicorn's `--user`)
        os.chown(folder, workers.uid, workers.gid)
    return folder


def remove_left_over(parent: Path) -> None:
    """Remove the folders of servers that have ended."""
    for folder in parent.glob(f"{PREFIX}*-*"):
        pid, _, start = folder.name.removeprefix(PREFIX).partition("-")
        if pid.isdecimal() and (not is_running(int(pid)) or started(int(pid)) != start):
            shutil.rmtree(folder, ignore_errors=True)


def is_running(pid: int) -> bool:
    """Whether there is a process of this id, of whichever user."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def started(pid: int) -> str:
    """When a process started, in ticks since the boot: ids are used again. 0 where the system does not say."""
    try:
        # After the name of the program, which may hold anything, in parentheses.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return "0"
