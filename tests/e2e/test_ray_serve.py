"""The same app on Ray Serve. With `scripts/check-cluster`, on a real cluster of this machine: that takes minutes."""

import asyncio
import itertools
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

pytest.importorskip("ray", reason="the cluster needs Ray: pip install -e '.[cluster]'")

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of Ray's own making
    from deploy import ray_serve
import config
from config import CLUSTER_PREFIX, Settings, from_environment
from deploy.ray_serve import ClusterSettings, options, scaling, threads
from pipeline_webserver.errors import Unavailable
from server import create_app
from tests.support.asgi import get, post
from tests.support.asgi import serving as serving_fake
from tests.support.compare import assert_same
from tests.support.fakes import FakeRunner
from tests.support.process import ROOT, serving

# Settings


def read(monkeypatch: pytest.MonkeyPatch, **environment: str) -> ClusterSettings:
    for name, value in environment.items():
        monkeypatch.setenv(CLUSTER_PREFIX + name, value)
    return config.read(ClusterSettings)


def test_each_variable_sets_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read(
        monkeypatch,
        REPLICAS="2",
        MAX_REPLICAS="8",
        CPUS="0.5",
        GPUS="0.25",
        ONGOING_REQUESTS="4",
        UPSCALE_DELAY_S="1",
        DOWNSCALE_DELAY_S="60",
    )
    assert settings.model_dump() == {
        "replicas": 2,
        "max_replicas": 8,
        "cpus": 0.5,
        "gpus": 0.25,
        "ongoing_requests": 4.0,
        "upscale_delay_s": 1.0,
        "downscale_delay_s": 60.0,
    }


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("REPLICAS", "many", "PIPELINE_CLUSTER_REPLICAS: Input should be a valid integer"),
        ("REPLICAS", "0", "PIPELINE_CLUSTER_REPLICAS: Input should be greater than or equal to 1"),
        ("MAX_REPLICAS", "0", "PIPELINE_CLUSTER_MAX_REPLICAS: Input should be greater than or equal to 1"),
        ("CPUS", "0", "PIPELINE_CLUSTER_CPUS: Input should be greater than 0"),
        ("GPUS", "1.5", "gpus (1.5) must be whole when there are several"),
        ("REPLICA", "2", "PIPELINE_CLUSTER_REPLICA is not a setting; did you mean PIPELINE_CLUSTER_REPLICAS?"),
        ("X", "2", "PIPELINE_CLUSTER_X is not a setting; the settings are PIPELINE_CLUSTER_REPLICAS,"),
    ],
)
def test_a_wrong_or_unknown_variable_stops_the_start_with_one_line(
    name: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CLUSTER_PREFIX + name, value)
    with pytest.raises(SystemExit) as stop:
        ray_serve.app({})
    line = str(stop.value.code)
    assert line.startswith("pipeline-webserver: ")
    assert words in line
    assert "\n" not in line


def test_fewer_replicas_at_most_than_at_least_stop_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"max_replicas \(2\) must not be under replicas \(3\)"):
        read(monkeypatch, REPLICAS="3", MAX_REPLICAS="2")


def test_arguments_on_the_command_line_are_rejected() -> None:
    with pytest.raises(SystemExit, match="replicas: the settings are in the environment"):
        ray_serve.app({"replicas": "2"})


def test_the_settings_of_the_cluster_are_no_concern_of_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_CLUSTER_REPLICAS", "2")
    assert from_environment() == Settings()


def test_the_table_of_settings_is_the_settings() -> None:
    document = (ROOT / "docs" / "operate" / "ray.md").read_text()
    rows = re.findall(r"^\| `(PIPELINE_CLUSTER_\w+)` \| (.*?) \| (.*?) \|$", document, re.MULTILINE)
    special = {"max_replicas": "as many", "ongoing_requests": "`auto`"}
    wanted = [
        (CLUSTER_PREFIX + name.upper(), special.get(name, f"`{field.default}`"), field.description)
        for name, field in ClusterSettings.model_fields.items()
    ]
    assert rows == wanted


# What Ray has to know


