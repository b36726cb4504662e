"""The server on one machine: its systemd unit, and nginx in front of it, configured as in `deploy/nginx/`."""

import configparser
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
import uvicorn

from config import Settings, variable
from pipeline_webserver.api.tasks import TASKS
from tests.support.compare import assert_same
from tests.support.forkserver import ForkServer
from tests.support.process import ROOT, Process, serving

UNIT = ROOT / "deploy" / "pipeline-webserver.service"
OWN_HOST, PREFIX = (ROOT / "deploy" / "nginx" / name for name in ("own-host.conf", "prefix.conf"))
NGINX = [
    pytest.mark.extended,
    pytest.mark.skipif(not shutil.which("nginx"), reason="there is no nginx"),
]
TEXT = "albert einstein was a [MASK] physicist."

# systemd


def service() -> configparser.SectionProxy:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(UNIT)
    return unit["Service"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd")
def test_systemd_knows_each_line_of_the_unit(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    uvicorn_here = Path(sys.executable).with_name("uvicorn")
    copy.write_text(UNIT.read_text().replace("/opt/pipeline-webserver/.venv/bin/uvicorn", str(uvicorn_here)))
    checked = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_unit_gives_more_time_to_end_than_the_server_takes() -> None:
    assert float(service()["TimeoutStopSec"]) >= Settings().drain_timeout_s + 5


def test_the_unit_restarts_a_server_that_exits_because_its_model_is_broken() -> None:
    environment = dict(word.split("=") for word in service()["Environment"].split())
    assert environment[variable("exit_on_failure")] == "true"
    assert service()["Restart"] == "on-failure"


# nginx


@pytest.mark.parametrize("file", [OWN_HOST, PREFIX], ids=lambda file: file.stem)
def test_nginx_waits_longer_than_the_server_takes_more_and_gives_up_connections_sooner(file: Path) -> None:
    text = file.read_text()
    (body_mb,) = re.findall(r"client_max_body_size (\d+)m;", text)
    (read_s,) = re.findall(r"proxy_read_timeout (\d+)s;", text)
    (kept_s,) = re.findall(r"keepalive_timeout (\d+)s;", text)
    assert int(body_mb) * 2**20 == max(task.max_body_bytes for task in TASKS.values())
    assert int(read_s) > Settings().request_timeout_s
    assert int(kept_s) < uvicorn.Config("server:app").timeout_keep_alive


def test_both_configurations_say_the_same_to_the_server() -> None:
    passed = [
        re.findall(r"^ *((?:proxy_|client_|limit_).*;)$", file.read_text(), re.MULTILINE) for file in (OWN_HOST, PREFIX)
    ]
    assert sorted(set(passed[0])) == sorted(set(passed[1]))


@contextmanager
def nginx(site: str, server_url: str, folder: Path) -> Iterator[str]:
    """The address of nginx with this configuration, in front of this server; it listens when it returns."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    site = site.replace("listen 80;", f"listen 127.0.0.1:{port};")
    site = site.replace("127.0.0.1:8000", server_url.removeprefix("http://"))
    temporary = "\n".join(
        f"{module}_temp_path {folder}/{module};" for module in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"user root;\npid {folder}/pid;\nerror_log {folder}/error.log;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}\n{site}\n}}\n"
    )
    command = ["nginx", "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    subprocess.run(command, check=True, capture_output=True)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        subprocess.run([*command, "-s", "stop"], check=True, capture_output=True)


class TestOwnHost:
    pytestmark = NGINX

    def test_answers_errors_and_pages_are_the_servers_own(self, bundled: Process, tmp_path: Path) -> None:
        with nginx(OWN_HOST.read_text(), bundled.url, tmp_path) as url, httpx2.Client(base_url=url) as client:
            assert_same(client.post("/", content=TEXT).json(), bundled.post(TEXT).json())
            assert client.get("/", headers={"Accept": "text/html"}).text.startswith("<!doctype html>")
            too_large = client.post("/", content=b"a" * (2**20 + 1))
            assert (too_large.status_code, too_large.json()["error_type"]) == (413, "too_large")

    def test_the_log_has_the_clients_address_and_metrics_are_for_this_machine(
        self, fork_server: ForkServer, tmp_path: Path
    ) -> None:
        elsewhere = httpx2.HTTPTransport(local_address="127.0.0.2")
        with (
            serving("server:app", fork_server) as process,
            nginx(OWN_HOST.read_text(), process.url, tmp_path) as url,
            httpx2.Client(base_url=url, transport=elsewhere) as other,
        ):
            assert other.post("/", content=TEXT).status_code == 200
            process.wait_for_line(r"client=127\.0\.0\.2\S* method=POST path=/ status=200")
            assert other.get("/metrics").status_code == 403
            assert httpx2.get(f"{url}/metrics").text.startswith("# HELP")

    def test_a_client_that_asks_too_often_gets_429(self, bundled: Process, tmp_path: Path) -> None:
        strict = OWN_HOST.read_text().replace("rate=50r/s", "rate=1r/m").replace("burst=300", "burst=1")
        assert strict.count("=1") >= 2
        with nginx(strict, bundled.url, tmp_path) as url, httpx2.Client(base_url=url) as client:
            assert [client.get("/health").status_code for _ in range(3)] == [200, 200, 429]


class TestPrefix:
    pytestmark = NGINX

    def test_everything_is_below_the_prefix(self, fork_server: ForkServer, tmp_path: Path) -> None:
        with (
            serving("server:app --root-path /api", fork_server) as process,
            nginx(PREFIX.read_text(), process.url, tmp_path) as url,
            httpx2.Client(base_url=url) as client,
        ):
            answer = client.post("/api/", content=TEXT)
            assert answer.json()[0]["token_str"] == "german"
            moved = client.post("/api", content=TEXT)
            assert (moved.status_code, moved.headers["location"]) == (308, "/api/")
            assert client.post("/api", content=TEXT, follow_redirects=True).json() == answer.json()
            page = client.get("/api/", headers={"Accept": "text/html"}).text
            loaded = re.findall(r'(?:src|href)="(static/[^"]*)"', page)
            assert len(loaded) >= 3
            assert {client.get(f"/api/{path}").status_code for path in loaded} == {200}
            assert client.get("/api/openapi.json").json()["servers"] == [{"url": "/api"}]
            assert client.get("/metrics").status_code == 404
            assert 'route="/",status="200"' in client.get("/api/metrics").text
