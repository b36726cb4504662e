"""The chaos test: the server at twice its capacity, with a model that fails at random and clients of every kind.

    python -m tests.chaos --minutes 10

It starts `tests.chaos.app` in a process of its own, and measures what it can. Then requests arrive at random, twice as
many as it can answer: good ones, bad ones, slow ones, some whose client disconnects. At the end the process gets
SIGTERM under the same load. Each request ends in exactly one way, and what the server counts has to be what the clients
counted. The report has the figures and each promise that was broken; with one broken, the exit status is 1.

Owns the options, the order of the run and the report. It must never know how a request is made or sent, nor the
server's insides.
"""

import argparse
import asyncio
import signal
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.figures import slope
from benchmarks.processes import Failed, Server
from benchmarks.soak import Samples, sample
from benchmarks.texts import whole_words
from pipeline_webserver.inference.loading import BUNDLED_MODEL
from pipeline_webserver.web.slow_clients import raise_open_file_limit
from tests.chaos.account import Account, listed
from tests.chaos.clients import CLIENT_TIMEOUT_S, Clients, closed_loop, open_loop
from tests.chaos.mix import MARK, MAX_BODY_BYTES, Mix
from tests.chaos.server_side import Counts, Log, counts_of, disagreements

ROUNDS = 3
MIN_PER_S = 10.0  # that arrive, however slow the machine
LOAD = 2.0  # by the capacity
WARM_UP_S = 60.0
SETTINGS = {
    "PIPELINE_REQUEST_TIMEOUT_S": "3",
    "PIPELINE_MAX_BODY_BYTES": str(MAX_BODY_BYTES),
    "CHAOS_WORD": MARK,
    "CHAOS_HANG_S": "4",
    "CHAOS_MAX_ROWS": "8",
}
# Shares of the passes that have a marked text in them.
RATES = {"CHAOS_RAISE": "0.5", "CHAOS_OUT_OF_MEMORY": "0.05", "CHAOS_HANG": "0.003"}


@dataclass(frozen=True, slots=True)
class Options:
    """How long each part takes, and variables of the app."""

    seconds: float
    capacity_s: float = 6.0
    drain_s: float = 6.0
    seed: int = 1
    marked: float = 0.03
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Report:
    """The figures, and the promises that were broken."""

    options: Options
    capacity_per_s: float = 0.0
    main: Account = field(default_factory=Account)
    drain: Account = field(default_factory=Account)
    counts: Counts | None = None
    samples: Samples = field(default_factory=list)
    stalled: int = 0
    exit_status: int | None = None
    broken: list[str] = field(default_factory=list)

    @property
    def offered_per_s(self) -> float:
        return max(MIN_PER_S, LOAD * self.capacity_per_s)

    def lines(self) -> list[str]:
        account, seconds = self.main, self.options.seconds
        sent = account.sent.total() - account.sent["plain"]
        good, capacity = account.texts_answered / seconds, max(self.capacity_per_s, 1e-9)
        lines = [
            f"seed {self.options.seed}, {seconds:g} s at {LOAD:g} times its {self.capacity_per_s:.0f} texts/s",
            f"offered: {sent / seconds:.0f} requests/s, held back for want of connections: {account.held_back}",
            f"goodput: {good:.0f} texts/s answered with 200, {good / capacity:.0%} of the capacity",
        ]
        if self.counts is not None:
            lines += [
                f"faults: {listed(self.counts.faults)}; stalled and recovered {self.stalled} times",
                f"inputs that were in flight: {listed(self.counts.inputs)}; deduplicated: {self.counts.deduplicated}",
                f"computed in vain, after the deadline or a disconnect: {self._in_vain(self.counts)} texts",
            ]
        lines += [self._memory(), "", *account.table(), "", "ended under load", *self.drain.table()]
        lines += [f"exit status {self.exit_status}", ""]
        return [*lines, "broken promises:" if self.broken else "no promise was broken", *self.broken]

    def _in_vain(self, counts: Counts) -> int:
        return counts.inputs.get("answered", 0) - self.main.texts_answered - self.main.answers["plain", 200]

    def _memory(self) -> str:
        if not self.samples:
            return "memory: unknown"
        warm = [(at / 60, mb) for at, mb in self.samples if at >= WARM_UP_S]
        values = [mb for _, mb in self.samples]
        line = f"memory: start {values[0]:.0f} MB, end {values[-1]:.0f} MB, max {max(values):.0f} MB"
        late = f", after a minute {warm[0][1]:.0f} MB, from then on {slope(warm):+.2f} MB/min" if warm else ""
        return line + late


