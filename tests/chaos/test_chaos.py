"""The chaos test in short, with a real process; and that it would report what it looks for."""

import asyncio
from collections import Counter
from pathlib import Path

import orjson
import pytest

from benchmarks.connection import Reply
from tests.chaos.__main__ import Options, Report, run_chaos
from tests.chaos.account import Account
from tests.chaos.clients import Clients
from tests.chaos.mix import WEIGHTS, Mix
from tests.chaos.plans import Plan, Text
from tests.chaos.server_side import Counts, Log, disagreements

WORDS = ["sun", "sea", "dog", "king", "tree", "city"]
GOOD = Plan("good", 1, (b"POST",), frozenset({200, 503}), (Text("the sun", "here"),), predictions=1, inputs=1)
LEAVING = Plan("leaves_waiting", 2, (b"POST",), frozenset({200}), (Text("a sea", "there"),), inputs=1, leaves=True)
RIGHT = Reply(200, b'[{"sequence": "the sun is here"}]')


def error(status: int, error_type: str) -> Reply:
    return Reply(status, orjson.dumps({"error": "no", "error_type": error_type}))


def account_of(*ends: tuple[Plan, Reply | Exception | None]) -> Account:
    account = Account()
    for plan, end in ends:
        account.begin(plan)
        if isinstance(end, Exception):
            account.fail(plan, end)
        else:
            account.end(plan, end)
    return account


def counts(requests: dict[tuple[str, int], int], inputs: int, in_flight: int = 0) -> Counts:
    return Counts(Counter(requests), {"answered": inputs}, in_flight, 0, {})


# The real thing


@pytest.mark.extended
def test_under_twice_its_capacity_a_failing_model_and_every_kind_of_client_no_promise_is_broken(tmp_path: Path) -> None:
    rates = {"CHAOS_OUT_OF_MEMORY": "1", "CHAOS_MAX_ROWS": "1", "CHAOS_RAISE": "0.7", "CHAOS_HANG": "0"}
    quick = {"PIPELINE_ACCELERATE": "false", "PIPELINE_THREADS": "1", "PIPELINE_REQUEST_TIMEOUT_S": "2"}
    options = Options(seconds=3.0, capacity_s=0.5, drain_s=2.0, marked=0.2, environment={**rates, **quick})
    report = asyncio.run(run_chaos(options, tmp_path))
    assert report.broken == [], "\n".join(report.lines())
    assert report.counts is not None
    assert report.counts.faults["raise"] > 0
    assert report.counts.faults["out_of_memory"] > 0
    assert report.counts.faults["hang"] == 0
    assert report.main.vanished.total() > 0
    assert report.drain.answers.total() > 0
    assert report.exit_status == 0


# What it would report


def test_all_that_is_in_order_breaks_nothing() -> None:
    account = account_of((GOOD, RIGHT), (GOOD, error(503, "overloaded")), (LEAVING, None))
    assert account.broken(may_be_refused=False) == []
    assert account.answers == {("good", 200): 1, ("good", 503): 1}
    assert account.vanished == {"leaves_waiting": 1}


def test_a_missing_answer_is_lost() -> None:
    account = account_of((GOOD, ConnectionResetError("it closed")))
    assert account.lost == {"good": 1}
    assert account.broken(may_be_refused=True) == ["lost: good 1: ConnectionResetError: it closed"]


def test_a_request_that_never_ends_is_missed() -> None:
    account = account_of((GOOD, RIGHT))
    account.begin(GOOD)
    assert account.broken(may_be_refused=True) == ["2 sent, but 1 ended"]


@pytest.mark.parametrize(
    "reply",
    [
        error(504, "deadline_exceeded"),  # it may get 200 and 503
        error(503, "internal"),
        Reply(503, b"Service Unavailable"),
        Reply(200, b'[{"sequence": "a sea is there"}]'),
        Reply(200, b'[{"sequence": "the sun is here"}, {"sequence": "the sun was here"}]'),
        Reply(200, b"[]"),
        Reply(200, b"{}"),
        Reply(200, b""),
    ],
)
def test_an_answer_that_this_client_should_not_get_is_wrong(reply: Reply) -> None:
    account = account_of((GOOD, reply))
    line = f"wrong: good 1: {reply.status} {reply.body.decode()}"
    assert account.broken(may_be_refused=False) == [line]


def test_of_a_list_each_answer_has_to_be_that_of_its_own_text() -> None:
    texts = (Text("the sun", "here"), Text("a sea", "there"))
    plan = Plan("list", 1, (b"POST",), frozenset({200}), texts, predictions=1, is_list=True)
    one, other = {"sequence": "the sun is here"}, {"sequence": "a sea is there"}
    assert plan.fault_of(Reply(200, orjson.dumps([[one], [other]]))) is None
    assert plan.fault_of(Reply(200, orjson.dumps([[other], [one]]))) is not None
    assert plan.fault_of(Reply(200, orjson.dumps([[one]]))) is not None


