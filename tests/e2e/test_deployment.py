"""The container and the Kubernetes objects agree with the code: ports, paths, variables, times."""

import itertools
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import kubernetes_validate
import pytest
import yaml  # type: ignore[import-untyped]
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from prometheus_client import REGISTRY
from starlette.routing import Route

from config import Settings, variable
from pipeline_webserver import VERSION
from pipeline_webserver.inference.loading import BUNDLED_MODEL
from server import create_app
from tests.support.fakes import FakeRunner
from tests.support.process import ROOT, serving

DOCKERFILE = (ROOT / "Dockerfile").read_text()
OBJECTS = {
    found["kind"]: found
    for file in sorted((ROOT / "deploy").glob("*.yaml"))
    for found in yaml.safe_load_all(file.read_text())
}
POD = OBJECTS["Deployment"]["spec"]["template"]
(SERVER,) = POD["spec"]["containers"]
PROBES = {name: SERVER[name] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
VARIABLES = {item["name"]: item["value"] for item in SERVER["env"]}


def instructions(name: str) -> list[str]:
    """The arguments of each such instruction, in order, its lines joined; comments between them are none."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    return [" ".join(found.split()) for found in re.findall(rf"^{name} (.*)$", text, re.MULTILINE)]


def copied() -> set[str]:
    """What of this folder the image is made of."""
    return {word for line in instructions("COPY") if "--from" not in line for word in line.split()[:-1]}


# What is installed


def test_the_constraints_have_an_allowed_version_of_each_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *itertools.chain.from_iterable(project["optional-dependencies"].values())]
    pinned = [line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#"]
    versions = dict(pinned) | {"pipeline-webserver": VERSION}
    wanted = {canonicalize_name(found.name): found.specifier for found in map(Requirement, lines)}
    assert wanted.keys() <= versions.keys()
    assert [name for name, allowed in wanted.items() if not allowed.contains(versions[name])] == []


# The container


def test_the_image_serves_on_the_port_that_it_exposes_and_checks() -> None:
    command = json.loads(instructions("CMD")[-1])
    assert command == ["uvicorn", "server:app", "--host", "0.0.0.0", "--port", "8000"]
    assert instructions("EXPOSE") == ["8000"]
    assert "http://127.0.0.1:8000/health" in instructions("HEALTHCHECK")[0]


def test_the_image_runs_as_an_unprivileged_user_the_one_that_kubernetes_names() -> None:
    security = POD["spec"]["securityContext"]
    assert instructions("USER") == [f"{security['runAsUser']}:{security['runAsGroup']}"]
    assert security["runAsNonRoot"] is True


def test_the_image_sets_settings_that_there_are() -> None:
    names = set(re.findall(r"\b(PIPELINE_[A-Z_]+)=", instructions("ENV")[-1]))
    assert names == {"PIPELINE_LOG_FORMAT"}
    assert names <= {variable(name) for name in Settings.model_fields}


def test_all_that_is_copied_is_in_the_context_and_is_there() -> None:
    context = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert context[0] == "*"
    assert copied() == {line.removeprefix("!") for line in context[1:]}
    assert all((ROOT / name).exists() for name in copied())


def test_all_of_the_server_is_copied_and_the_bundled_model_with_it() -> None:
    assert {"server.py", "batching.py", "config.py", "pipeline_webserver"} <= copied()
    assert Path(BUNDLED_MODEL).is_relative_to(ROOT / "pipeline_webserver")


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    found = subprocess.run([hadolint, ROOT / "Dockerfile"], check=False, capture_output=True, text=True)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_the_image_installs_what_the_server_needs_for_every_task(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (step,) = [line for line in instructions("RUN") if "tomllib" in line]
    listing = step.partition(" > ")[0].replace("python", sys.executable, 1)
    printed = subprocess.run(listing, shell=True, cwd=tmp_path, check=True, capture_output=True, text=True)  # noqa: S602
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert printed.stdout.splitlines() == [*project["dependencies"], *extras["media"], *extras["tables"]]


def test_the_image_has_the_versions_that_are_tested() -> None:
    (step,) = [line for line in instructions("RUN") if "pip install" in line]
    assert "-c constraints.txt" in step.partition("pip install")[2]


@pytest.mark.extended
def test_what_is_copied_is_all_it_takes_to_serve_and_to_be_found_healthy(tmp_path: Path) -> None:
    for line in instructions("COPY"):
        *sources, target = line.split()
        if "--from" not in line:
            for found in (found for source in sources for found in ROOT.glob(source)):
                (shutil.copytree if found.is_dir() else shutil.copy)(found, tmp_path / target)
    check = json.loads(instructions("HEALTHCHECK")[0].partition(" CMD ")[2])
    variables = dict(word.split("=") for word in instructions("ENV")[-1].split() if not word.startswith("PATH"))
    with serving(f"server:app --app-dir {tmp_path}", **variables) as process:
        answer = httpx2.post(process.url, content="albert einstein was a [MASK] physicist.").json()
        assert answer[0]["token_str"] == "german"
        assert httpx2.get(process.url, headers={"Accept": "text/html"}).status_code == 200
        asked = [sys.executable, *(word.replace("8000", process.url.rpartition(":")[2]) for word in check[1:])]
        assert subprocess.run(asked, check=False).returncode == 0
    assert subprocess.run(asked, check=False, capture_output=True).returncode == 1


# Kubernetes


@pytest.mark.parametrize("kind", ["Deployment", "Service", "PodDisruptionBudget"])
def test_the_objects_are_valid_and_have_no_field_that_kubernetes_does_not_know(kind: str) -> None:
    kubernetes_validate.validate(OBJECTS[kind], kubernetes_validate.latest_version(), strict=True)


def test_each_probe_asks_a_route_that_needs_no_key_on_the_port_of_the_server() -> None:
    routes = {route.path for route in create_app(Settings(), FakeRunner()).routes if isinstance(route, Route)}
    paths = {name: probe["httpGet"]["path"] for name, probe in PROBES.items()}
    assert paths == {"startupProbe": "/ready", "livenessProbe": "/health", "readinessProbe": "/ready"}
    assert {"/ready", "/health"} <= routes
    assert {probe["httpGet"]["port"] for probe in PROBES.values()} == {"http"}


def test_the_ports_are_those_of_the_image() -> None:
    assert SERVER["ports"] == [{"name": "http", "containerPort": int(instructions("EXPOSE")[0])}]
    assert [port["targetPort"] for port in OBJECTS["Service"]["spec"]["ports"]] == ["http"]
    assert POD["metadata"]["annotations"]["prometheus.io/port"] == instructions("EXPOSE")[0]


def test_the_variables_are_settings_with_values_that_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(VARIABLES) <= {variable(name) for name in Settings.model_fields}
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    assert Settings().exit_on_failure is True


def test_the_pod_has_more_time_to_end_than_the_server_takes() -> None:
    drain_s = float(VARIABLES["PIPELINE_DRAIN_TIMEOUT_S"])
    word, pause_s = SERVER["lifecycle"]["preStop"]["exec"]["command"]
    assert word == "sleep"
    assert POD["spec"]["terminationGracePeriodSeconds"] >= float(pause_s) + drain_s + 5


def test_no_request_is_routed_to_a_pod_that_terminates() -> None:
    """It may take its readiness probe to find out what the removal of the endpoint has told everyone else."""
    assert float(SERVER["lifecycle"]["preStop"]["exec"]["command"][1]) >= PROBES["readinessProbe"]["periodSeconds"]


def test_requests_and_limits_are_the_same_and_leave_the_threads_to_the_server() -> None:
    assert SERVER["resources"]["requests"] == SERVER["resources"]["limits"]
    assert int(SERVER["resources"]["limits"]["cpu"]) >= 1
    assert "PIPELINE_THREADS" not in VARIABLES


def selectors() -> Iterator[dict[str, Any]]:
    yield OBJECTS["Deployment"]["spec"]["selector"]["matchLabels"]
    yield OBJECTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]
    yield OBJECTS["Service"]["spec"]["selector"]
    yield POD["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"]


def test_every_selector_finds_the_pods() -> None:
    for selector in selectors():
        assert selector.items() <= POD["metadata"]["labels"].items()


def test_the_autoscaler_keeps_a_quarter_of_a_batch_in_flight_in_each_pod_by_a_metric_that_there_is() -> None:
    scaler = OBJECTS["ScaledObject"]["spec"]
    (trigger,) = scaler["triggers"]
    asked = set(re.findall(r"\bpipeline_\w+", trigger["metadata"]["query"]))
    assert asked <= {metric.name for metric in REGISTRY.collect()}
    assert asked == {"pipeline_inputs_in_flight"}
    assert int(trigger["metadata"]["threshold"]) == Settings().max_batch_size / 4
    assert scaler["scaleTargetRef"]["name"] == OBJECTS["Deployment"]["metadata"]["name"]
    assert "replicas" not in OBJECTS["Deployment"]["spec"]
