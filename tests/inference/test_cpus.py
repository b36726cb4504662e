"""The cores that this process may use."""

import os
from pathlib import Path

import pytest

from pipeline_webserver.inference.cpus import cores_by_quota, usable_cores


@pytest.mark.parametrize(
    ("text", "cores"),
    [("max 100000\n", None), ("200000 100000\n", 2), ("150000 100000", 1), ("50000 100000", 1), ("-1 100000", None)],
)
def test_a_quota_is_whole_cores_and_at_least_one(text: str, cores: int | None) -> None:
    assert cores_by_quota(text) == cores


AFFINITY = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
UNIT = "system.slice/pipeline.service"


def cores(tmp_path: Path, files: dict[str, str], groups: str = "0::/\n") -> int:
    """With these files of cgroups, and this `/proc/self/cgroup`."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "groups").write_text(groups)
    return usable_cores(tmp_path, tmp_path / "groups")


ONE_V1 = {"cpu.cfs_quota_us": "100000\n", "cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("files", "groups"),
    [
        ({"cpu.max": "100000 100000\n"}, "0::/\n"),
        ({"cpu.max": "150000 100000\n"}, "0::/docker/abc\n"),  # the container sees its own cgroup as the root
        ({f"{UNIT}/cpu.max": "50000 100000\n"}, f"0::/{UNIT}\n"),
        ({"system.slice/cpu.max": "100000 100000\n", f"{UNIT}/cpu.max": "max 100000\n"}, f"0::/{UNIT}\n"),
        ({f"unified/{UNIT}/cpu.max": "100000 100000\n"}, f"4:memory:/\n0::/{UNIT}\n"),
        ({f"cpu/{name}": text for name, text in ONE_V1.items()}, "4:cpu,cpuacct:/\n"),
        ({f"cpu,cpuacct/{UNIT}/{name}": text for name, text in ONE_V1.items()}, f"4:cpu,cpuacct:/{UNIT}\n"),
        ({f"cpu/{UNIT}/{name}": text for name, text in ONE_V1.items()}, f"7:cpuset:/\n4:cpuacct,cpu:/{UNIT}\n"),
    ],
)
def test_a_quota_of_the_container_of_the_systemd_unit_or_of_what_is_around_it_bounds_the_cores(
    tmp_path: Path, files: dict[str, str], groups: str
) -> None:
    assert cores(tmp_path, files, groups) == 1


@pytest.mark.parametrize(
    ("files", "groups"),
    [
        ({}, "0::/\n"),
        ({"cpu.max": "max 100000\n"}, "0::/\n"),
        ({"cpu.max": "9900000 100000\n"}, f"0::/{UNIT}\n"),
        ({"other.slice/cpu.max": "100000 100000\n"}, f"0::/{UNIT}\n"),
        ({f"cpuset/{UNIT}/cpu.max": "100000 100000\n"}, f"7:cpuset:/{UNIT}\n"),
    ],
)
def test_without_a_quota_of_its_own_a_process_may_use_the_cores_of_its_affinity(
    tmp_path: Path, files: dict[str, str], groups: str
) -> None:
    assert cores(tmp_path, files, groups) == AFFINITY


def test_without_cgroups_the_cores_are_those_of_the_affinity(tmp_path: Path) -> None:
    assert usable_cores(tmp_path, tmp_path / "missing") == AFFINITY