def test_only_a_text_with_the_mark_may_fail_in_the_model() -> None:
    mix = Mix(1, WORDS, 0.03)
    plans = [mix.make("good") for _ in range(500)]
    may_fail = {plan.number for plan in plans if 500 in plan.allowed}
    assert may_fail == {plan.number for plan in plans if b" fault [MASK]" in plan.parts[0]}
    assert 0 < len(may_fail) < 100


def test_a_refused_connection_is_forgiven_only_at_the_end() -> None:
    account = account_of((GOOD, ConnectionRefusedError()))
    assert account.broken(may_be_refused=False) == ["1 connections refused"]
    assert account.broken(may_be_refused=True) == []


def test_at_the_end_no_answer_is_missed_for_a_request_that_the_server_never_had() -> None:
    account = account_of((GOOD, ConnectionResetError()), (LEAVING, ConnectionResetError()))
    account.forgive({LEAVING.number})
    assert account.refused == {"good": 1}
    assert account.lost == {"leaves_waiting": 1}


def test_a_connection_that_the_server_closes_without_an_answer_is_lost() -> None:
    async def close_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async def main() -> Account:
        server = await asyncio.start_server(close_at_once, "127.0.0.1", 0)
        async with server:
            clients = Clients(server.sockets[0].getsockname(), Account(), keep=True)
            for kind in ("good", "slow_body", "leaves_in_body", "leaves_in_head"):
                await clients.ask(mix.make(kind))
        return clients.account

    mix = Mix(1, WORDS, 0.03)
    account = asyncio.run(main())
    assert account.lost.keys() >= {"good", "slow_body"}
    assert account.vanished.keys() >= {"leaves_in_head"}
    assert account.sent.total() == 4 == account.lost.total() + account.vanished.total()


def test_what_the_server_counts_has_to_be_what_came() -> None:
    account = account_of((GOOD, RIGHT), (GOOD, RIGHT), (LEAVING, None))
    came = account.by_route

    def found(requests: dict[tuple[str, int], int], inputs: int, in_flight: int = 0) -> list[str]:
        return disagreements(account, came, counts(requests, inputs, in_flight))

    assert found({("/", 200): 2}, 2) == []
    assert found({("/", 200): 2, ("/", 499): 1}, 3) == []
    assert found({("/", 200): 1}, 2) == ["/ 200: 2 came, the server counts 1"]
    assert found({("/", 200): 2, ("/", 400): 1}, 2) == ["/ 400: 0 came, the server counts 1"]
    assert found({("/", 200): 2, ("/", 499): 2}, 2) == [
        "the server counts 2 requests more than came, but 1 vanished",
    ]
    assert found({("/", 200): 2}, 1) == ["2 to 3 inputs went in, 1 came out"]
    assert found({("/", 200): 2}, 4) == ["2 to 3 inputs went in, 4 came out"]
    assert found({("/", 200): 2}, 2, 1) == ["1 inputs are left in flight"]


def test_the_log_tells_injected_tracebacks_from_others() -> None:
    log = Log.of(
        [
            "INFO:     client=127.0.0.1:1 method=POST path=/ status=500 request_id=17 total_ms=1.0",
            "ERROR:    The model failed on request 17",
            "Traceback (most recent call last):",
            '  File "chaos_app.py", line 1, in strike',
            "RuntimeError: an injected failure",
            "CRITICAL: Stalled: The model has been busy with one pass for 3 s.",
            "WARNING:  The stalled call goes on.",
            "Traceback (most recent call last):",
            '  File "server.py", line 1, in infer',
            "",
            "KeyError: 'a bug'",
        ]
    )
    assert log.numbers == {17}
    assert log.foreign == ["KeyError: 'a bug'"]
    assert log.broken(hangs=1) == ["not injected: KeyError: 'a bug'"]


def test_a_stall_belongs_to_a_hang_and_ends() -> None:
    assert Log(stalls=1, recoveries=1).broken(hangs=2) == []  # two in one batch
    assert Log(stalls=1).broken(hangs=1) == ["1 stalls, 0 recoveries"]
    assert Log().broken(hangs=1) == ["1 passes hung, but 0 stalls"]
    assert Log(stalls=1, recoveries=1).broken(hangs=0) == ["0 passes hung, but 1 stalls"]


def test_the_same_seed_makes_the_same_requests_of_every_kind() -> None:
    one, same, other = ([mix.next() for _ in range(2_000)] for mix in (Mix(seed, WORDS, 0.03) for seed in (1, 1, 2)))
    assert one == same != other
    assert {plan.kind for plan in one} == set(WEIGHTS)


def test_the_report_says_what_was_broken() -> None:
    report = Report(Options(10.0), main=account_of((GOOD, RIGHT), (GOOD, OSError("gone"))), broken=["lost: good"])
    assert report.lines()[-2:] == ["broken promises:", "lost: good"]
    assert [line.split() for line in report.main.table()] == [
        ["kind", "sent", "200", "lost"],
        ["good", "2", "1", "1"],
        ["all", "2", "1", "1"],
    ]
    report.broken = []
    assert report.lines()[-1] == "no promise was broken"
