"""The rules of batching, on a virtual clock: every time is exact."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from batching import MAX_JOINS, Batcher
from pipeline_webserver.errors import Draining, InferenceFailed, Overloaded, Rejected, Unavailable
from pipeline_webserver.scheduling.batch_policy import BatchPolicy
from pipeline_webserver.telemetry import metrics
from tests.support.clock import run
from tests.support.fakes import FakeRunner

MS = 0.001
Batches = list[tuple[float, list[str]]]


def dropped(reason: str) -> float:
    return float(metrics.INPUTS.labels(reason)._value.get())


def unhealthy_reason(batcher: Batcher) -> str | None:
    return batcher.unhealthy_reason


def state() -> str:
    (metric,) = metrics.STATE.collect()
    (on,) = [sample.labels["pipeline_state"] for sample in metric.samples if sample.value]
    return on


def make(
    runner: FakeRunner,
    *,
    size: int = 4,
    tokens: int = 512,
    wait_s: float = MS,
    max_in_flight: int = 512,
    timeout_s: float = 30,
) -> Batcher:
    """A started batcher that measures with the loop's own clock."""
    clock = asyncio.get_running_loop().time
    batcher = Batcher(runner, BatchPolicy(size, tokens, wait_s), max_in_flight, timeout_s, clock)
    batcher.start()
    return batcher


def play(
    arrivals: list[tuple[float, str]], *, model_s: float = 0.0, size: int = 4, tokens: int = 512, wait_s: float = MS
) -> Batches:
    """The batches, each with the time it started, that come of texts arriving at these times."""

    async def main() -> Batches:
        runner = FakeRunner(model_s)
        batcher = make(runner, size=size, tokens=tokens, wait_s=wait_s)
        loop = asyncio.get_running_loop()
        entries: asyncio.Queue[Any] = asyncio.Queue()

        def arrive(texts: list[str]) -> None:
            for text in texts:
                entries.put_nowait(batcher.submit([text], {})[0])

        # One timer for each time: the heap of timers does not keep the order of equal ones.
        for at, together in itertools.groupby(arrivals, key=lambda arrival: arrival[0]):
            texts = [text for _, text in together]
            loop.call_at(at, arrive, texts)
        for _ in arrivals:
            entry = await entries.get()
            assert (await entry.response_queue.get()).output == str(entry.input).upper()
        await batcher.stop()
        return runner.batches

    return run(main())


# When batches are dispatched


def test_a_single_entry_waits_the_batch_wait_and_no_longer() -> None:
    assert play([(5 * MS, "a")]) == [(6 * MS, ["a"])]


def test_arrivals_up_to_the_deadline_join_and_later_ones_do_not() -> None:
    arrivals = [(0.0, "a"), (0.999 * MS, "just before"), (MS, "at"), (1.001 * MS, "just after")]
    assert play(arrivals) == [(MS, ["a", "just before", "at"]), (0.002001, ["just after"])]


def test_later_arrivals_do_not_move_the_deadline() -> None:
    arrivals = [(0.0, "a"), (0.6 * MS, "b"), (1.2 * MS, "c"), (1.8 * MS, "d")]
    assert play(arrivals) == [(MS, ["a", "b"]), (2.2 * MS, ["c", "d"])]


def test_an_entry_after_one_that_was_alone_to_its_end_does_not_wait() -> None:
    arrivals = [(0.0, "a"), (10 * MS, "b"), (20 * MS, "c"), (21 * MS, "d"), (30 * MS, "e"), (30.5 * MS, "f")]
    assert play(arrivals, model_s=2 * MS) == [
        (1 * MS, ["a"]),  # nothing is known of later arrivals
        (10 * MS, ["b"]),
        (20 * MS, ["c"]),
        (22 * MS, ["d"]),  # it arrived while another was in flight, and waited for it
        (30 * MS, ["e"]),
        (32 * MS, ["f"]),
    ]


def test_a_wait_that_passed_while_the_model_was_busy_is_not_waited_again() -> None:
    arrivals = [(0.0, "a"), (50 * MS, "b"), (100.5 * MS, "c")]
    assert play(arrivals, model_s=0.1) == [(MS, ["a"]), (101 * MS, ["b", "c"])]


def test_an_entry_that_arrived_shortly_before_the_model_was_free_waits_only_the_rest() -> None:
    assert play([(0.0, "a"), (100.5 * MS, "b")], model_s=0.1) == [(MS, ["a"]), (101.5 * MS, ["b"])]


