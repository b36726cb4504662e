"""The workloads, the load generator and the report of the benchmarks; `python -m benchmarks` measures speed."""

import ast
import asyncio
import io
import itertools
import json
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import naive, report, results, worker
from benchmarks.answers import compare
from benchmarks.connection import Address, NotHttp, Reply, parse_reply, request_of
from benchmarks.load import Pool, Tally, ask_all, closed_loop, open_loop
from benchmarks.machine import describe
from benchmarks.noise import Noise, busy_ticks, own_ticks
from benchmarks.processes import Failed, Server, Worker
from benchmarks.results import Difference, Machine, Measurement, ModelResult, Results, SubjectResult, measurement_of
from benchmarks.session import Session
from benchmarks.soak import soak_of
from benchmarks.subjects import DIRECT, NAIVE, NAIVE_BATCHING, OFFLINE, OURS, Subjects
from benchmarks.texts import BLOCK, LONGEST, SHORTEST, make_texts
from benchmarks.workloads import CLOSED, OPEN, Closed, Open, estimate_s, poisson_arrivals, rotated
from tests.support.clock import run

pytestmark = pytest.mark.extended

FOLDER = Path(report.__file__).parent
WORDS = [f"word{number}" for number in range(1000)]

# Workloads


def test_poisson_arrivals_have_the_rate_and_an_exponential_spread() -> None:
    due = poisson_arrivals(100.0, 100.0, seed=1)
    gaps = [later - earlier for earlier, later in itertools.pairwise(due)]
    assert due == sorted(due)
    assert 0 < due[0] < due[-1] < 100.0
    assert statistics.mean(gaps) == pytest.approx(0.01, rel=0.05)
    assert statistics.stdev(gaps) == pytest.approx(0.01, rel=0.05)


def test_a_seed_gives_a_pattern_of_arrivals_scaled_to_the_rate() -> None:
    fast, slow = poisson_arrivals(20.0, 5.0, seed=3), poisson_arrivals(10.0, 10.0, seed=3)
    assert slow == pytest.approx([2 * due for due in fast])
    assert poisson_arrivals(10.0, 10.0, seed=4) != slow


def test_every_round_begins_with_another_subject() -> None:
    assert [rotated("abc", turn) for turn in range(4)] == [list("abc"), list("bca"), list("cab"), list("abc")]
    assert rotated([], 1) == []


def test_workloads_have_names() -> None:
    assert [Closed(1).name, Closed(8).name] == ["1 client", "8 clients"]
    assert Open(0.5, of_naive=False).name == "50% of its own capacity"
    assert Open(0.8, of_naive=True).name == "80% of the naive capacity"


def test_a_run_with_its_defaults_is_estimated_at_half_an_hour() -> None:
    assert 1500 < estimate_s(models=4, servers=3, rounds=3, seconds=5.0) < 2100
    assert estimate_s(models=0, servers=3, rounds=3, seconds=5.0) == 0


# Texts


def test_texts_differ_from_each_other_and_are_the_same_in_every_run() -> None:
    texts = make_texts(WORDS, "[MASK]")
    assert len(set(texts)) == 1024
    assert texts == make_texts(WORDS, "[MASK]")
    assert {text.split().count("[MASK]") for text in texts} == {1}
    assert "[MASK]" not in " ".join(make_texts(WORDS, None, 64))


def test_texts_have_5_to_120_words_and_every_block_of_them_is_as_long() -> None:
    lengths = [len(text.split()) for text in make_texts(WORDS, None)]
    blocks = [statistics.mean(block) for block in zip(*[iter(lengths)] * BLOCK, strict=True)]
    assert (min(lengths), max(lengths)) == (SHORTEST, LONGEST)
    assert statistics.mean(lengths) == pytest.approx(27, abs=0.5)
    assert all(mean == pytest.approx(27, abs=2) for mean in blocks)
    assert statistics.median(lengths) == 22


def test_a_text_that_exists_already_is_drawn_again() -> None:
    assert len(set(make_texts(["a", "b"], None, BLOCK))) == BLOCK


# Connection


@pytest.mark.parametrize(
    ("received", "reply"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Le", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc", None),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", Reply(200, b"abc")),
        (b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n", Reply(503, b"")),
    ],
)
def test_a_reply_is_parsed_when_it_is_complete(received: bytes, reply: Reply | None) -> None:
    assert parse_reply(received) == reply


