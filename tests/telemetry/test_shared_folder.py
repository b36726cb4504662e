"""Workers find one folder for their metrics, and each start a fresh one."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pipeline_webserver.telemetry.shared_folder import (
    PREFIX,
    VARIABLE,
    is_running,
    remove_left_over,
    share_among_workers,
    started,
)
from tests.support.process import ROOT
from tests.test_workers import GID, UID, called_in

SHARE = "from pipeline_webserver.telemetry.shared_folder import share_among_workers; share_among_workers()"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv(VARIABLE, "as it was")  # and so it will be
    monkeypatch.delenv(VARIABLE)
    return tmp_path


def share() -> str | None:
    share_among_workers()
    return os.environ.get(VARIABLE)


@pytest.mark.parametrize("before", [{}, {VARIABLE: ""}])
def test_without_workers_nothing_is_shared(temporary: Path, before: dict[str, str]) -> None:
    os.environ.update(before)
    assert share() is None
    assert list(temporary.iterdir()) == []


def test_all_workers_of_a_parent_share_a_folder_that_only_their_user_may_read(temporary: Path) -> None:
    first = called_in("gunicorn.workers.base", share, 2)
    del os.environ[VARIABLE]
    assert called_in("gunicorn.workers.base", share, 2) == first
    assert first == str(temporary / f"{PREFIX}{os.getppid()}-{started(os.getppid())}")
    assert Path(first).stat().st_mode & 0o777 == 0o700


def test_a_parent_that_imports_the_app_makes_the_folder_for_the_user_of_its_workers(temporary: Path) -> None:
    folder = called_in("gunicorn.arbiter", share, 2)
    assert folder == str(temporary / f"{PREFIX}{os.getpid()}-{started(os.getpid())}")
    assert (Path(folder).stat().st_uid, Path(folder).stat().st_gid) == (UID, GID)


def test_what_ended_servers_have_left_is_removed_and_nothing_else(temporary: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    alive = f"{PREFIX}{os.getpid()}-{started(os.getpid())}"
    for name in (f"{PREFIX}{ended.pid}-5", f"{PREFIX}{os.getpid()}-0", alive, "another"):
        (temporary / name).mkdir()
    (temporary / f"{PREFIX}{ended.pid}-5" / "counter_1.db").touch()
    remove_left_over(temporary)
    assert {folder.name for folder in temporary.iterdir()} == {alive, "another"}


def test_a_folder_of_another_user_or_a_link_to_one_is_not_used(
    temporary: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (temporary / "theirs").mkdir()
    (temporary / f"{PREFIX}{os.getppid()}-{started(os.getppid())}").symlink_to(temporary / "theirs")
    assert called_in("gunicorn.workers.base", share, 2) is None
    assert "A scrape of /metrics reaches one worker of 2: no folder to share:" in caplog.text


def test_the_folder_that_the_operator_names_is_made_and_used(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(temporary / "a" / "b"))
    assert called_in("gunicorn.workers.base", share, 2) == str(temporary / "a" / "b")
    assert (temporary / "a" / "b").is_dir()


def test_a_folder_that_cannot_be_made_stops_the_start_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    environment = {**os.environ, VARIABLE: str(tmp_path / "file")}
    ended = subprocess.run(
        [sys.executable, "-c", SHARE], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"pipeline-webserver: {VARIABLE} must be a folder: ")
    assert ended.stderr.count("\n") == 1


def test_a_process_is_told_from_an_ended_one_and_from_one_of_the_same_id() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert (is_running(os.getpid()), is_running(1), is_running(ended.pid)) == (True, True, False)
    assert started(ended.pid) == "0"