def test_ray_admits_more_than_the_app_so_that_batches_form_and_it_is_the_app_that_rejects() -> None:
    chosen = options(Settings(max_requests=100), ClusterSettings())
    assert (chosen["max_ongoing_requests"], chosen["max_queued_requests"]) == (200, 200)


def test_a_replica_that_shuts_down_has_the_time_of_the_longest_request_and_of_its_own_drain() -> None:
    chosen = options(Settings(request_timeout_s=30, drain_timeout_s=25), ClusterSettings())
    assert chosen["graceful_shutdown_timeout_s"] == 60


def test_the_number_of_replicas_is_fixed_unless_there_may_be_more() -> None:
    assert scaling(Settings(), ClusterSettings(replicas=3)) == {"num_replicas": 3}
    assert scaling(Settings(), ClusterSettings(replicas=3, max_replicas=3)) == {"num_replicas": 3}


def test_replicas_are_added_when_more_than_a_quarter_of_a_batch_is_in_flight_in_each() -> None:
    found = scaling(Settings(max_batch_size=16), ClusterSettings(replicas=2, max_replicas=5))["autoscaling_config"]
    assert (found["min_replicas"], found["max_replicas"], found["target_ongoing_requests"]) == (2, 5, 4)
    found = scaling(Settings(max_batch_size=1), ClusterSettings(max_replicas=2))["autoscaling_config"]
    assert found["target_ongoing_requests"] == 1


@pytest.mark.parametrize(
    ("chosen", "cpus", "usable", "wanted"),
    [(None, 0.5, 8, 1), (None, 1, 8, 1), (None, 3.5, 8, 3), (None, 16, 8, 8), (5, 1, 8, 5)],
)
def test_a_replica_has_as_many_threads_as_whole_cpus_of_those_it_may_use(
    chosen: int | None, cpus: float, usable: int, wanted: int
) -> None:
    assert threads(Settings(threads=chosen), cpus, usable) == wanted


def test_a_replica_is_as_healthy_as_the_health_route() -> None:
    async def scenario() -> None:
        async with serving_fake(FakeRunner()) as app:
            await ray_serve.check(app)
            assert (await post(app, b"broken")).status == 503
            with pytest.raises(Unavailable, match="The model is broken"):
                await ray_serve.check(app)
            assert (await get(app, "/health")).status == 503

    asyncio.run(scenario())


def test_the_request_id_is_left_to_ray() -> None:
    app = create_app(Settings(), FakeRunner())
    app.add_middleware(ray_serve.OneRequestId)
    assert "x-request-id" not in asyncio.run(get(app, "/health", {"X-Request-ID": "mine"})).headers


# A real cluster


class Head:
    """`tests.support.ray_head` in a process of its own."""

    def __init__(self, folder: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        # A token of its own: otherwise Ray leaves one in the home folder.
        self.environment = os.environ | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # a machine that is shared may be slow
        }
        command = [sys.executable, "-m", "tests.support.ray_head", folder, str(port)]
        self.popen = subprocess.Popen(
            command, cwd=ROOT, env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.address: str = self._answer()

    def _answer(self) -> Any:
        assert self.popen.stdout is not None
        return json.loads(self.popen.stdout.readline() or '"the head has ended; what it printed is above"')

    def _ask(self, *command: object) -> Any:
        assert self.popen.stdin is not None
        self.popen.stdin.write(json.dumps(command) + "\n")
        self.popen.stdin.flush()
        return self._answer()

    def running(self, count: int, without: str = "") -> list[str]:
        """The names of so many replicas, once they run."""
        names: list[str] = self._ask("running", count, without)
        return names

    def deploy(self, builder: str, **environment: str) -> list[str]:
        names: list[str] = self._ask("deploy", builder, environment)
        return names

    def kill(self, name: str) -> None:
        self._ask("kill", name)

    def serve_run(self, **environment: str) -> None:
        """The documented command, with Ray's address."""
        command = [str(Path(sys.executable).parent / "serve"), "run", "deploy.ray_serve:app", "--non-blocking"]
        subprocess.run(
            [*command, "--address", self.address], cwd=ROOT, env=self.environment | environment, check=True, timeout=240
        )

    def end(self) -> int:
        """At the end of its input it takes everything down."""
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self.popen.stdin.close()
        try:
            return self.popen.wait(60)
        finally:
            self.popen.kill()
            self.popen.stdout.close()


class Load:
    """Clients that ask one text after the other: their answers, and what was no answer."""

    def __init__(self, url: str, texts: list[str], tries: int) -> None:
        self.answers: list[tuple[str, object]] = []
        self.errors: list[tuple[int, str]] = []
        self._url = url
        self._texts = itertools.cycle(texts)
        self._tries = tries
        self._changed = threading.Condition()
        self._stopped = threading.Event()

    def client(self) -> None:
        with httpx2.Client(timeout=60) as http:
            while not self._stopped.is_set():
                with self._changed:
                    text = next(self._texts)
                self._ask(http, text)

    def _ask(self, http: httpx2.Client, text: str) -> None:
        for _ in range(self._tries):
            reply = http.post(self._url, content=text)
            with self._changed:
                if reply.status_code == 200:
                    self.answers.append((text, reply.json()))
                    self._changed.notify_all()
                    return
                self.errors.append((reply.status_code, reply.text))
        with self._changed:
            self.answers.append((text, "lost"))

    def wait_for_more(self, count: int) -> None:
        with self._changed:
            wanted = len(self.answers) + count
            assert self._changed.wait_for(lambda: len(self.answers) >= wanted, 120)

    @contextmanager
    def from_clients(self, count: int) -> Iterator[None]:
        with ThreadPoolExecutor(count) as pool:
            clients = [pool.submit(self.client) for _ in range(count)]
            try:
                yield
            finally:
                self._stopped.set()
            for client in clients:
                client.result()


TEXTS = [f"the [MASK] of the {word} is the {word}." for word in ("sea", "sun", "king", "war", "earth", "song", "town")]
# Two on a core, and quick to start; what optimizations do to answers is tested elsewhere.
SMALL = {"PIPELINE_CLUSTER_CPUS": "0.5", "PIPELINE_ACCELERATE": "false"}


@pytest.fixture(scope="module")
def model(model_of: Callable[[str], Path]) -> dict[str, str]:
    return {"PIPELINE_MODEL": str(model_of("fill-mask"))}


@pytest.fixture(scope="module")
def one_process(model: dict[str, str]) -> dict[str, object]:
    """What one process answers, with uvicorn."""
    with serving(**model) as process:
        return {text: httpx2.post(process.url, content=text).json() for text in TEXTS}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Short: sockets lie in it, and their paths may have 107 bytes."""
    made = tempfile.mkdtemp(prefix="ray-")
    yield Path(made)
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def head(folder: Path) -> Iterator[Head]:
    routes = Path("/proc/net/route").read_text().splitlines()[1:]
    assert not routes, "replicas listen on all interfaces: run scripts/check-cluster, which has a network of its own"
    started = Head(str(folder))
    yield started
    assert started.end() == 0


@pytest.fixture(scope="module")
def two_replicas(head: Head, model: dict[str, str]) -> list[str]:
    head.serve_run(**SMALL, **model, PIPELINE_CLUSTER_REPLICAS="2")
    return head.running(2)


def assert_all_answered(load: Load, one_process: dict[str, object]) -> None:
    for text, answer in load.answers:
        assert_same(answer, one_process[text])


def answered_by(folder: Path, replica: str) -> int:
    """Ray keeps a log for each replica."""
    (log,) = (folder / "session_latest" / "logs" / "serve").glob(f"replica_*_{replica.rpartition('#')[2]}.log")
    return log.read_text().count("POST / 200")


@pytest.mark.cluster
def test_two_replicas_share_the_load_and_answer_as_one_process_does(
    head: Head, two_replicas: list[str], one_process: dict[str, object], folder: Path
) -> None:
    load = Load(head.url, TEXTS, tries=1)
    with load.from_clients(16):
        load.wait_for_more(400)
    assert_all_answered(load, one_process)
    shares = [answered_by(folder, replica) / len(load.answers) for replica in two_replicas]
    assert sum(shares) == 1
    assert min(shares) > 0.25


@pytest.mark.cluster
def test_requests_that_arrive_together_share_a_batch_and_a_replica_has_one_thread(
    head: Head, two_replicas: list[str]
) -> None:
    with ThreadPoolExecutor(24) as pool:
        replies = list(pool.map(lambda text: httpx2.post(head.url, content=text, timeout=60), TEXTS * 24))
    sizes = [int(re.findall(r'batch;desc="(\d+)"', reply.headers["Server-Timing"])[0]) for reply in replies]
    assert max(sizes) > 5  # Ray's own limit for a replica, by default
    assert httpx2.get(f"{head.url}/info").json()["threads"] == 1


@pytest.mark.cluster
def test_an_answer_has_one_request_id_and_it_is_the_clients(head: Head, two_replicas: list[str]) -> None:
    reply = httpx2.post(head.url, content=TEXTS[0], headers={"X-Request-ID": "mine"})
    assert reply.headers.get_list("X-Request-ID") == ["mine"]


@pytest.mark.cluster
def test_the_error_of_a_replica_is_in_the_words_of_the_app(head: Head, two_replicas: list[str]) -> None:
    reply = httpx2.post(head.url, content="no mask")
    assert (reply.status_code, reply.json()["error_type"]) == (422, "rejected")


@pytest.mark.cluster
def test_a_replica_that_is_killed_under_load_is_replaced_and_a_retry_gets_the_answer(
    head: Head, two_replicas: list[str], one_process: dict[str, object]
) -> None:
    load = Load(head.url, TEXTS, tries=100)
    with load.from_clients(8):
        load.wait_for_more(50)
        head.kill(two_replicas[0])
        replicas = head.running(2, without=two_replicas[0])
        load.wait_for_more(50)
    assert_all_answered(load, one_process)
    # Ray's proxy calls every TimeoutError a 408, also one of the connection to the replica.
    assert {status for status, _ in load.errors} <= {408, 500, 503}
    assert two_replicas[1] in replicas


@pytest.mark.cluster
def test_fewer_replicas_under_load_cost_no_client_an_answer(
    head: Head, two_replicas: list[str], model: dict[str, str], one_process: dict[str, object]
) -> None:
    load = Load(head.url, TEXTS, tries=1)
    with load.from_clients(8):
        load.wait_for_more(50)
        head.deploy("deploy.ray_serve:app", **SMALL, **model, PIPELINE_CLUSTER_REPLICAS="1")
        head.running(1)
        load.wait_for_more(50)
    assert_all_answered(load, one_process)
    assert load.errors == []


@pytest.mark.cluster
def test_load_brings_a_second_replica_and_quiet_takes_it_away(
    head: Head, two_replicas: list[str], model: dict[str, str], one_process: dict[str, object]
) -> None:
    delays = {"PIPELINE_CLUSTER_UPSCALE_DELAY_S": "1", "PIPELINE_CLUSTER_DOWNSCALE_DELAY_S": "1"}
    aim = {"PIPELINE_CLUSTER_MAX_REPLICAS": "2", "PIPELINE_CLUSTER_ONGOING_REQUESTS": "3"}
    head.deploy("deploy.ray_serve:app", **SMALL, **model, **aim, **delays)
    load = Load(head.url, TEXTS, tries=1)
    with load.from_clients(8):
        assert len(head.running(2)) == 2
    assert_all_answered(load, one_process)
    assert load.errors == []
    assert len(head.running(1)) == 1


@pytest.mark.cluster
def test_a_replica_whose_model_is_broken_is_replaced(head: Head) -> None:
    (broken,) = head.deploy("tests.support.faulty_cluster:app", **SMALL)
    assert httpx2.post(head.url, content="broken").json()["error_type"] == "unavailable"
    assert head.running(1, without=broken) != [broken]
    assert httpx2.post(head.url, content="fine").json() == "FINE"