def test_a_full_batch_is_dispatched_at_once() -> None:
    arrivals = [(0.0, "a"), (0.1 * MS, "b"), (0.2 * MS, "c"), (0.3 * MS, "d"), (0.4 * MS, "e")]
    assert play(arrivals) == [(0.3 * MS, ["a", "b", "c", "d"]), (1.4 * MS, ["e"])]


def test_a_batch_full_of_tokens_is_dispatched_at_once() -> None:
    arrivals = [(0.0, "two words"), (0.1 * MS, "and two"), (0.2 * MS, "one")]
    assert play(arrivals, tokens=4) == [(0.1 * MS, ["two words", "and two"]), (1.2 * MS, ["one"])]


def test_an_entry_that_does_not_fit_dispatches_the_batch_and_is_the_oldest_of_the_next() -> None:
    arrivals = [(0.0, "two words"), (0.1 * MS, "now three words"), (0.2 * MS, "one")]
    assert play(arrivals, tokens=4) == [(0.1 * MS, ["two words"]), (0.2 * MS, ["now three words", "one"])]


def test_an_entry_over_the_token_limit_runs_alone() -> None:
    assert play([(0.0, "a b c d e"), (0.0, "f")], tokens=4) == [(0.0, ["a b c d e"]), (MS, ["f"])]


def test_wait_zero_never_waits_but_takes_what_is_there() -> None:
    arrivals = [(0.0, "a"), (0.0, "b"), (0.1 * MS, "c")]
    assert play(arrivals, wait_s=0) == [(0.0, ["a", "b"]), (0.1 * MS, ["c"])]


def test_a_burst_larger_than_a_batch_goes_in_full_batches_without_a_gap() -> None:
    burst = [(0.0, letter) for letter in "abcdefghij"]
    assert play(burst, model_s=0.1) == [(0.0, list("abcd")), (0.1, list("efgh")), (0.2, list("ij"))]


def test_the_next_batch_gathers_while_the_model_is_busy_in_order_of_arrival() -> None:
    arrivals = [(0.0, "a")] + [(10 * MS * i, letter) for i, letter in enumerate("bcdef", start=1)]
    assert play(arrivals, model_s=0.1) == [(MS, ["a"]), (101 * MS, list("bcde")), (201 * MS, ["f"])]


def test_a_stream_of_invalid_inputs_does_not_delay_the_others() -> None:
    async def main() -> Batches:
        runner = FakeRunner(preprocess_s=MS)
        batcher = make(runner)
        loop = asyncio.get_running_loop()
        good = batcher.submit(["good"], {})
        for tenth in range(1, 100):
            loop.call_at(tenth * 0.1 * MS, batcher.submit, ["bad"], {})
        await good[0].response_queue.get()
        await batcher.drain(1)
        return runner.batches

    # Ready at 1 ms, when it is due; what has arrived meanwhile may join, for as many calls of preprocessing.
    assert run(main()) == [((1 + MAX_JOINS) * MS, ["good"])]


# Preprocessing beside the model


def test_a_batch_follows_a_batch_without_a_gap_for_preprocessing() -> None:
    async def main() -> Batches:
        runner = FakeRunner(model_s=0.1, preprocess_s=0.03)
        batcher = make(runner, wait_s=0)
        batcher.submit(["a"], {})
        await asyncio.sleep(0.05)
        batcher.submit(["b"], {})
        await asyncio.sleep(0.05)
        batcher.submit(["c"], {})
        await batcher.drain(10)
        return runner.batches

    assert run(main()) == [(0.03, ["a"]), (0.13, ["b", "c"])]


def test_an_invalid_input_is_rejected_while_the_model_is_busy() -> None:
    async def steps(runner: FakeRunner, batcher: Batcher) -> None:
        batcher.submit(["busy"], {})
        await asyncio.sleep(0.5)
        (bad,) = batcher.submit(["bad"], {})
        assert isinstance((await bad.response_queue.get()).error, Rejected)
        assert asyncio.get_running_loop().time() == 0.5

    scenario(steps)


def test_what_is_ready_and_overtaken_returns_to_the_queue() -> None:
    async def main() -> None:
        runner = FakeRunner(model_s=1)
        batcher = make(runner, size=2, wait_s=0)
        batcher.submit(["busy"], {})
        await asyncio.sleep(0.25)
        entries = batcher.submit([f"list {number}" for number in range(4)], {})
        await asyncio.sleep(1)  # the first two run, the others are ready
        assert [entry.prepared is not None for entry in entries] == [True] * 4
        batcher.submit(["x"], {})
        await asyncio.sleep(0.25)
        assert [entry.prepared is not None for entry in entries] == [True, True, True, False]
        await batcher.drain(100)
        assert [texts for _, texts in runner.batches] == [["busy"], ["list 0", "list 1"], ["x", "list 2"], ["list 3"]]

    run(main())


