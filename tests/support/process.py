"""A real uvicorn process on 127.0.0.1, which ends with its test, by its own process id."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx2
import uvicorn
from starlette.applications import Starlette

from tests.support.forkserver import CAN_FORK, ForkedProcess, ForkServer

ROOT = Path(__file__).parents[2]
LONGEST_LIFE_S = 900
LONGEST_WAIT_S = 60
# A start that is not itself tested: two servers with several threads each would keep two cores from everything else.
QUICK = {"PIPELINE_THREADS": "1", "PIPELINE_ACCELERATE": "false"}
# Shorter than the server keeps an idle connection: a client must not send on one that is just being closed.
KEPT_S = 1.0


class Process:
    """A server that was started; its log is kept line by line."""

    def __init__(self, popen: subprocess.Popen[str] | ForkedProcess) -> None:
        self.popen = popen
        self.log: list[str] = []
        self.url = ""
        self.ended = False
        # One for all tests, since to make one takes long. Threads may share it.
        self.client = httpx2.Client(timeout=60, limits=httpx2.Limits(keepalive_expiry=KEPT_S))
        self._watchdog = threading.Timer(LONGEST_LIFE_S, self.popen.kill)
        self._watchdog.start()
        self._changed = threading.Condition()
        assert self.popen.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self.popen.stdout,))
        self._reader.start()

    def _read(self, lines: IO[str]) -> None:
        for line in lines:
            with self._changed:
                self.log.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    def wait_for_line(self, pattern: str, count: int = 1) -> re.Match[str]:
        """The line of the log with which so many have this in them, once it is there."""

        def find() -> list[re.Match[str]]:
            return [found for line in self.log if (found := re.search(pattern, line))]

        with self._changed:
            self._changed.wait_for(lambda: len(find()) >= count or self.ended, LONGEST_LIFE_S)
        found = find()
        assert len(found) >= count, "\n".join(self.log)
        return found[count - 1]

    def wait_until_serving(self) -> None:
        if not self.url:
            self.url = self.wait_for_line(r"Uvicorn running on (http://[\d.:]+)")[1]
            self.client.base_url = self.url

    # Requests

    def get(self, path: str) -> httpx2.Response:
        return self.client.get(path)

    def post(self, text: str) -> httpx2.Response:
        """The answer to a raw text."""
        return self.client.post("/", content=text.encode())

    def metric(self, name: str) -> float:
        """The value of a sample, by its name with its labels; 0 without one."""
        found = re.search(rf"^{re.escape(name)} (.*)$", self.get("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def connect(self) -> socket.socket:
        """A bare connection, for clients that no library would be."""
        host, _, port = self.url.removeprefix("http://").partition(":")
        return socket.create_connection((host, int(port)))

    # The end

    def terminate(self) -> None:
        """What a supervisor does first."""
        self.popen.send_signal(signal.SIGTERM)

    def exit_status(self) -> int:
        """Wait for the end."""
        status = self.popen.wait(LONGEST_LIFE_S)
        self._reader.join()
        self._watchdog.cancel()
        self.client.close()
        if self.popen.stdout is not None:
            self.popen.stdout.close()
        return status

    def end(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.exit_status()


def start(command: Sequence[str | Path], environment: Mapping[str, str], folder: Path = ROOT) -> Process:
    """This command in a folder, with some variables set."""
    popen = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return Process(popen)


def start_uvicorn(app: str = "server:app", fork_server: ForkServer | None = None, /, **environment: str) -> Process:
    """`uvicorn APP` on a free port, with some variables set.

    `app` may be followed by options of uvicorn. With a fork server, the process is its child, and a `QUICK` one.
    """
    arguments = [*app.split(), "--host", "127.0.0.1", "--port", "0"]
    if fork_server is not None:
        environment = {**QUICK, **environment}
        if CAN_FORK:
            return Process(fork_server.start(arguments, {**os.environ, **environment}))
    return start([sys.executable, "-m", "uvicorn", *arguments], environment)


def until(condition: Callable[[], bool]) -> None:
    """Ask again until it is so. Each question is a round trip, and a server answers it within milliseconds."""
    deadline = time.monotonic() + LONGEST_WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"


def read_to_the_end(client: socket.socket) -> bytes:
    """Until the server closes the connection."""
    received = bytearray()
    try:
        while chunk := client.recv(2**16):
            received += chunk
    except ConnectionResetError:
        pass
    return bytes(received)


@contextmanager
def serving(app: str = "server:app", fork_server: ForkServer | None = None, /, **environment: str) -> Iterator[Process]:
    process = start_uvicorn(app, fork_server, **environment)
    try:
        process.wait_until_serving()
        yield process
    finally:
        process.end()


@contextmanager
def serving_in_thread(app: Starlette) -> Iterator[str]:
    """The address of an app that uvicorn serves in a thread of this process: real sockets, no new process."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
