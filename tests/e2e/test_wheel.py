"""What is built is all that is needed and nothing else, and serves in a folder that is not ours.

`WHEEL_VENV` names a virtual environment in which the wheel is installed already, with its dependencies. Without it, the
wheel is built from the files as they are and installed beside the dependencies of these tests.
"""

import os
import shutil
import site
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from pipeline_webserver import VERSION
from tests.support.process import QUICK, ROOT, start

pytestmark = pytest.mark.extended
MODULES = {"server.py", "batching.py", "config.py"}
METADATA = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt", "licenses/LICENSE"}
PROJECT = {"LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg"}


def package_files() -> set[str]:
    """Each file of the package: modules, what browsers load, the model."""
    files = (file for file in (ROOT / "pipeline_webserver").rglob("*") if file.is_file())
    return {str(file.relative_to(ROOT)) for file in files if "__pycache__" not in file.parts}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel and an sdist, built from a copy: the tree may hold what other builds have left."""
    source, target = tmp_path_factory.mktemp("source") / "tree", tmp_path_factory.mktemp("built")
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist"))
    command = [sys.executable, "-m", "build", "--no-isolation", f"--outdir={target}", str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return target


@pytest.fixture(scope="module")
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a virtual environment with the wheel."""
    if ready := os.environ.get("WHEEL_VENV"):
        return Path(ready).resolve() / "bin"
    (wheel,) = request.getfixturevalue("built").glob("*.whl")
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False)
    pip = [sys.executable, "-m", "pip", f"--python={folder}/bin/python"]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", wheel], check=True, capture_output=True)
    # A plain path: the link to our own files that lies there, too, is not followed.
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    return folder / "bin"


@pytest.fixture(params=["an empty folder", "a folder with modules of its own"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where the server is started."""
    if request.param != "an empty folder":
        for name in ("config.py", "batching.py"):
            (tmp_path / name).write_text('raise SystemExit("not ours")')
    return tmp_path


def assert_serves(command: list[str | Path], folder: Path) -> None:
    """A server that is started by this command, in this folder, answers and ends well."""
    process = start(command, QUICK, folder)
    try:
        process.wait_until_serving()
        assert process.post("test [MASK]").json()[0]["sequence"] == "test."
        page = process.client.get("/", headers={"Accept": "text/html"})
        assert page.text.startswith("<!doctype html>")
        process.terminate()
        assert process.exit_status() == 0
    finally:
        process.end()


def test_the_wheel_holds_the_three_modules_the_whole_package_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    metadata = {f"pipeline_webserver-{VERSION}.dist-info/{name}" for name in METADATA}
    with zipfile.ZipFile(wheel) as archive:
        assert set(archive.namelist()) == MODULES | package_files() | metadata
        assert archive.read(f"pipeline_webserver-{VERSION}.dist-info/top_level.txt").split() == [
            b"batching",
            b"config",
            b"pipeline_webserver",
            b"server",
        ]


def test_the_sdist_holds_what_the_wheel_is_made_of_and_nothing_else(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        files = {member.name.partition("/")[2] for member in archive if member.isfile()}
    generated = {name for name in files if name.startswith("pipeline_webserver.egg-info/")}
    assert files - generated == MODULES | package_files() | PROJECT


def test_the_command_serves_the_bundled_model(installed: Path, folder: Path) -> None:
    assert_serves([installed / "pipeline-webserver", "--port", "0"], folder)


def test_uvicorn_serves_the_bundled_model(installed: Path, folder: Path) -> None:
    assert_serves([installed / "python", "-m", "uvicorn", "server:app", "--port", "0"], folder)


def test_the_command_explains_each_setting(installed: Path, folder: Path) -> None:
    command = [str(installed / "pipeline-webserver"), "--help"]
    text = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
    assert "PIPELINE_MODEL" in text
    assert "--model" in text