def test_preprocessing_that_a_running_batch_hides_is_no_part_of_what_a_batch_costs() -> None:
    async def main() -> None:
        batcher = make(FakeRunner(model_s=1, preprocess_s=0.5), size=1, wait_s=0)
        batcher.submit(["a"], {})
        batcher.submit(["b"], {})
        await batcher.drain(10)
        assert [cost.seconds for cost in batcher.latency_model._costs] == [1.5, 1]

    run(main())


def test_preprocessing_that_is_stuck_is_unhealthy() -> None:
    async def main() -> None:
        batcher = make(FakeRunner(preprocess_s=100), timeout_s=10)
        batcher.submit(["a"], {})
        await asyncio.sleep(11)
        assert unhealthy_reason(batcher) == "Preprocessing has been busy with one input for 11 s."
        assert state() == "stuck"
        await batcher.stop()

    run(main())


# What becomes of each entry


def scenario(steps: Callable[[FakeRunner, Batcher], Awaitable[None]], **limits: float) -> None:
    """Play some steps with a runner that is held by its gate."""

    async def main() -> None:
        runner = FakeRunner(gate=asyncio.Event())
        batcher = make(runner, **limits)  # type: ignore[arg-type]
        await steps(runner, batcher)
        await batcher.stop()
        assert len(batcher.admission) == 0

    run(main())


def gate(runner: FakeRunner) -> asyncio.Event:
    assert runner.gate is not None
    return runner.gate


def test_a_result_has_its_times_and_the_size_of_its_batch() -> None:
    async def main() -> None:
        batcher = make(FakeRunner(model_s=0.25), wait_s=0.125)
        first, second = batcher.submit(["a", "b"], {})
        assert (await first.response_queue.get()).output == "A"
        answer = await second.response_queue.get()
        assert (answer.queue_s, answer.model_s, answer.batch_size) == (0.125, 0.25, 2)
        await batcher.stop()

    run(main())


def test_an_invalid_input_fails_alone_and_before_the_model() -> None:
    async def steps(runner: FakeRunner, batcher: Batcher) -> None:
        good, bad = batcher.submit(["good", "bad"], {})
        assert isinstance((await bad.response_queue.get()).error, Rejected)
        assert runner.batches == []
        gate(runner).set()
        assert (await good.response_queue.get()).output == "GOOD"
        assert runner.batches == [(MS, ["good"])]

    scenario(steps)


def test_an_input_that_the_model_fails_on_fails_alone() -> None:
    async def steps(runner: FakeRunner, batcher: Batcher) -> None:
        gate(runner).set()
        good, poison = batcher.submit(["good", "poison"], {})
        assert (await good.response_queue.get()).output == "GOOD"
        assert isinstance((await poison.response_queue.get()).error, InferenceFailed)

    scenario(steps)


def test_a_cancelled_entry_is_dropped_before_the_model_and_counted() -> None:
    async def steps(runner: FakeRunner, batcher: Batcher) -> None:
        before = dropped("cancelled"), dropped("expired")
        (busy,) = batcher.submit(["busy"], {})
        await asyncio.sleep(0.5)
        gone, kept = batcher.submit(["gone", "kept"], {})
        gone.cancelled = True
        await asyncio.sleep(0.5)  # the deadline of the one in the model, which goes on
        gate(runner).set()
        assert (await busy.response_queue.get()).output == "BUSY"
        assert (await kept.response_queue.get()).output == "KEPT"
        assert [texts for _, texts in runner.batches] == [["busy"], ["kept"]]
        assert (dropped("cancelled"), dropped("expired")) == (before[0] + 1, before[1])

    scenario(steps, timeout_s=1)


def test_an_entry_that_expires_while_the_model_is_busy_is_dropped_and_counted() -> None:
    async def steps(runner: FakeRunner, batcher: Batcher) -> None:
        before = dropped("expired")
        batcher.submit(["busy"], {})
        await asyncio.sleep(0.5)
        batcher.submit(["late"], {})
        await asyncio.sleep(1)
        gate(runner).set()
        await asyncio.sleep(0.5)
        assert [texts for _, texts in runner.batches] == [["busy"]]
        assert dropped("expired") == before + 1
        assert len(batcher.admission) == 0

    scenario(steps, timeout_s=1)


