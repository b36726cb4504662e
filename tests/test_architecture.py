"""The layout keeps its rules: imports run one way, installed names shadow nothing, each file says what it owns."""

import ast
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pipeline_webserver"
INSTALLED = {"server", "batching", "config", "pipeline_webserver"}
MODULES = [*ROOT.glob("*.py"), *PACKAGE.rglob("*.py"), *(ROOT / "deploy").glob("*.py")]
# What the files at the root must never import: nothing above them, and what is none of their business.
MUST_NOT_IMPORT = {
    "config.py": {"deploy", "server", "batching", "pipeline_webserver"},
    "batching.py": {"deploy", "server", "config", "starlette", "uvicorn", "torch", "transformers", "json", "orjson"}
    | {"pydantic", "pydantic_settings"}
    | {f"pipeline_webserver.{room}" for room in ("web", "api", "inference")},
    "server.py": {"deploy", "torch", "transformers"},
    "deploy/ray_serve.py": {"batching", "torch", "transformers", "asyncio"},
}
# Tested through those that use them, or under another name.
TESTED_IN = {
    "deploy/ray_serve.py": "tests/e2e/test_ray_serve.py",
    "pipeline_webserver/model_info.py": "tests/api/test_schemas.py",
    "pipeline_webserver/inference/generation/generations.py": "tests/inference/generation/test_engine.py",
    "pipeline_webserver/inference/generation/own_attention.py": "tests/inference/generation/test_step_model.py",
    "pipeline_webserver/inference/generation/packed_attention.py": "tests/inference/generation/test_step_model.py",
    "pipeline_webserver/scheduling/arrivals.py": "tests/test_batching.py",
    "pipeline_webserver/scheduling/entry.py": "tests/scheduling/test_admission.py",
    "pipeline_webserver/scheduling/runner.py": "tests/test_batching.py",
    "pipeline_webserver/scheduling/serving_loop.py": "tests/test_batching.py",
    "pipeline_webserver/scheduling/step_runner.py": "tests/scheduling/test_continuous.py",
    "pipeline_webserver/telemetry/metrics.py": "tests/telemetry/test_monitoring.py",
    "pipeline_webserver/web/uvicorn_process.py": "tests/e2e/test_end_to_end.py",
}


def imports_of(file: Path) -> set[str]:
    """Each name that stands after an import, with and without what is taken from it."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_the_package_keeps_the_import_rules_of_pyproject() -> None:
    # In a process of its own: it sets up logging, and turns off the loggers that are there.
    linter = str(Path(sys.executable).parent / "lint-imports")
    command = [linter, "--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("file", MUST_NOT_IMPORT)
def test_a_file_at_the_root_does_not_import_what_it_must_never_know(file: str) -> None:
    names = imports_of(ROOT / file)
    found = {name for name in names for other in MUST_NOT_IMPORT[file] if f"{name}.".startswith(f"{other}.")}
    assert not found


def test_every_module_opens_with_what_it_owns() -> None:
    words = {file: len((ast.get_docstring(ast.parse(file.read_text())) or "").split()) for file in MODULES}
    assert [str(file.relative_to(ROOT)) for file, count in words.items() if count <= 10] == []


def test_the_installed_names_are_these_four_and_shadow_nothing() -> None:
    owners = importlib.metadata.packages_distributions()
    assert {name for name, found in owners.items() if "pipeline-webserver" in found} == INSTALLED
    assert {name: owners[name] for name in INSTALLED if set(owners[name]) != {"pipeline-webserver"}} == {}
    assert not INSTALLED & sys.stdlib_module_names


def test_every_module_has_its_tests_in_the_same_place() -> None:
    names = {str(file.relative_to(ROOT)) for file in MODULES if file.name != "__init__.py"}
    usual = {name: Path("tests", name.removeprefix("pipeline_webserver/")) for name in names}
    found = {name for name, path in usual.items() if (ROOT / path.with_name(f"test_{path.name}")).is_file()}
    assert sorted(names - found) == sorted(TESTED_IN)
    assert [path for path in TESTED_IN.values() if not (ROOT / path).is_file()] == []


def test_the_guide_has_a_line_for_each_package_and_for_no_other() -> None:
    found = re.findall(r"^\| `(pipeline_webserver/[\w/]*)` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert sorted(found) == sorted(f"{file.parent.relative_to(ROOT)}/" for file in PACKAGE.rglob("__init__.py"))