@pytest.mark.parametrize("received", [b"hello\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"])
def test_a_reply_that_this_client_cannot_parse_is_an_error(received: bytes) -> None:
    with pytest.raises(NotHttp):
        parse_reply(received)


def test_the_length_of_a_request_is_in_bytes() -> None:
    assert request_of("\u00e9").endswith(b"Content-Length: 2\r\n\r\n\xc3\xa9")


# Load


class TinyServer:
    """Answers the n-th request, from 1, with the status that `status_of` gives it; without one, it disconnects."""

    def __init__(self, status_of: Callable[[int], int | None], together: int = 1) -> None:
        self.status_of = status_of
        self.statuses: list[int | None] = []
        self.connections = 0
        self._barrier = asyncio.Barrier(together)  # so many requests are answered together

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                body = await reader.readexactly(int(head.rsplit(b":", 1)[1]))
                status = self.status_of(len(self.statuses) + 1)
                self.statuses.append(status)
                await self._barrier.wait()
                if status is None:
                    break
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def listening(tiny: TinyServer) -> AsyncIterator[Address]:
    server = await asyncio.start_server(tiny.serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[:2]


def endless() -> "itertools.cycle[bytes]":
    return itertools.cycle([request_of("one text"), request_of("another")])


def test_a_closed_loop_counts_every_answer_and_every_error() -> None:
    async def main() -> tuple[Tally, TinyServer]:
        tiny = TinyServer(lambda request: 500 if request % 5 == 0 else 200)
        async with listening(tiny) as address:
            return await closed_loop(address, endless(), clients=3, seconds=0.1), tiny

    tally, tiny = asyncio.run(main())
    assert tally.errors == tiny.statuses.count(500) == len(tiny.statuses) // 5 > 0
    assert len(tally.latencies_s) == tiny.statuses.count(200)
    assert tiny.connections == 3
    assert str(tally.first_error).startswith("status 500: ")
    assert tally.per_second == len(tally.latencies_s) / tally.elapsed_s


def test_a_client_whose_connection_breaks_counts_an_error_and_connects_again() -> None:
    async def main() -> tuple[Tally, TinyServer]:
        tiny = TinyServer(lambda request: None if request % 10 == 0 else 200)
        async with listening(tiny) as address:
            return await closed_loop(address, endless(), clients=2, seconds=0.1), tiny

    tally, tiny = asyncio.run(main())
    assert tally.errors == tiny.statuses.count(None) > 0
    assert len(tally.latencies_s) == tiny.statuses.count(200)
    assert tiny.connections == 2 + tally.errors


def test_clients_that_cannot_connect_end_with_an_error_each() -> None:
    async def main() -> tuple[Tally, Tally, list[bytes | None]]:
        async with listening(TinyServer(lambda _: 200)) as address:
            pass
        closed = await closed_loop(address, endless(), clients=4, seconds=60)
        return closed, await open_loop(address, endless(), [0.0, 0.0]), await ask_all(address, [request_of("x")])

    closed, opened, answers = asyncio.run(main())
    assert (closed.errors, opened.errors, answers) == (4, 2, [None])
    assert closed.per_second == 0.0


def test_an_open_loop_sends_every_request_and_counts_every_error() -> None:
    async def main() -> tuple[Tally, TinyServer]:
        tiny = TinyServer(lambda request: 500 if request in {3, 4} else 200)
        async with listening(tiny) as address:
            return await open_loop(address, endless(), [request / 1000 for request in range(20)]), tiny

    tally, tiny = asyncio.run(main())
    assert (tally.errors, len(tally.latencies_s), len(tally.late_s)) == (2, 18, 20)
    assert len(tiny.statuses) == 20


def test_an_open_loop_opens_a_connection_when_all_are_busy() -> None:
    async def main() -> TinyServer:
        tiny = TinyServer(lambda _: 200, together=5)
        async with listening(tiny) as address:
            await open_loop(address, endless(), [0.0] * 5)
        return tiny

    tiny = asyncio.run(main())
    assert (len(tiny.statuses), tiny.connections) == (5, 5)


def test_an_idle_connection_is_used_again_unless_it_is_closed() -> None:
    async def main() -> None:
        async with listening(TinyServer(lambda _: 200)) as address:
            pool = Pool(address, Tally())
            first, second = await pool.acquire(), await pool.acquire()
            assert first is not None
            assert second is not None
            pool.release(first)
            pool.release(second)
            second.close()
            assert await pool.acquire() is first
            pool.release(first)
            pool.close()
            assert not first.usable

    asyncio.run(main())


def test_latency_counts_from_when_a_request_was_due_even_if_it_is_sent_late() -> None:
    async def main() -> Tally:
        async with listening(TinyServer(lambda _: 200)) as address:
            return await open_loop(address, endless(), [-3.0])

    tally = asyncio.run(main())
    assert tally.latencies_s[0] > tally.late_s[0] > 3.0


def test_responses_to_requests_sent_at_once_are_in_order_and_errors_are_none() -> None:
    async def main() -> list[bytes | None]:
        async with listening(TinyServer(lambda _: 200, together=2)) as address:
            good = await ask_all(address, [request_of("a"), request_of("b")])
        async with listening(TinyServer(lambda _: 422)) as address:
            return good + await ask_all(address, [request_of("c")])

    assert asyncio.run(main()) == [b"a", b"b", None]


# The naive servers


def test_each_arrival_restarts_the_wait_of_the_naive_batch() -> None:
    batches: list[list[str]] = []

    def pipe(texts: str | list[str], batch_size: int = 1) -> object:
        batches.append([texts] if isinstance(texts, str) else texts)
        return [f"answer to {text}" for text in texts] if isinstance(texts, list) else f"answer to {texts}"

    async def main() -> list[object]:
        arrivals: asyncio.Queue[naive.Waiting] = asyncio.Queue()
        task = asyncio.create_task(naive.in_batches(pipe, arrivals))
        responses: list[asyncio.Queue[object]] = [asyncio.Queue() for _ in range(4)]
        for text, pause_s, response in zip("abcd", (0.0009, 0.0009, 0.0011, 0.0), responses, strict=True):
            arrivals.put_nowait((text, response))
            await asyncio.sleep(pause_s)  # virtual
        answers = [await response.get() for response in responses]
        task.cancel()
        await asyncio.wait({task})
        return answers

    assert run(main()) == [f"answer to {text}" for text in "abcd"]
    assert batches == [["a", "b", "c"], ["d"]]


# Workers and processes


def test_a_worker_carries_out_the_commands_of_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stdin", io.StringIO("answers 2\nmeasure 0.01 3\n"))
    monkeypatch.setattr(sys, "stdout", written)
    sizes: list[int] = []

    def echo(batch: Sequence[str]) -> Sequence[str]:
        sizes.append(len(batch))
        return batch

    worker.serve_lines(echo, ["a", "b", "c", "d"])
    answers, measured = (json.loads(line) for line in written.getvalue().splitlines())
    assert answers == ["a", "b"]
    assert sizes[:2] == [1, 1]
    assert set(sizes[2:]) == {3}
    assert measured["answers"] == 3 * len(sizes[2:])
    assert Measurement("batches of 3", 0, **measured).answers == measured["answers"]


def test_a_process_that_does_not_start_reports_the_last_lines_of_its_log(tmp_path: Path) -> None:
    async def main(process: Server | Worker) -> None:
        try:
            await process.start()
        finally:
            await process.end()

    with pytest.raises(Failed, match=r"(?s)ended before it listened \(exit status \d\).*Could not import module"):
        asyncio.run(main(Server("nothing:app", {}, tmp_path / "server.log")))
    with pytest.raises(Failed, match=r"(?s)it ended \(exit status 1\).*No module named nothing"):
        asyncio.run(main(Worker("nothing", [], tmp_path / "worker.log")))


def test_a_server_that_fails_is_left_out_and_the_others_are_measured(tmp_path: Path) -> None:
    code = "from starlette.responses import JSONResponse as Answer\napp = Answer([{'label': 'x', 'score': 1.0}])\n"
    (tmp_path / "tiny.py").write_text(code)
    there = Server("tiny:app", {"PYTHONPATH": str(tmp_path)}, tmp_path / "tiny.log")
    missing = Server("nothing:app", {}, tmp_path / "nothing.log")
    found = ModelResult("tiny", "text-classification", "nothing at all")
    asyncio.run(Session(found, Subjects({OURS: missing, NAIVE: there}), ["some", "texts"], 2, 0.02).run())
    ours, other = found.subjects
    assert "Could not import module" in str(ours.failure)
    assert not ours.measurements
    assert other.failure is None
    assert [m.workload for m in other.measurements if m.round == 1] == [w.name for w in (*CLOSED, *OPEN[2:])]
    assert sum(m.errors for m in other.measurements) == 0
    assert not there.alive


# Answers


def answer(**scores: float) -> list[dict[str, object]]:
    return [{"label": label, "score": score} for label, score in scores.items()]


def test_answers_are_compared_by_rank_and_by_what_is_scored() -> None:
    same = answer(a=0.5, b=0.25)
    assert compare([same], [same]) == Difference(1, 0.0, 1)
    assert compare([answer(a=0.5, b=0.25)], [answer(a=0.5, c=0.125)]) == Difference(1, 0.125, 1)
    assert compare([answer(b=0.5, a=0.25)], [answer(a=0.5, b=0.25)]) == Difference(1, 0.25, 0)
    tokens = [{"token": 7, "token_str": "x", "score": 0.5}]
    assert compare([tokens, None], [tokens, tokens]) == Difference(2, 1.0, 1)


# The machine


def test_the_machine_is_read_from_proc() -> None:
    cpuinfo = "model name\t: A CPU\nflags\t\t: fpu avx2 avx512f amx_bf16\n\nmodel name\t: A CPU\nflags\t\t: fpu\n"
    machine = describe(cpuinfo, "MemTotal:       16000000 kB\nMemFree: 1 kB\n")
    assert (machine.processor, machine.memory_gb) == ("A CPU", 16.4)
    assert machine.instructions == ["avx2", "avx512f", "amx_bf16"]
    assert describe("", "").memory_gb is None


def test_noise_is_the_busy_time_of_other_processes() -> None:
    stat = "cpu  100 20 30 9000 500 1 2 3 0 0\ncpu0 50 10 15 4500 250 0 1 2 0 0\n"
    assert busy_ticks(stat) == 100 + 20 + 30 + 1 + 2 + 3
    assert own_ticks("4711 (a ) name) S 1 2 3 4 5 6 7 8 9 10 40 5 77 88 20 0") == 45
    assert Noise([2**30]).cores() is None  # there is no such process


# The report


def measured(workload: str, turn: int, rate: float) -> Measurement:
    return Measurement(workload, turn, rate, 1000 / rate, 2000 / rate, 100, 1.0, rate_per_s=rate, others_cores=0.02)


def subject(name: str, rates: list[float], workloads: list[str]) -> SubjectResult:
    figures = [measured(workload, turn, rate) for workload in workloads for turn, rate in enumerate(rates)]
    return SubjectResult(name, 512.0, measurements=figures)


def example_results() -> Results:
    names = [w.name for w in (*CLOSED, *OPEN)]
    ours, other = subject(OURS, [40.0, 50.0, 90.0], names), subject(NAIVE, [10.0, 20.0, 30.0], names)
    ours.difference = Difference(50, 1.5e-6, 50)
    workers = [subject(DIRECT, [25.0], ["one caller"]), subject(OFFLINE, [80.0], ["batches of 8"])]
    workers[1].measurements.append(measured("batches of 16", 0, 70.0))
    model = ModelResult("tiny", "fill-mask", "a tiny one", [ours, other, *workers])
    machine = Machine("A CPU", 2, 16.0, ["avx2"], "Linux x86_64")
    return Results("2026-01-02", 5.0, 3, machine, {"python": "3.11.0", "torch": "2.13.0"}, [model])


def test_results_are_read_from_their_file_as_they_were_saved(tmp_path: Path) -> None:
    found = example_results()
    tally = Tally(first_error="status 500", errors=1)
    found.soak = soak_of("tiny", tally, [(0.0, 100.0), (60.0, 101.0), (120.0, 102.0)], None)
    results.save(found, tmp_path / "results.json")
    assert results.read(tmp_path / "results.json") == found


def test_the_report_has_medians_and_ratios_of_rounds() -> None:
    text = report.render(example_results())
    lines = text.splitlines()
    assert "| tiny | 50.0 | 20.0 | - | 3.00 (2.50 to 4.00) | 20.0 / 40.0 | 50.0 / 100 |" in lines
    closed = "| 50.0 | 20.0 / 40.0 " * 3
    assert f"| this server {closed}| 512 |" in lines
    assert f"| this server {'| 3.00 (2.50 to 4.00) ' * 3}{'| 0.33 (0.25 to 0.40) ' * 3}|" in lines
    assert f"| naive server {'| 20.0/s: 50.0 / 100 ' * 4}|" in lines
    assert "| this server's engine, no server: batches of 8 | 80.0 | 12.5 / 25.0 | 8.00 (8.00 to 8.00) | 512 |" in lines
    assert "| this server | 1.5e-06 | 50 of 50 |" in lines
    assert "A CPU, 2 cores, 16 GB, avx2; Linux x86_64." in lines
    assert "python 3.11.0, torch 2.13.0." in lines
    assert "Meanwhile others took 0.02 cores (median of all measurements; at most 0.02)." in text
    assert not report.problems(example_results())


def test_the_report_says_loudly_that_the_machine_was_not_quiet() -> None:
    found = example_results()
    for one in found.models[0].subjects:
        one.measurements = [replace(m, others_cores=0.5) for m in one.measurements]
    assert "**THE MACHINE WAS NOT QUIET" in report.render(found)
    for one in found.models[0].subjects:
        one.measurements = [replace(m, others_cores=None) for m in one.measurements]
    assert "is not known" in report.render(found)


def test_the_report_begins_with_failures_and_errors() -> None:
    found = example_results()
    found.models[0].subjects[0].measurements.append(
        measurement_of(Tally(errors=3, first_error="status 500: oops"), "32 clients", 2)
    )
    found.models[0].subjects.append(SubjectResult(NAIVE_BATCHING, failure="it ended; its last lines:\nKilled"))
    text = report.render(found)
    assert text.startswith("# Benchmarks\n\n## THIS RUN HAD ERRORS\n")
    assert "tiny, this server, 32 clients, round 3: 3 errors, e.g. `status 500: oops`" in text
    assert "tiny, naive server, batching FAILED:\n\n```text\nit ended; its last lines:\nKilled\n```" in text
    assert "| naive server, batching | - | - | - | - | - | - | - |" in text


def test_a_soak_has_the_first_last_and_largest_memory_and_the_slopes_per_minute() -> None:
    samples = [(0.0, 100.0), (60.0, 130.0), (120.0, 120.0), (180.0, 122.0)]
    found = soak_of("tiny", Tally(), samples, None)
    assert (found.first_mb, found.last_mb, found.max_mb) == (100.0, 122.0, 130.0)
    assert [found.mb_per_minute, found.late_mb_per_minute] == pytest.approx([5.6, 2.0])
    assert "| 100 | 122 | 130 | +5.60 | +2.00 |" in report.soak(found)
    assert report.soak(soak_of("tiny", Tally(), [], "it ended")).endswith("| - | - | - | +0.00 | +0.00 |")


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = pytest.importorskip("benchmarks.plot")
    plot.write(example_results(), tmp_path)
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")


# Imports


def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_only_two_files_of_the_benchmarks_import_the_server() -> None:
    server = {"server", "batching", "config", "pipeline_webserver"}
    imports = {path.name: imports_of(path) & server for path in FOLDER.glob("*.py")}
    assert {name for name, names in imports.items() if names} == {"offline.py", "empty.py"}


def test_every_file_opens_with_what_it_owns() -> None:
    for path in FOLDER.glob("*.py"):
        assert len((ast.get_docstring(ast.parse(path.read_text())) or "").split()) > 10


def test_the_load_generator_imports_no_heavy_package() -> None:
    code = "import sys, benchmarks.__main__; print(*({'torch', 'transformers', 'matplotlib'} & {*sys.modules}))"
    output = subprocess.run([sys.executable, "-c", code], cwd=FOLDER.parent, capture_output=True, text=True, check=True)
    assert output.stdout == "\n"