# Admission


def test_a_list_is_admitted_whole_or_not_at_all() -> None:
    async def steps(runner: FakeRunner, batcher: Batcher) -> None:
        batcher.submit(["a", "b"], {})
        with pytest.raises(Overloaded, match="2 of 3 inputs are in flight"):
            batcher.submit(["c", "d"], {})
        assert len(batcher.admission) == 2
        batcher.submit(["c"], {})
        assert len(batcher.admission) == 3

    scenario(steps, max_in_flight=3)


def test_there_is_room_again_once_an_entry_is_complete() -> None:
    async def steps(runner: FakeRunner, batcher: Batcher) -> None:
        (first,) = batcher.submit(["a"], {})
        with pytest.raises(Overloaded):
            batcher.submit(["b"], {})
        gate(runner).set()
        await first.response_queue.get()
        (second,) = batcher.submit(["b"], {})
        assert (await second.response_queue.get()).output == "B"

    scenario(steps, max_in_flight=1)


def test_cancelled_entries_stay_in_flight_until_the_loop_drops_them_so_that_memory_is_bounded() -> None:
    async def steps(runner: FakeRunner, batcher: Batcher) -> None:
        batcher.submit(["busy"], {})
        await asyncio.sleep(0.5)
        for entry in batcher.submit(["gone", "gone"], {}):
            entry.cancelled = True
        with pytest.raises(Overloaded):
            batcher.submit(["more"], {})
        gate(runner).set()
        await asyncio.sleep(0.5)
        assert len(batcher.admission) == 0

    scenario(steps, max_in_flight=3)


def test_a_rejection_says_when_the_backlog_will_be_done_at_the_measured_rate() -> None:
    async def main() -> None:
        batcher = make(FakeRunner(model_s=2), max_in_flight=8)
        (first,) = batcher.submit(["a"], {})
        await first.response_queue.get()  # 2 s for one token
        batcher.submit(list("abcdefgh"), {})
        with pytest.raises(Overloaded) as refusal:
            batcher.submit(["i"], {})
        assert refusal.value.retry_after_s == 16
        await batcher.stop()

    run(main())


# Lists


def test_a_list_shares_batches_with_later_arrivals() -> None:
    async def main() -> list[list[str]]:
        runner = FakeRunner(model_s=1)
        batcher = make(runner, size=2, wait_s=0)
        batcher.submit(["first"], {})
        await asyncio.sleep(0.5)
        batcher.submit([f"list {number}" for number in range(5)], {})
        for single in ("x", "y", "z"):
            batcher.submit([single], {})
        await batcher.drain(100)
        return [texts for _, texts in runner.batches]

    # The second of the list ranks behind x, the third behind y, the fourth behind z.
    batches = run(main())
    assert batches == [["first"], ["list 0", "list 1"], ["x", "list 2"], ["y", "list 3"], ["z", "list 4"]]


def test_lists_one_after_the_other_do_not_delay_a_single_input() -> None:
    async def main() -> None:
        runner = FakeRunner(model_s=1)
        batcher = make(runner, size=4, wait_s=0)
        for number in range(3):
            batcher.submit([f"{number}" for _ in range(16)], {})
        await asyncio.sleep(0.5)
        (single,) = batcher.submit(["single"], {})
        assert (await single.response_queue.get()).queue_s == 1.5
        assert [texts for _, texts in runner.batches][2] == ["2", "single", "0", "1"]
        await batcher.stop()

    run(main())


# Inputs that would miss their deadline


def rejection(backlog: int, timeout_s: float, *, elapsed_s: float = 0.0) -> str | None:
    """Why one more input is not admitted, with so many before it, each of which takes a second alone."""

    async def main() -> str | None:
        loop = asyncio.get_running_loop()
        batcher = make(FakeRunner(model_s=1), size=1, wait_s=0)
        (known,) = batcher.submit(["a"], {})
        await known.response_queue.get()
        for _ in range(backlog):
            batcher.submit(["b"], {})
        await asyncio.sleep(elapsed_s)
        refusals = metrics.REJECTED.labels("deadline")
        before = refusals._value.get()
        try:
            batcher.submit(["c"], {}, loop.time() + timeout_s)
        except Overloaded as error:
            assert refusals._value.get() == before + 1
            return f"{error} Retry-After: {error.retry_after_s}"
        finally:
            await batcher.stop()
        assert refusals._value.get() == before
        return None

    return run(main())


