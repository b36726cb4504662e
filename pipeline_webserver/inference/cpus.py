"""How many cores this process may use. It must never know what for."""

import math
import os
from collections.abc import Iterator
from pathlib import Path


def cores_by_quota(cpu_max: str) -> int | None:
    """Whole cores in a cgroup v2 `cpu.max` (`quota period`, microseconds, or `max period`); None when unlimited."""
    quota, _, period = cpu_max.strip().partition(" ")
    if quota in {"", "max", "-1"}:
        return None
    return max(1, math.floor(int(quota) / int(period or 100_000)))


def usable_cores(root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> int:
    """The cores this process may use: its CPU affinity, and the least quota of its cgroup and of those around it.

    That of a container is at the root of what the container sees; that of systemd's `CPUQuota` is in the unit's cgroup.
    `groups` has a line for each hierarchy: `number:controllers:path`, in v2 `0::path`.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        lines = []
    folders = {folder for line in [*lines, "0::/", "0:cpu:/"] for folder in _folders(root, line)}
    return min([affinity, *(quota for folder in folders if (quota := _quota(folder)) is not None)])


def _folders(root: Path, line: str) -> Iterator[Path]:
    """The folders in which a quota may be: of the cgroup in this line, and of all around it."""
    _, controllers, path = line.split(":", 2)
    if controllers and "cpu" not in controllers.split(","):
        return
    relative = Path(path.lstrip("/"))
    for base in [root / controllers, root / "cpu"] if controllers else [root, root / "unified"]:
        yield from (base / folder for folder in (relative, *relative.parents))


def _quota(folder: Path) -> int | None:
    """Of version 2, or else of version 1; None where there is none or no limit."""
    try:
        return cores_by_quota((folder / "cpu.max").read_text())
    except OSError:
        pass
    try:
        quota_us, period_us = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return cores_by_quota(f"{quota_us} {period_us}")
    except OSError:
        return None
