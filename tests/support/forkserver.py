"""Servers that are forked from one process in which everything is imported: a start takes a sixth of the time.

Each is a process of its own, with its own environment, sockets, signals, metrics and log, and ends as `python -m
uvicorn` ends. Variables that are read at import are those of the fork server: see `READ_AT_IMPORT`.

The fork server is `python -m tests.support.forkserver SOCKET`. A request on the socket, a file descriptor, is the
arguments of uvicorn and the environment as JSON, with two pipes: for the log, and for the process id and, later, the
exit status.
"""

import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import uvicorn

CAN_FORK = sys.platform == "linux"
MAX_REQUEST_BYTES = 2**17
PRELOADED = (
    "server",
    "transformers.models.bert.modeling_bert",
    "transformers.pipelines",
    "uvicorn.lifespan.on",
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.http.httptools_impl",
)
# Libraries that are imported before the fork have read these: a server that needs others is started by itself.
READ_AT_IMPORT = ("HF_ENDPOINT", "HF_HOME", "HF_HUB_OFFLINE", "OMP_NUM_THREADS")
# The threads of numpy's matrix library: a process that is forked has to have one thread only.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}


class ForkedProcess:
    """A child of the fork server, as `subprocess.Popen` would show it."""

    def __init__(self, log: int, status: int) -> None:
        self.stdout: IO[str] = os.fdopen(log)
        self.returncode: int | None = None
        self._status = status
        self._pid: int | None = None
        self._lock = threading.Lock()

    @property
    def pid(self) -> int:
        """Waits until the fork server has forked."""
        if self._pid is None:
            with self._lock:
                self._pid = self._pid or self._read()
        return self._pid

    def _read(self) -> int:
        number = os.read(self._status, 4)
        assert number, "the fork server has ended; what it printed is above"
        return int(struct.unpack("i", number)[0])

    def poll(self) -> int | None:
        """The exit status if it has ended, negative for a signal."""
        return self._status_within(0)

    def wait(self, timeout: float | None = None) -> int:
        status = self._status_within(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return status

    def _status_within(self, timeout_s: float | None) -> int | None:
        assert self.pid, "it comes first"
        with self._lock:
            if self.returncode is None and select.select([self._status], [], [], timeout_s)[0]:
                self.returncode = self._read()
                os.close(self._status)
            return self.returncode

    def send_signal(self, number: int) -> None:
        """The id cannot be another process's: the fork server leaves its children to be waited for."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """The process that others are forked from; `close` ends it, and those of them that still run.

    Only on Linux: elsewhere it does nothing, and `start_uvicorn` starts every server by itself.
    """

    def __init__(self) -> None:
        if not CAN_FORK:
            return
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "tests.support.forkserver", str(theirs.fileno())],
                cwd=Path(__file__).parents[2],
                env={**os.environ, **ONE_THREAD},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def start(self, arguments: Sequence[str], environment: Mapping[str, str]) -> ForkedProcess:
        """Begin `uvicorn ARGUMENTS` with this environment. Does not wait for it."""
        changed = [name for name in READ_AT_IMPORT if environment.get(name) != os.environ.get(name)]
        assert not changed, f"{changed} would have no effect in a forked process"
        (log, write_log), (status, write_status) = os.pipe(), os.pipe()
        request = json.dumps([list(arguments), dict(environment)]).encode()
        assert len(request) < MAX_REQUEST_BYTES
        socket.send_fds(self._requests, [request], [write_log, write_status])
        for descriptor in (write_log, write_status):
            os.close(descriptor)
        return ForkedProcess(log, status)

    def close(self) -> None:
        if not CAN_FORK:
            return
        self._requests.close()
        self._popen.wait()


# The fork server itself.

if sys.platform == "linux":

    class Children:
        """Those that run, each with the pipe that its exit status goes to."""

        def __init__(self) -> None:
            self._running: dict[int, tuple[int, int]] = {}  # by pidfd: the process id, and the pipe

        def add(self, pid: int, status: int) -> None:
            os.write(status, struct.pack("i", pid))
            self._running[os.pidfd_open(pid)] = pid, status

        def descriptors(self) -> list[int]:
            return list(self._running)

        def report(self, pidfd: int) -> None:
            """Send the exit status of one that has ended, and let it be: its id stays taken."""
            pid, status = self._running.pop(pidfd)
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            assert ended is not None
            code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
            os.write(status, struct.pack("i", code))
            os.close(status)
            os.close(pidfd)

        def kill(self) -> None:
            for pid, _ in self._running.values():
                os.kill(pid, signal.SIGKILL)

        def forget(self) -> None:
            """In a new child: the others are not its own."""
            for pidfd, (_, status) in self._running.items():
                os.close(pidfd)
                os.close(status)

    def serve_forks(requests: socket.socket) -> list[str] | None:
        """Fork on each request, until there are no more. Returns uvicorn's arguments in a child, else None."""
        children = Children()
        while True:
            ready, _, _ = select.select([requests.fileno(), *children.descriptors()], [], [])
            for pidfd in set(ready) & set(children.descriptors()):
                children.report(pidfd)
            if requests.fileno() not in ready:
                continue
            request, pipes, _, _ = socket.recv_fds(requests, MAX_REQUEST_BYTES, 2)
            if not request:
                children.kill()
                return None
            log, status = pipes
            arguments, environment = json.loads(request)
            if pid := os.fork():
                os.close(log)
                children.add(pid, status)
            else:
                requests.close()
                os.close(status)
                children.forget()
                become(log, environment)
                return [str(argument) for argument in arguments]

    def become(log: int, environment: Mapping[str, str]) -> None:
        """Take over the environment, and the log as standard output and error."""
        for standard in (sys.stdout.fileno(), sys.stderr.fileno()):
            os.dup2(log, standard)
        os.close(log)
        os.environ.clear()
        os.environ.update(environment)

    def main() -> None:
        for module in PRELOADED:
            importlib.import_module(module)
        threads = list(Path("/proc/self/task").iterdir())
        assert len(threads) == 1, f"a process with {len(threads)} threads cannot be forked: imports have started some"
        gc.freeze()  # what is shared stays shared
        arguments = serve_forks(socket.socket(fileno=int(sys.argv[1])))
        if arguments is not None:
            sys.argv[1:] = arguments
            uvicorn.main(arguments, prog_name="uvicorn")

    if __name__ == "__main__":
        main()
