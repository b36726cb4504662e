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


def test_the_usable_cores_are_the_affinity_under_the_quota_of_either_cgroup_version(tmp_path: Path) -> None:
    affinity = len(os.sched_getaffinity(0))
    assert usable_cores(tmp_path) == affinity
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("100000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores(tmp_path) == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert usable_cores(tmp_path) == affinity
    (tmp_path / "cpu.max").write_text("9900000 100000\n")
    assert usable_cores(tmp_path) == affinity
