"""The machine and the packages a run was made with, without which its figures mean nothing.

Owns reading them from the system. It must never know what is measured.
"""

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.results import Machine

# The instructions that matrix products use, as `/proc/cpuinfo` names them.
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8", "asimd", "bf16")
PACKAGES = ("torch", "transformers", "starlette", "uvicorn", "uvloop", "httptools")


def _read(path: str) -> str:
    """A file of the system, empty where there is none."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _field(text: str, name: str) -> str | None:
    match = re.search(rf"^{name}\s*:\s*(.*)$", text, re.MULTILINE)
    return match and match[1].strip()


def rss_mb(pid: int) -> float | None:
    """The resident memory of a process, in MB of 10^6 bytes; None where the system does not report it."""
    resident = _field(_read(f"/proc/{pid}/status"), "VmRSS")
    return int(resident.split()[0]) * 1024 / 1e6 if resident else None


def children(pid: int) -> list[int]:
    """The children of a process; none where the system does not report them."""
    return [int(child) for child in _read(f"/proc/{pid}/task/{pid}/children").split()]


def load_average() -> float | None:
    """The number of threads that were ready to run in the last minute; None where the system does not report it."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe(cpuinfo: str, meminfo: str) -> Machine:
    """From the texts of `/proc/cpuinfo` and `/proc/meminfo`."""
    flags = (_field(cpuinfo, "flags") or _field(cpuinfo, "Features") or "").split()
    memory = _field(meminfo, "MemTotal")
    return Machine(
        processor=_field(cpuinfo, "model name") or platform.processor() or platform.machine(),
        cores=usable_cores(),
        memory_gb=round(int(memory.split()[0]) * 1024 / 1e9, 1) if memory else None,
        instructions=[flag for flag in INSTRUCTIONS if flag in flags],
        system=f"{platform.system()} {platform.machine()}",
    )


def this_machine() -> Machine:
    return describe(_read("/proc/cpuinfo"), _read("/proc/meminfo"))


def versions() -> dict[str, str]:
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed
