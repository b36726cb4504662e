"""The documents say what the code does: their tables are compared with it, their commands are run."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from prometheus_client import REGISTRY
from starlette.routing import Route

from benchmarks.report import number
from benchmarks.results import ModelResult
from benchmarks.results import read as read_results
from benchmarks.subjects import NAIVE, NAIVE_BATCHING, OURS
from config import CLUSTER_PREFIX, DEFAULTS, Settings, default_text, variable
from pipeline_webserver import VERSION
from pipeline_webserver.api.error_table import CLIENT_DISCONNECTED, ERROR_TABLE, INTERNAL, ErrorFacts
from pipeline_webserver.api.tasks import TASKS
from pipeline_webserver.inference.acceleration.last_layer import LastLayer
from pipeline_webserver.inference.acceleration.masked_head import MaskedHead
from pipeline_webserver.inference.acceleration.onednn import PrepackedWeights
from pipeline_webserver.inference.acceleration.unpadding import Unpadding
from server import create_app
from tests.e2e.test_clients import CASES
from tests.support.browser import Visit, running_browser
from tests.support.compare import assert_same
from tests.support.documents import DOCUMENTS, GUIDES, README, ROOT, Example, anchors, examples, links, table
from tests.support.fakes import FakeRunner
from tests.support.process import Process
from tests.support.sentences import EMBEDDING

INDEX = ROOT / "docs" / "index.md"

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
    assert table("docs/serve/settings.md", "All settings") == wanted


def test_the_table_of_routes_is_the_routes() -> None:
    routes = [route for route in create_app(Settings(), FakeRunner()).routes if isinstance(route, Route)]
    wanted = [f"`{'POST' if 'POST' in (route.methods or ()) else 'GET'} {route.path}`" for route in routes]
    assert [row[0] for row in table("docs/call/http.md", "Routes")] == wanted


def test_the_table_of_errors_is_the_table_of_errors() -> None:
    def row(facts: ErrorFacts) -> list[str]:
        return [str(facts.status), f"`{facts.error_type}`", facts.meaning]

    rows, optional = table("docs/call/http.md", "Errors"), [row(INTERNAL), row(CLIENT_DISCONNECTED)]
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
    assert [[*row[:3], row[4]] for row in table("docs/serve/tasks.md", "All tasks")] == wanted


def test_the_table_of_metrics_is_the_metrics() -> None:
    ours = [metric for metric in REGISTRY.collect() if metric.name.startswith("pipeline_")]
    wanted = [f"`{metric.name}{'_total' if metric.type == 'counter' else ''}`" for metric in ours]
    assert sorted(row[0] for row in table("docs/operate/monitoring.md", "Metrics")) == sorted(wanted)


def test_the_readme_names_each_task() -> None:
    section = README.read_text().split("\n## Tasks\n", 1)[1].split("\n\n", 1)[0]
    assert re.findall(r"`([\w-]+)`", section) == list(TASKS)


def test_the_table_of_optimizations_is_the_optimizations() -> None:
    wanted = [f"`{cls.name}`" for cls in (MaskedHead, Unpadding, LastLayer, PrepackedWeights)]
    assert [row[0] for row in table("docs/understand/optimizations.md", "All optimizations")] == wanted


def test_a_variable_of_ours_in_a_document_is_a_setting() -> None:
    known = {variable(name) for name in Settings.model_fields}
    found = {(file.name, name) for file in GUIDES for name in re.findall(r"\bPIPELINE_[A-Z_]+\w", file.read_text())}
    assert {(file, name) for file, name in found if name not in known and not name.startswith(CLUSTER_PREFIX)} == set()


# Figures


def figure(model: ModelResult, subject: str, workload: str, name: str = "texts_per_s") -> str:
    found = model.find(subject)
    assert found is not None
    return number(found.median(workload, name))


def test_the_figures_against_the_naive_server_are_those_of_the_run() -> None:
    ran = {model.name: model for model in read_results(ROOT / "benchmarks" / "results" / "results.json").models}
    alone, full, open_loop = "1 client", "32 clients", "80% of the naive capacity"
    wanted = [
        [
            *(figure(model, subject, full) for subject in (OURS, NAIVE, NAIVE_BATCHING)),
            f"{figure(model, OURS, alone)} / {figure(model, NAIVE, alone)}",
        ]
        for model in ran.values()
    ]
    assert [row[1:] for row in table("docs/understand/speed.md", "Against the naive servers")] == wanted
    bert = ran["bert-base"]
    three = [[figure(bert, subject, workload) for subject in (OURS, NAIVE)] for workload in (full, alone)]
    three.append([f"{figure(bert, subject, open_loop, 'p99_ms')} ms" for subject in (OURS, NAIVE)])
    rows = README.read_text().split("\n|---", 1)[1].split("\n\n", 1)[0].splitlines()[1:]
    assert [[cell.strip(" *") for cell in row.strip("|").split("|")[1:]] for row in rows] == three


# Commands


CURL_LINES = [example for example in examples("console") if example.code.startswith("$ curl")]


@pytest.mark.parametrize("example", CURL_LINES, ids=str)
def test_a_curl_line_gives_the_answer_that_stands_under_it(example: Example, bundled: Process) -> None:
    command, _, answer = example.code.removeprefix("$ ").partition("\n")
    words = [word.replace("http://localhost:8000", bundled.url) for word in shlex.split(command)]
    output = subprocess.run([*words, "--silent"], capture_output=True, text=True, check=True).stdout
    assert_same(json.loads(output), json.loads(answer), 1e-4)


def test_there_are_curl_lines_to_run_and_the_readme_has_one_of_them() -> None:
    assert len(CURL_LINES) >= 5
    assert README in {example.file for example in CURL_LINES}


@pytest.mark.parametrize("example", examples("python"), ids=str)
def test_a_python_example_runs_and_prints_what_it_says(
    example: Example, bundled: Process, every_task: Process, tmp_path: Path
) -> None:
    url = f"{every_task.url}/{EMBEDDING}" if "openai" in example.code else bundled.url
    script = tmp_path / "example.py"
    script.write_text(example.code.replace("http://localhost:8000", url))
    environment = {"HF_HUB_OFFLINE": "0", "PATH": "", "PYTHONPATH": str(ROOT)}
    output = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, env=environment)
    printed = re.findall(r"^ *print\(.*\)  # (.*)$", example.code, re.MULTILINE)
    assert output.stdout.splitlines() == printed


def test_ci_runs_the_readmes_test_command_as_it_stands() -> None:
    commands = [line for example in examples("sh") if example.file == README for line in example.code.splitlines()]
    (serve,) = [line for line in commands if line.startswith("python3 ") and line.endswith("bin/uvicorn server:app")]
    (test,) = [line for line in commands if line.endswith("bin/pytest")]
    assert test == serve.replace("-e .", '-e ".[dev]"').replace("uvicorn server:app", "pytest")
    assert "-c constraints.txt" in test
    assert test in (ROOT / ".ci" / "run").read_text().splitlines()


# Links


def dead_links(file: Path) -> list[str]:
    """The links to files and headings that are not there; those to other hosts are not followed."""
    found = []
    for link in links(file):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (file.parent / path).resolve() if path else file
        is_there = target.is_file() and (not anchor or anchor in anchors(target))
        if not is_there:
            found.append(link)
    return found


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_each_link_is_to_a_file_and_a_heading_that_is_there(file: Path) -> None:
    assert dead_links(file) == []


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A `b`, c\n")
    (tmp_path / "a.md").write_text(
        '# Here\n[1](other.md#a-b-c) [2](#here) ![3](no.png) [4](other.md#no) [5](#no)\n\n<img src="also-no.png">\n'
    )
    assert dead_links(tmp_path / "a.md") == ["no.png", "other.md#no", "#no", "also-no.png"]


def test_the_readme_is_short_and_each_page_is_reached_from_it() -> None:
    assert len(README.read_text().splitlines()) < 200
    reached = {(README.parent / link.partition("#")[0]).resolve() for link in links(README) if "://" not in link}
    assert [str(file.relative_to(ROOT)) for file in GUIDES if file not in reached | {README, INDEX}] == []
    index = {(INDEX.parent / link.partition("#")[0]).resolve() for link in links(INDEX) if "://" not in link}
    assert [str(file.relative_to(ROOT)) for file in GUIDES if file not in index | {INDEX}] == []


# The site


def foreign_resources(page: str) -> list[str]:
    """What a browser would load from another host to show the page."""
    tags = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", page)
    return [tag for tag in tags if re.search(r"""(?:src|href)=["']?(?:https?:)?//""", tag)]


def dead_in_site(pages: dict[Path, str]) -> list[tuple[str, str]]:
    """The links within the site to files and elements that are not there."""
    ids = {file: set(re.findall(r'\bid="([^"]*)"', page)) for file, page in pages.items()}
    found = []
    for file, page in pages.items():
        for link in re.findall(r'<(?:a|link|script|img)\b[^>]*?(?:href|src)="([^"]*)"', page):
            path, _, anchor = unquote(link).partition("#")
            if re.match(r"[a-z]+:", link):
                continue
            target = (file.parent / path.partition("?")[0]).resolve() if path else file
            if not target.is_file() or (anchor and anchor not in ids.get(target, ())):
                found.append((file.name, link))
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run([ROOT / "scripts" / "site", folder], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.mark.extended
def test_the_site_has_each_page_no_dead_link_and_loads_nothing_from_other_hosts(site: Path) -> None:
    pages = {file: file.read_text() for file in site.rglob("*.html")}
    assert {site / file.relative_to(ROOT).with_suffix(".html") for file in GUIDES} <= set(pages)
    assert {str(file): found for file, page in pages.items() if (found := foreign_resources(page))} == {}
    assert dead_in_site(pages) == []


@pytest.mark.extended
def test_the_search_of_the_site_finds_a_setting_without_a_server(site: Path) -> None:
    with running_browser() as browser:
        visit = Visit(browser.new_page())
        visit.page.goto(f"{(site / 'search.html').as_uri()}?q=PIPELINE_DRAIN_TIMEOUT_S")
        visit.wait_for("#search-results li a")
        assert "Settings" in visit.texts("#search-results li a")
        assert {url for url in visit.urls if not url.startswith("file:")} == set()


# The rest


def test_the_contributing_guide_names_each_file_at_the_root() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    assert [path.name for path in ROOT.glob("*.py") if f"`{path.name}`" not in guide] == []


def test_the_changelog_has_the_version() -> None:
    assert f"## {VERSION}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_error_is_explained_in_one_sentence() -> None:
    for error, facts in ERROR_TABLE.items():
        assert error.__doc__
        assert facts.meaning.endswith(".")
