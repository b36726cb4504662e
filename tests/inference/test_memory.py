"""The memory that is left: what the system says, or the limit of a container if that is less."""

from pathlib import Path

import pytest
import torch

from pipeline_webserver.inference.memory import available_bytes

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("limit", "used", "expected"),
    [("3000000", "1000000", 2_000_000), ("max", "1", 4_096_000), ("1", "5", 0), (None, None, 4_096_000)],
)
def test_it_is_the_least_of_what_the_system_and_the_container_have(
    limit: str | None, used: str | None, expected: int, tmp_path: Path
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemFree: 1 kB\nMemAvailable:    4000 kB\n")
    if limit is not None and used is not None:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text(f"{used}\n")
    assert available_bytes(CPU, tmp_path / "meminfo", tmp_path) == expected


def test_where_nothing_says_it_is_unknown(tmp_path: Path) -> None:
    assert available_bytes(CPU, tmp_path / "meminfo", tmp_path) is None
