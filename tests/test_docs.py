"""The documents say what the code does: their tables are compared with it, their commands are run."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from starlette.routing import Route

from config import DEFAULTS, Settings, default_text, variable
from pipeline_webserver import VERSION
from pipeline_webserver.api.error_table import CLIENT_DISCONNECTED, ERROR_TABLE, INTERNAL, ErrorFacts
from pipeline_webserver.api.tasks import TASKS
from server import create_app
from tests.e2e.test_clients import CASES
from tests.support.compare import assert_same
from tests.support.fakes import FakeRunner
from tests.support.process import Process
from tests.support.readme import README, ROOT, table
from tests.support.sentences import EMBEDDING


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


# Tables


def default_of(name: str) -> str:
    """As code, unless it is in words."""
    text = default_text(name)
    return text if name in DEFAULTS or text == "none" else f"`{text}`"


def test_the_table_of_settings_is_the_settings() -> None:
    wanted = [
        [f"`{variable(name)}`", default_of(name), field.description or ""]
        for name, field in Settings.model_fields.items()
    ]
    assert table("Settings") == wanted


def test_the_table_of_routes_is_the_routes() -> None:
    routes = [route for route in create_app(Settings(), FakeRunner()).routes if isinstance(route, Route)]
    wanted = [f"`{'POST' if 'POST' in (route.methods or ()) else 'GET'} {route.path}`" for route in routes]
    assert [row[0] for row in table("Routes")] == wanted


def test_the_table_of_errors_is_the_table_of_errors() -> None:
    def row(facts: ErrorFacts) -> list[str]:
        return [str(facts.status), f"`{facts.error_type}`", facts.meaning]

    rows, optional = table("Errors"), [row(INTERNAL), row(CLIENT_DISCONNECTED)]
    assert sorted(found for found in rows if found not in optional) == sorted(map(row, ERROR_TABLE.values()))


def test_the_table_of_tasks_is_the_tasks_their_bodies_parameters_and_the_clients_methods_that_are_tested() -> None:
    def body(name: str) -> str:
        task = TASKS[name]
        return "JSON only" if task.input_kind == "table" or task.required_parameters else task.input_kind

    wanted = [
        [
            f"`{name}`",
            body(name),
            ", ".join(f"`{parameter}`" for parameter in task.parameters),
            f"`{CASES[name][0]}`" if name in CASES else "none",
        ]
        for name, task in TASKS.items()
    ]
    assert [[*row[:3], row[4]] for row in table("Tasks")] == wanted


def test_the_table_of_metrics_is_the_metrics() -> None:
    ours = [metric for metric in REGISTRY.collect() if metric.name.startswith("pipeline_")]
    wanted = [f"`{metric.name}{'_total' if metric.type == 'counter' else ''}`" for metric in ours]
    assert sorted(row[0] for row in table("Metrics")) == sorted(wanted)


# Commands


def curl_examples() -> list[tuple[str, str]]:
    """Each curl line with the answer that is printed under it."""
    found = [block.split("\n", 1) for block in blocks("console")]
    return [(command.removeprefix("$ "), answer) for command, answer in found if command.startswith("$ curl")]


@pytest.mark.parametrize(("command", "answer"), curl_examples())
def test_a_curl_line_of_the_readme_gives_the_answer_that_stands_under_it(
    command: str, answer: str, bundled: Process
) -> None:
    words = [word.replace("http://localhost:8000", bundled.url) for word in shlex.split(command)]
    output = subprocess.run([*words, "--silent"], capture_output=True, text=True, check=True).stdout
    assert_same(json.loads(output), json.loads(answer), 1e-4)


def test_there_are_curl_lines_to_run() -> None:
    assert len(curl_examples()) >= 4


@pytest.mark.parametrize("code", blocks("python"))
def test_a_python_example_runs_and_prints_what_it_says(
    code: str, bundled: Process, every_task: Process, tmp_path: Path
) -> None:
    url = f"{every_task.url}/{EMBEDDING}" if "openai" in code else bundled.url
    script = tmp_path / "example.py"
    script.write_text(code.replace("http://localhost:8000", url))
    environment = {"HF_HUB_OFFLINE": "0", "PATH": ""}
    output = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, env=environment)
    printed = re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE)
    assert output.stdout.splitlines() == printed


def test_ci_runs_the_readmes_test_command_as_it_stands() -> None:
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    (serve,) = [line for line in commands if line.endswith("bin/uvicorn server:app")]
    (test,) = [line for line in commands if line.endswith("bin/pytest")]
    assert serve.startswith("python3 -m venv .venv && ")
    assert test.startswith("python3 -m venv .venv && ")
    assert "-c constraints.txt" in test
    assert test in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_contributing_guide_names_each_file_at_the_root() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    assert [path.name for path in ROOT.glob("*.py") if f"`{path.name}`" not in guide] == []


def test_the_changelog_has_the_version() -> None:
    assert f"## {VERSION}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_error_is_explained_in_one_sentence() -> None:
    for error, facts in ERROR_TABLE.items():
        assert error.__doc__
        assert facts.meaning.endswith(".")