def test_an_input_that_would_miss_its_deadline_is_rejected_at_once_with_a_time_to_retry() -> None:
    assert rejection(7, timeout_s=10) is None  # with a quarter on top, since it may take longer
    words = "The server is busy: the answer may take about 11 s; the deadline is in 10 s."
    assert rejection(8, timeout_s=10) == f"{words} Retry-After: 2"
    words = "The server is busy: the answer may take about 26 s; the deadline is in 2.5 s."
    assert rejection(20, timeout_s=2.5) == f"{words} Retry-After: 24"


def test_what_the_running_batch_has_done_already_counts() -> None:
    assert rejection(2, timeout_s=3) is not None
    assert rejection(2, timeout_s=3, elapsed_s=0.7) is None


def test_a_heartbeat_does_not_make_a_busy_batch_look_as_if_it_had_just_begun() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        runner = FakeRunner(model_s=8)
        batcher = make(runner, size=1, wait_s=0)
        (known,) = batcher.submit(["a"], {}, loop.time() + 100)
        await known.response_queue.get()
        batcher.submit(["b"], {}, loop.time() + 100)
        await asyncio.sleep(7.9)
        runner.heartbeat()
        (last,) = batcher.submit(["c"], {}, loop.time() + 12)
        assert (await last.response_queue.get()).output == "C"
        assert loop.time() == 24
        await batcher.stop()

    run(main())


def test_an_idle_server_admits_any_input() -> None:
    assert rejection(0, timeout_s=0.001) is None


def test_a_list_in_flight_does_not_keep_out_an_input_that_would_overtake_it() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        batcher = make(FakeRunner(model_s=1), size=1, wait_s=0)
        (known,) = batcher.submit(["a"], {})
        await known.response_queue.get()
        batcher.submit(["list"] * 20, {})
        await asyncio.sleep(0.1)
        (single,) = batcher.submit(["b"], {}, loop.time() + 4)
        assert (await single.response_queue.get()).output == "B"
        assert loop.time() == 4
        with pytest.raises(Overloaded):
            batcher.submit(["list"] * 4, {}, loop.time() + 3)
        await batcher.stop()

    run(main())


# Shutdown and failure


def test_draining_admits_no_input_and_completes_all_in_flight() -> None:
    async def main() -> None:
        batcher = make(FakeRunner(model_s=1), size=1)
        entries = batcher.submit(["a", "b", "c"], {})
        drain = asyncio.create_task(batcher.drain(25))
        await asyncio.sleep(0.5)
        with pytest.raises(Draining):
            batcher.submit(["d"], {})
        await drain
        assert [entry.response_queue.get_nowait().output for entry in entries] == ["A", "B", "C"]
        assert asyncio.get_running_loop().time() == 3

    run(main())


def test_a_drain_that_takes_too_long_completes_the_rest_with_draining() -> None:
    async def main() -> None:
        batcher = make(FakeRunner(model_s=10), size=1)
        entries = batcher.submit(["a", "b", "c"], {})
        await batcher.drain(15)
        assert asyncio.get_running_loop().time() == 15
        answers = [entry.response_queue.get_nowait() for entry in entries]
        assert answers[0].output == "A"
        assert [type(answer.error) for answer in answers[1:]] == [Draining, Draining]
        assert len(batcher.admission) == 0

    run(main())


def test_draining_an_idle_server_takes_no_time() -> None:
    async def main() -> None:
        await make(FakeRunner()).drain(25)
        assert asyncio.get_running_loop().time() == 0

    run(main())


