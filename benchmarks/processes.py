"""The processes that are measured: started, watched, ended by their own process id.

Owns their life, their logs and their memory. It must never know workloads, nor what a process is for.
"""

import asyncio
import json
import os
import signal
import socket
import sys
from abc import ABC, abstractmethod
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.machine import children, rss_mb

ROOT = Path(__file__).parent.parent
START_TIMEOUT_S = 300.0
END_TIMEOUT_S = 15.0
MAX_LINE_BYTES = 2**24  # of a worker's answer
LOG_LINES = 12
Result = TypeVar("Result")
STARTED = "Application startup complete."


class Failed(Exception):
    """A process did not start, or ended, or does not answer; the message has the last lines of its log."""


class Process(ABC):
    """A process and its log."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._arguments = arguments
        self._environment = environment
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None, "start() comes first"
        return self._process

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pids(self) -> list[int]:
        """Its own and its children's, while it is alive."""
        return [self.process.pid, *children(self.process.pid)] if self.alive else []

    @property
    def rss_mb(self) -> float | None:
        """The resident memory of all of them; memory that they share counts for each."""
        sizes = [mb for pid in self.pids if (mb := rss_mb(pid)) is not None]
        return sum(sizes) if sizes else None

    async def start(self) -> None:
        """Return when it is ready. Raises `Failed`."""
        # The caller's own settings would change what is measured; no process may use the network.
        inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith("PIPELINE_")}
        with self._log.open("wb") as log:
            self._process = await self._open(
                (sys.executable, *self._arguments), {**inherited, "HF_HUB_OFFLINE": "1", **self._environment}, log
            )
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._wait_until_ready()
        except TimeoutError:
            raise self.failure("is not ready yet") from None

    async def end(self) -> None:
        """Terminate it, and kill it if it does not end."""
        if self._process is None:
            return
        with suppress(ProcessLookupError, TimeoutError):
            self._process.terminate()
            async with asyncio.timeout(END_TIMEOUT_S):
                await self._process.wait()
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    def failure(self, what: str) -> Failed:
        status = "" if self.alive else f" (exit status {self.process.returncode})"
        lines = self._log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return Failed("\n".join([f"it {what}{status}; its last lines:", *lines]))

    @abstractmethod
    async def _open(
        self, command: Sequence[str], environment: Mapping[str, str], log: Any
    ) -> asyncio.subprocess.Process: ...

    @abstractmethod
    async def _wait_until_ready(self) -> None: ...


async def run_module(module: str, *arguments: str) -> int:
    """The exit status of a Python process that runs to its end, or is killed when the caller is cancelled."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", module, *arguments, cwd=ROOT)
    try:
        return await process.wait()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def run_unless_terminated(work: Coroutine[Any, Any, Result]) -> Result:
    """Run this; on SIGTERM, cancel it, so that it ends the processes that it started."""

    async def cancelled_by_sigterm() -> Result:
        task = asyncio.current_task()
        assert task is not None
        with suppress(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    try:
        return asyncio.run(cancelled_by_sigterm())
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise SystemExit("Stopped; the processes that were measured have ended.") from None


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Server(Process):
    """One app on uvicorn, on a free port of this machine; with several workers, as many processes of it."""

    def __init__(self, app: str, environment: Mapping[str, str], log: Path, workers: int = 1) -> None:
        self.address = ("127.0.0.1", free_port())
        self.workers = workers
        listen = ("--host", self.address[0], "--port", str(self.address[1]), "--workers", str(workers))
        # No response may take so long, and no connection be idle so long, that uvicorn closes it.
        quiet = ("--no-access-log", "--timeout-keep-alive", "300")
        super().__init__(("-m", "uvicorn", app, *listen, *quiet), environment, log)

    async def _open(
        self, command: Sequence[str], environment: Mapping[str, str], log: Any
    ) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env=environment, stdin=DEVNULL, stdout=log, stderr=STDOUT
        )

    async def _wait_until_ready(self) -> None:
        """Each worker logs that it has started; one alone listens only after that, several from the start."""
        while self.alive:
            if self._log.read_text(errors="replace").count(STARTED) >= self.workers:
                with suppress(OSError):
                    _, writer = await asyncio.open_connection(*self.address)
                    writer.close()
                    return
            await asyncio.sleep(0.1)
        raise self.failure("ended before it listened")


class Worker(Process):
    """A process that reads commands and writes answers, a line each."""

    def __init__(self, module: str, arguments: Sequence[str], log: Path) -> None:
        super().__init__(("-m", module, *arguments), {}, log)

    async def ask(self, line: str) -> Any:
        """Its answer. Raises `Failed`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(ConnectionError):
            self.process.stdin.write(f"{line}\n".encode())
            await self.process.stdin.drain()
        if not (answer := await self.process.stdout.readline()):
            await self.process.wait()
            raise self.failure("ended")
        return json.loads(answer)

    async def _open(
        self, command: Sequence[str], environment: Mapping[str, str], log: Any
    ) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env=environment, stdin=PIPE, stdout=PIPE, stderr=log, limit=MAX_LINE_BYTES
        )

    async def _wait_until_ready(self) -> None:
        await self.ask("answers 1")
