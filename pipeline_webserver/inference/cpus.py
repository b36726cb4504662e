"""How many cores this process may use. It must never know what for."""

import math
import os
from pathlib import Path


def cores_by_quota(cpu_max: str) -> int | None:
    """Whole cores in a cgroup v2 `cpu.max` (`quota period`, microseconds, or `max period`); None when unlimited."""
    quota, _, period = cpu_max.strip().partition(" ")
    if quota in {"", "max", "-1"}:
        return None
    return max(1, math.floor(int(quota) / int(period or 100_000)))


def usable_cores(root: Path = Path("/sys/fs/cgroup")) -> int:
    """The cores this process may use: its CPU affinity, and the container's quota (cgroup v2, then v1)."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(root)
    return affinity if quota is None else min(affinity, quota)


def _quota(root: Path) -> int | None:
    try:
        return cores_by_quota((root / "cpu.max").read_text())
    except OSError:
        pass
    try:
        quota_us, period_us = (
            (root / "cpu" / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period")
        )
        return cores_by_quota(f"{quota_us} {period_us}")
    except OSError:
        return None
