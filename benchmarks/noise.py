"""The noise: how many cores other processes, or the host of the machine, took while a measurement ran.

Owns what is computed from `/proc`. It must never know what is measured.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from time import perf_counter

QUIET_CORES = 0.1


def busy_ticks(stat: str) -> int:
    """From `/proc/stat`: the busy time of all cores, including the time that the host of a virtual machine stole."""
    user, nice, system, _, _, irq, softirq, steal = (int(value) for value in stat.split("\n", 1)[0].split()[1:9])
    return user + nice + system + irq + softirq + steal


def own_ticks(stat: str) -> int:
    """From `/proc/PID/stat`: what this process used. Its name may contain anything, including parentheses."""
    fields = stat.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def others_ticks(pids: Iterable[int]) -> int | None:
    """What other processes used; None where the system does not report it, or one of `pids` has ended."""
    try:
        own = sum(own_ticks(Path(f"/proc/{pid}/stat").read_text()) for pid in pids)
        return busy_ticks(Path("/proc/stat").read_text()) - own
    except OSError:
        return None


class Noise:
    """What processes other than these use, from when it is created."""

    def __init__(self, pids: Sequence[int]) -> None:
        self.pids = pids
        self._began = others_ticks(pids)
        self._began_s = perf_counter()

    def cores(self) -> float | None:
        """How many cores, on average."""
        ended, seconds = others_ticks(self.pids), perf_counter() - self._began_s
        if self._began is None or ended is None or not seconds:
            return None
        return max(0.0, (ended - self._began) / os.sysconf("SC_CLK_TCK") / seconds)
