"""A module's neighbours are found beside it, whatever else has their names."""

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline_webserver.neighbours import neighbours_of

ROOT = Path(__file__).parent.parent


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A file with two neighbours, in a folder that is no place for imports; a user's modules of the same names are."""
    for folder in ("ours", "users"):
        (tmp_path / folder).mkdir()
        for name in ("neighbour_a", "neighbour_b"):
            (tmp_path / folder / f"{name}.py").write_text(f"OWNER = {folder!r}")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "users"), *sys.path])
    yield str(tmp_path / "ours" / "main.py")
    for name in ("neighbour_a", "neighbour_b"):
        sys.modules.pop(name, None)


def owner(name: str) -> str:
    found: str = importlib.import_module(name).OWNER
    return found


def test_an_import_inside_is_of_the_neighbour_and_one_behind_it_too(ours: str) -> None:
    with neighbours_of(ours, "neighbour_a"):
        assert owner("neighbour_a") == "ours"
    assert owner("neighbour_a") == "ours"


def test_a_name_that_is_not_given_is_found_as_always(ours: str) -> None:
    with neighbours_of(ours, "neighbour_a"):
        assert owner("neighbour_b") == "users"


def test_outside_nothing_has_changed(ours: str) -> None:
    before = list(sys.meta_path)
    with pytest.raises(ZeroDivisionError), neighbours_of(ours, "neighbour_a"):
        raise ZeroDivisionError
    assert sys.meta_path == before
    assert owner("neighbour_a") == "users"


def test_a_users_module_that_was_imported_before_stays_with_those_that_have_it(ours: str) -> None:
    users = importlib.import_module("neighbour_a")
    with neighbours_of(ours, "neighbour_a"):
        assert owner("neighbour_a") == "ours"
    assert users.OWNER == "users"


def test_a_neighbour_that_was_imported_before_is_not_imported_twice(ours: str) -> None:
    with neighbours_of(ours, "neighbour_a"):
        first = importlib.import_module("neighbour_a")
    with neighbours_of(ours, "neighbour_a"):
        assert importlib.import_module("neighbour_a") is first


@pytest.mark.extended
def test_the_server_starts_in_a_folder_with_a_config_and_a_batching_of_the_users(tmp_path: Path) -> None:
    for name in ("config", "batching"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the file of a user')")
    # As `uvicorn server:app` does it where the server is installed: the working directory comes first.
    code = "import sys, server; print(sys.path[0] == '', server.Settings(), server.Batcher)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert output.startswith("True model=None")