@pytest.mark.parametrize("fault", ["broken", "bug", "panic", "short"])
def test_when_the_loop_dies_every_entry_completes_and_health_is_red(
    fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def steps(runner: FakeRunner, batcher: Batcher) -> None:
        assert unhealthy_reason(batcher) is None
        in_the_model = batcher.submit([fault, "a"], {})
        await asyncio.sleep(0.5)
        in_the_queue = batcher.submit(["b", "c"], {})
        gate(runner).set()
        for entry in [*in_the_model, *in_the_queue]:
            assert isinstance((await entry.response_queue.get()).error, Unavailable)
        await asyncio.sleep(0)
        words = "The model is broken." if fault == "broken" else "The server loop died of a bug."
        assert unhealthy_reason(batcher) == words
        with pytest.raises(Unavailable, match=words):
            batcher.submit(["d"], {})
        assert caplog.records[-1].levelname == "CRITICAL"
        assert caplog.records[-1].exc_info is not None
        batcher.draining = True
        assert unhealthy_reason(batcher) == words  # a shutdown does not make it well again

    scenario(steps)


def test_a_model_that_is_stuck_in_one_batch_is_unhealthy() -> None:
    async def steps(runner: FakeRunner, batcher: Batcher) -> None:
        batcher.submit(["a"], {})
        await asyncio.sleep(5)
        assert unhealthy_reason(batcher) is None
        await asyncio.sleep(6)
        assert unhealthy_reason(batcher) == "The model has been busy with one pass for 11 s."
        with pytest.raises(Unavailable):
            batcher.submit(["b"], {})
        gate(runner).set()
        await asyncio.sleep(1)
        assert unhealthy_reason(batcher) is None

    scenario(steps, timeout_s=10)


def test_a_long_batch_that_makes_progress_is_not_stuck() -> None:
    async def steps(runner: FakeRunner, batcher: Batcher) -> None:
        batcher.submit(["a"], {}, asyncio.get_running_loop().time() + 100)
        for _ in range(4):
            await asyncio.sleep(9)
            assert unhealthy_reason(batcher) is None
            runner.heartbeat()
        await asyncio.sleep(10)
        assert unhealthy_reason(batcher) == "The model has been busy with one pass for 10 s."
        gate(runner).set()
        await asyncio.sleep(1)
        runner.heartbeat()  # of a pass that is over: it has no effect
        assert unhealthy_reason(batcher) is None

    scenario(steps, timeout_s=10)


def test_a_stall_and_its_recovery_are_in_the_log_and_in_the_metrics(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def steps(runner: FakeRunner, batcher: Batcher) -> None:
        assert state() == "serving"
        batcher.submit(["a"], {})
        await asyncio.sleep(11)
        assert state() == "stuck"
        gate(runner).set()
        await asyncio.sleep(1)
        assert state() == "serving"
        told = [(record.levelname, record.getMessage()) for record in caplog.records]
        assert told == [
            ("CRITICAL", "Stalled: The model has been busy with one pass for 10 s."),
            ("WARNING", "The stalled call goes on."),
        ]

    scenario(steps, timeout_s=10)


@pytest.mark.parametrize(
    ("fault", "words"),
    [("broken", "The model is broken."), ("hang", "The model has been busy with one pass for 10 s.")],
)
def test_with_a_supervisor_a_fatal_failure_is_reported_once_after_every_entry_completed(fault: str, words: str) -> None:
    async def main() -> None:
        gave_up: list[int] = []
        loop = asyncio.get_running_loop()
        runner = FakeRunner(gate=asyncio.Event())
        policy = BatchPolicy(1, 512, 0)
        batcher = Batcher(runner, policy, 9, 10, loop.time, on_fatal=lambda: gave_up.append(len(batcher.admission)))
        batcher.start()
        entries = [batcher.submit([text], {}, loop.time() + 100)[0] for text in (fault, "a", "b")]
        await asyncio.sleep(1)
        if fault == "broken":
            gate(runner).set()
        errors = [(await entry.response_queue.get()).error for entry in entries]
        assert [(type(error), str(error)) for error in errors] == [(Unavailable, words)] * 3
        await asyncio.sleep(1)
        assert gave_up == [0]
        assert (state(), unhealthy_reason(batcher)) == ("broken", words)
        gate(runner).set()  # the pass comes back after all
        await batcher.stop()
        assert all(entry.response_queue.empty() for entry in entries)

    run(main())


def test_a_batcher_that_was_never_started_is_unhealthy() -> None:
    assert Batcher(FakeRunner(), BatchPolicy(1, 1, 1), 1, 1).unhealthy_reason == "The server loop is not running."


def test_cancelling_the_loop_in_the_tick_of_an_arrival_is_not_swallowed() -> None:
    async def main() -> None:
        batcher = make(FakeRunner(), wait_s=10)
        (first,) = batcher.submit(["a"], {})
        await asyncio.sleep(1)  # now the loop waits for more arrivals, up to a deadline
        (second,) = batcher.submit(["b"], {})
        await batcher.stop()
        assert asyncio.get_running_loop().time() == 1
        for entry in (first, second):
            assert isinstance(entry.response_queue.get_nowait().error, Draining)

    run(main())


def test_a_loop_that_is_stopped_before_its_first_step_completes_every_entry_too() -> None:
    async def main() -> None:
        batcher = make(FakeRunner())
        (entry,) = batcher.submit(["a"], {})
        await batcher.stop()
        assert isinstance(entry.response_queue.get_nowait().error, Draining)

    run(main())