async def run_chaos(options: Options, folder: Path) -> Report:
    """Raises `Failed` if the server does not start."""
    log = folder / "server.log"
    environment = {**SETTINGS, **RATES, "CHAOS_SEED": str(options.seed), **options.environment}
    server = Server("tests.chaos.app:app", environment, log)
    mix = Mix(options.seed, whole_words(Path(BUNDLED_MODEL)), options.marked)
    report = Report(options)
    try:
        await server.start()
        await under_load(server, mix, report)
        with log.open(errors="replace") as lines:
            in_main = Log.of(lines)
            await until_the_end(server, mix, report)
            in_drain = Log.of(lines)
    finally:
        await server.end()
    report.stalled = in_main.stalls
    report.drain.forgive(in_drain.numbers)
    if missing := report.drain.answered - in_drain.numbers:
        report.broken.append(f"{len(missing)} requests at the end were answered, but are not in the log")
    report.broken += in_main.broken(report.counts.faults["hang"] if report.counts else None)
    report.broken += report.drain.broken(may_be_refused=True) + in_drain.broken(None)
    return report


async def under_load(server: Server, mix: Mix, report: Report) -> None:
    options, account = report.options, report.main
    clients = Clients(server.address, account, keep=True)
    # The best of a few rounds: what else the machine does can only make them slower.
    rounds = [await closed_loop(clients, mix, options.capacity_s / ROUNDS) for _ in range(ROUNDS)]
    report.capacity_per_s = max(rounds)
    sampling = asyncio.create_task(sample(server, min(5.0, options.seconds / 20), report.samples))
    await open_loop(clients, mix, report.offered_per_s, options.seconds)
    await compare(clients, mix, report)
    sampling.cancel()
    await asyncio.wait({sampling})
    clients.close()
    report.broken += account.broken(may_be_refused=False)


async def compare(clients: Clients, mix: Mix, report: Report) -> None:
    """After the load: the server is as it was before, and no input is left in flight."""
    account = clients.account
    for _ in range(100):  # inputs of clients that disconnected are dropped when their turn comes
        came = account.by_route.copy()  # an answer with metrics does not count itself
        reply = await clients.ask(mix.make("metrics"))
        if reply is None:
            report.broken.append("there are no metrics")
            return
        counts = report.counts = counts_of(reply.body.decode())
        if counts.in_flight == 0:
            break
        await asyncio.sleep(0.1)
    report.broken += disagreements(account, came, counts)
    for kind in ("equal", "health"):
        reply = await clients.ask(mix.make(kind))
        if reply is None or reply.status != 200:
            report.broken.append(f"after the load, {kind} is answered with {reply and reply.status}")


async def until_the_end(server: Server, mix: Mix, report: Report) -> None:
    """SIGTERM in the middle of the same load, a connection for each request."""
    clients = Clients(server.address, report.drain, keep=False)
    seconds = report.options.drain_s
    load = asyncio.create_task(open_loop(clients, mix, report.offered_per_s, seconds))
    await asyncio.sleep(seconds / 2)
    with suppress(ProcessLookupError):
        server.process.send_signal(signal.SIGTERM)
    await load
    with suppress(TimeoutError):
        async with asyncio.timeout(CLIENT_TIMEOUT_S):
            report.exit_status = await server.process.wait()
    if report.exit_status != 0:
        report.broken.append(f"the exit status is {report.exit_status}")


async def until_terminated(options: Options, folder: Path) -> Report:
    """The same, but the server ends also when this process gets SIGTERM."""
    task = asyncio.current_task()
    assert task is not None
    with suppress(NotImplementedError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await run_chaos(options, folder)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="What the server withstands.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if not arguments.minutes > 0:
        parser.error("--minutes is a number over 0")
    options = Options(60 * arguments.minutes, seed=arguments.seed)
    sys.stdout.write(f"This takes about {arguments.minutes + 0.5:g} minutes, and wants the machine to itself.\n")
    sys.stdout.flush()
    raise_open_file_limit()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        try:
            report = asyncio.run(until_terminated(options, Path(folder)))
        except Failed as error:
            raise SystemExit(str(error)) from None
        except (KeyboardInterrupt, asyncio.CancelledError):
            raise SystemExit("Stopped; the server has ended.") from None
    sys.stdout.write("\n".join([*report.lines(), ""]))
    raise SystemExit(bool(report.broken))


if __name__ == "__main__":
    main()
