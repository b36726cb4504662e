"""The noise: how many cores something else took while a measurement ran, other processes and the host of the machine.

Owns the reckoning with `/proc`. It must never know what is measured.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from time import perf_counter

QUIET_CORES = 0.1


def busy_ticks(stat: str) -> int:
    """From `/proc/stat`: of all cores, the time that was not idle; a virtual machine's stolen time is among it."""
    user, nice, system, _, _, irq, softirq, steal = (int(value) for value in stat.split("\n", 1)[0].split()[1:9])
    return user + nice + system + irq + softirq + steal


def own_ticks(stat: str) -> int:
    """From `/proc/PID/stat`: what this process used. Its name may hold anything, brackets too."""
    fields = stat.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def others_ticks(pids: Iterable[int]) -> int | None:
    """What was used by none of these processes; None where the system does not tell, or one has ended."""
    try:
        own = sum(own_ticks(Path(f"/proc/{pid}/stat").read_text()) for pid in pids)
        return busy_ticks(Path("/proc/stat").read_text()) - own
    except OSError:
        return None


class Noise:
    """From when it is made, what all but these processes use."""

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
