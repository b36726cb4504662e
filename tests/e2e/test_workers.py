"""Several workers of real servers: they share the cores, and a scrape of any of them has what all have counted."""

import importlib.util
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from pipeline_webserver.inference.cpus import usable_cores
from tests.support.compare import assert_same
from tests.support.process import Process, start, start_uvicorn, until

SCRAPES = 6
COUNTED = 'pipeline_requests_total{error_type="",route="/",status="200"}'
HAS_GUNICORN = all(importlib.util.find_spec(name) for name in ("gunicorn", "uvicorn_worker"))
GUNICORN = pytest.mark.skipif(not HAS_GUNICORN, reason="gunicorn and uvicorn-worker are not installed")


def start_workers(way: str) -> Process:
    quick = {"PIPELINE_ACCELERATE": "false"}
    if way == "uvicorn":
        return start_uvicorn("server:app --workers 2", **quick)
    module, worker_class, preload = way.split()
    command = [sys.executable, "-m", module, "-k", worker_class, "-b", "127.0.0.1:0", "server:app"]
    return start([*command, *(["--preload"] if preload == "preload" else [])], {**quick, "GUNICORN_CMD_ARGS": "-w 2"})


@pytest.mark.extended
@pytest.mark.parametrize(
    "way",
    [
        "uvicorn",
        pytest.param("gunicorn uvicorn_worker.UvicornWorker each", marks=GUNICORN),
        pytest.param("gunicorn uvicorn_worker.UvicornWorker preload", marks=GUNICORN),
        pytest.param("gunicorn asgi each", marks=GUNICORN),
    ],
)
def test_workers_share_the_cores_and_their_metrics_and_one_that_dies_is_replaced(
    way: str,
) -> None:
    threads = max(1, usable_cores() // 2)
    process = start_workers(way)
    try:
        process.wait_for_line(rf"Serving fill-mask .* threads: {threads}$", count=2)
        process.client.base_url = process.url = process.wait_for_line(r"(http://127\.0\.0\.1:\d+)")[1]

        def scrapes() -> set[float]:
            """Of connections of their own, so that each may reach another worker."""
            texts = [httpx2.get(f"{process.url}/metrics").text for _ in range(SCRAPES)]
            return {float(text.partition(f"\n{COUNTED} ")[2].partition("\n")[0]) for text in texts}

        texts = [f"albert einstein was a [MASK] physicist of {year}." for year in range(1900, 1920)]
        with ThreadPoolExecutor(4) as clients:
            replies = list(clients.map(process.post, texts))
        # The same from any of them.
        answers = [reply.json() for reply in replies]
        for text, answer in zip(texts, answers, strict=True):
            assert_same(answer, process.post(text).json())
        until(lambda: scrapes() == {2 * len(texts)})
        (pid, *_) = children(process.popen.pid)
        os.kill(pid, signal.SIGKILL)
        process.wait_for_line(rf"Serving fill-mask .* threads: {threads}$", count=3)
        assert scrapes() == {2 * len(texts)}
        assert process.metric("pipeline_inputs_in_flight") == 0
        process.terminate()
        assert process.exit_status() == 0
        if "asgi" not in way:
            assert sum("Application shutdown complete." in line for line in process.log) == 2
    finally:
        process.end()


def children(pid: int) -> list[int]:
    """The workers of this process; multiprocessing has one more child, which tracks resources."""
    found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [child for child in found if "resource_tracker" not in Path(f"/proc/{child}/cmdline").read_text()]
