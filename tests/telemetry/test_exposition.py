"""A scrape of any worker gives the metrics of all, in processes of their own: the client decides as it is imported."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline_webserver.telemetry import exposition
from pipeline_webserver.telemetry.shared_folder import VARIABLE
from tests.support.process import ROOT

WORKER = """
import sys
from pipeline_webserver.telemetry import metrics
metrics.set_state(sys.argv[1])
metrics.IN_FLIGHT.set(3)
metrics.REQUESTS.labels("/", 200, "").inc(5)
metrics.REQUEST_SECONDS.labels("/", 200).observe(0.02)
print("counted", flush=True)
sys.stdin.read()
"""
SCRAPE = "from pipeline_webserver.telemetry import exposition; print(exposition.latest().decode())"


def worker(folder: Path, state: str) -> subprocess.Popen[str]:
    """A process that has counted, and goes on until its input ends."""
    started = subprocess.Popen(
        [sys.executable, "-c", WORKER, state],
        cwd=ROOT,
        env={**os.environ, VARIABLE: str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "counted\n"
    return started


def scrape(folder: Path) -> dict[str, float]:
    """The samples of a scrape by another worker."""
    command, environment = [sys.executable, "-c", SCRAPE], {**os.environ, VARIABLE: str(folder)}
    text = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    return {name: float(value) for name, value in re.findall(r"^([a-z]\S*) (\S+)$", text, re.MULTILINE)}


def state(samples: dict[str, float]) -> set[str]:
    found = {re.search(r'pipeline_state="(\w+)"', name): value for name, value in samples.items()}
    return {match[1] for match, value in found.items() if match and value}


def test_a_scrape_of_any_worker_has_what_all_have_counted_and_the_gauges_of_those_alive(tmp_path: Path) -> None:
    first, second = worker(tmp_path, "serving"), worker(tmp_path, "stuck")
    both = scrape(tmp_path)
    assert both['pipeline_requests_total{error_type="",route="/",status="200"}'] == 10
    assert both['pipeline_request_seconds_bucket{le="0.025",route="/",status="200"}'] == 2
    assert both["pipeline_inputs_in_flight"] == 6
    assert state(both) == {"serving", "stuck"}
    second.communicate()
    one = scrape(tmp_path)
    first.communicate()
    assert one['pipeline_requests_total{error_type="",route="/",status="200"}'] == 10
    assert one["pipeline_inputs_in_flight"] == 3
    assert state(one) == {"serving"}
    if sys.platform == "linux":
        assert one["process_resident_memory_bytes"] < both["process_resident_memory_bytes"]
        assert one["process_start_time_seconds"] > 0


@pytest.mark.skipif(sys.platform != "linux", reason="the client reads the metrics of a process from /proc")
def test_several_processes_have_the_sum_of_their_memory_the_last_start_and_the_least_limit() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:

        def values(*pids: int) -> dict[str, float]:
            families = exposition.ProcessesCollector(set(pids)).collect()
            return {family.name: family.samples[0].value for family in families}

        ours, theirs, together = values(os.getpid()), values(other.pid), values(os.getpid(), other.pid)
        other.communicate(b"\n")
    assert together.keys() == ours.keys() == theirs.keys()
    assert together["process_resident_memory_bytes"] > max(
        ours["process_resident_memory_bytes"], theirs["process_resident_memory_bytes"]
    )
    assert together["process_start_time_seconds"] == theirs["process_start_time_seconds"]
    assert together["process_max_fds"] == min(ours["process_max_fds"], theirs["process_max_fds"])


def test_without_a_folder_the_metrics_are_those_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert b"python_info" in exposition.latest()
