"""The rules of continuous batching, on a virtual clock: every time is exact."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from pipeline_webserver.errors import DeadlineExceeded, Draining, InferenceFailed, Overloaded, Rejected, Unavailable
from pipeline_webserver.scheduling.continuous import MAX_PREPROCESSED, ContinuousBatcher
from pipeline_webserver.scheduling.entry import Entry, Result
from pipeline_webserver.scheduling.step_policy import StepPolicy
from pipeline_webserver.telemetry import metrics
from tests.support.clock import run
from tests.support.fake_steps import FakeStepRunner

Arrival = tuple[float, str, int]
Answers = dict[str, float]
EVER = 1000


def make(
    runner: FakeStepRunner,
    *,
    tokens: int = 100,
    sequences: int = 4,
    cache: int = 1000,
    max_in_flight: int = 512,
    timeout_s: float = EVER,
    on_fatal: Callable[[], None] | None = None,
) -> ContinuousBatcher:
    """A started batcher that measures with the loop's own clock."""
    policy = StepPolicy(tokens, sequences, runner.fixed_cost_tokens, cache)
    clock = asyncio.get_running_loop().time
    batcher = ContinuousBatcher(runner, policy, max_in_flight, timeout_s, clock, on_fatal)
    batcher.start()
    return batcher


def play(
    arrivals: list[Arrival], runner: FakeStepRunner | None = None, **limits: int
) -> tuple[FakeStepRunner, Answers]:
    """When each of the texts, which arrive at these times and are answered with so many tokens, has its answer."""
    runner = runner or FakeStepRunner()

    async def main() -> Answers:
        batcher = make(runner, **limits)  # type: ignore[arg-type]
        loop = asyncio.get_running_loop()

        async def ask(at: float, text: str, length: int) -> tuple[str, float]:
            await asyncio.sleep(at)
            (entry,) = batcher.submit([text], {"length": length})
            assert (await entry.response_queue.get()).output == text.upper()
            return text, loop.time()

        answers = await asyncio.gather(*(ask(*arrival) for arrival in arrivals))
        await batcher.stop()
        return dict(answers)

    return runner, run(main())


def scenario(steps: Callable[[FakeStepRunner, ContinuousBatcher], Awaitable[None]], **limits: float) -> FakeStepRunner:
    """Play some steps with a runner each of whose steps takes a second."""

    async def main() -> FakeStepRunner:
        runner = FakeStepRunner()
        batcher = make(runner, **limits)  # type: ignore[arg-type]
        await steps(runner, batcher)
        await batcher.stop()
        assert len(batcher.admission) == 0
        return runner

    return run(main())


def submit(batcher: ContinuousBatcher, *texts: str, length: int = 1, timeout_s: float = EVER) -> list[Entry]:
    return batcher.submit(texts, {"length": length}, asyncio.get_running_loop().time() + timeout_s)


async def result(entry: Entry) -> Result:
    return await entry.response_queue.get()


def order(runner: FakeStepRunner) -> list[str]:
    """The texts, in the order in which they were in a step first."""
    return list(dict.fromkeys(text for _, work in runner.steps for text, _ in work))


def count_of(outcome: str) -> float:
    return float(metrics.INPUTS.labels(outcome)._value.get())


def state() -> str:
    (metric,) = metrics.STATE.collect()
    (on,) = [sample.labels["pipeline_state"] for sample in metric.samples if sample.value]
    return on


def unhealthy_reason(batcher: ContinuousBatcher) -> str | None:
    return batcher.unhealthy_reason


# Steps


def test_inputs_join_between_steps_and_leave_when_they_have_ended() -> None:
    runner, answers = play([(0, "long", 4), (0.5, "short", 1), (2.5, "late", 2)])
    assert runner.steps == [
        (0, [("long", 1)]),
        (1, [("long", 1), ("short", 1)]),
        (2, [("long", 1)]),
        (3, [("long", 1), ("late", 1)]),
        (4, [("late", 1)]),
    ]
    assert answers == {"long": 4, "short": 2, "late": 5}


def test_an_arrival_at_an_idle_server_starts_at_once() -> None:
    runner, answers = play([(0, "a", 1), (10, "b", 2), (20.25, "c", 1)])
    assert runner.steps == [(0, [("a", 1)]), (10, [("b", 1)]), (11, [("b", 1)]), (20.25, [("c", 1)])]
    assert answers == {"a": 1, "b": 12, "c": 21.25}


def test_a_long_prompt_is_computed_in_chunks_beside_those_that_decode() -> None:
    prompt = " ".join(["word"] * 40)
    runner, answers = play([(0, "a", 6), (0.5, prompt, 2)])
    assert [work for _, work in runner.steps] == [
        [("a", 1)],
        [("a", 1), (prompt, 16)],
        [("a", 1), (prompt, 16)],
        [("a", 1), (prompt, 8)],
        [("a", 1), (prompt, 1)],
        [("a", 1)],
    ]
    assert answers == {"a": 6, prompt: 5}


def test_the_sequences_of_an_input_share_its_prompt() -> None:
    async def steps(runner: FakeStepRunner, batcher: ContinuousBatcher) -> None:
        (entry,) = batcher.submit(["two words"], {"length": 2, "sequences": 3})
        answer = await result(entry)
        assert (answer.output, answer.model_s, answer.batch_size) == ("TWO WORDS", 2, 1)

    assert scenario(steps).steps == [(0, [("two words", 2)]), (1, [("two words", 1)] * 3)]


def test_preprocessing_runs_beside_a_step() -> None:
    runner, answers = play([(0, "a", 2), (0.75, "b", 1)], FakeStepRunner(preprocess_s=0.5))
    assert runner.steps == [(0.5, [("a", 1)]), (1.5, [("a", 1), ("b", 1)])]
    assert answers == {"a": 2.5, "b": 2.5}


def test_what_has_no_sequences_is_generated_by_itself_and_then_steps_go_on() -> None:
    runner, answers = play([(0, "a", 3), (0.5, "whole", 1), (0.6, "whole too", 1), (0.7, "b", 2), (5.5, "c", 1)])
    assert runner.steps == [
        (0, [("a", 1)]),
        (1, [("a", 1)]),
        (2, [("a", 1)]),
        (5, [("b", 1)]),
        (6, [("b", 1), ("c", 1)]),
    ]
    assert runner.wholes == [(3, "whole"), (4, "whole too")]
    assert answers == {"a": 3, "whole": 4, "whole too": 5, "b": 7, "c": 7}


# Room


def test_inputs_wait_where_as_many_sequences_run_as_may() -> None:
    runner, answers = play([(0, "a", 3), (0.1, "b", 1), (0.2, "c", 1), (0.3, "d", 1)], sequences=2)
    assert [[text for text, _ in work] for _, work in runner.steps] == [["a"], ["a", "b"], ["a", "c"], ["d"]]
    assert answers == {"a": 3, "b": 2, "c": 3, "d": 4}


def test_inputs_wait_where_there_is_no_room_for_all_their_keys_and_values() -> None:
    # With room for eight tokens; "a" may take six of them, "b" four, and "c" two.
    runner, answers = play([(0, "a", 5), (0.1, "b", 3), (0.2, "c", 1)], cache=8)
    assert [[text for text, _ in work] for _, work in runner.steps] == [["a"]] * 5 + [["b", "c"]] + [["b"]] * 2
    assert answers == {"a": 5, "b": 8, "c": 6}


def test_a_stream_of_small_inputs_does_not_keep_out_a_large_one() -> None:
    small = [(0.5 * number + 0.25, f"small-{number}", 2) for number in range(20)]
    runner, answers = play([*small, (2.1, "large", 15)], cache=17)
    assert order(runner) == [f"small-{number}" for number in range(4)] + ["large"] + [
        f"small-{number}" for number in range(4, 20)
    ]
    assert runner.steps[4][0] == 4.25  # when the four before it have ended
    assert answers["large"] == 19.25


def test_an_input_that_is_larger_than_all_the_room_runs_alone() -> None:
    runner, answers = play([(0, "a", 2), (0.1, "large", 50), (0.2, "b", 1)], cache=20)
    assert order(runner) == ["a", "large", "b"]
    assert max(len(work) for _, work in runner.steps) == 1
    assert answers == {"a": 2, "large": 52, "b": 53}


def test_the_inputs_of_a_list_start_by_their_rank() -> None:
    async def steps(runner: FakeStepRunner, batcher: ContinuousBatcher) -> None:
        submit(batcher, "busy")
        await asyncio.sleep(0.5)
        submit(batcher, *(f"list-{number}" for number in range(4)))
        for single in ("x", "y"):
            submit(batcher, single)
        await batcher.drain(100)

    # The second of the list ranks behind none, the third behind x, the fourth behind y.
    runner = scenario(steps, sequences=1)
    assert order(runner) == ["busy", "list-0", "list-1", "x", "list-2", "y", "list-3"]


def test_a_list_that_is_longer_than_what_is_preprocessed_at_a_time_is_overtaken_too() -> None:
    async def steps(runner: FakeStepRunner, batcher: ContinuousBatcher) -> None:
        entries = submit(batcher, *(f"list-{number}" for number in range(3 * MAX_PREPROCESSED)))
        await asyncio.sleep(3.5)
        assert [entry.prepared is not None for entry in entries] == [True] * 20 + [False] * 28
        singles = submit(batcher, "single") + submit(batcher, "another")
        assert [(await result(entry)).queue_s for entry in singles] == [0.5, 1.5]
        await batcher.drain(100)

    texts = [f"list-{number}" for number in range(3 * MAX_PREPROCESSED)]
    assert order(scenario(steps, sequences=1)) == [*texts[:4], "single", "another", *texts[4:]]


# What becomes of each entry


def test_a_result_has_its_times_and_the_size_of_its_largest_step() -> None:
    async def steps(runner: FakeStepRunner, batcher: ContinuousBatcher) -> None:
        (first,) = submit(batcher, "first", length=4)
        await asyncio.sleep(0.25)
        (second,) = submit(batcher, "second", length=2)
        await asyncio.sleep(3)
        (third,) = submit(batcher, "third")
        answers = [await result(entry) for entry in (first, second, third)]
        assert [(answer.queue_s, answer.model_s, answer.batch_size) for answer in answers] == [
            (0, 4, 2),
            (0.75, 2, 2),
            (0.75, 1, 1),
        ]

    scenario(steps)


def test_the_result_of_what_is_generated_as_a_whole_has_its_times_too() -> None:
    async def steps(runner: FakeStepRunner, batcher: ContinuousBatcher) -> None:
        submit(batcher, "a")
        await asyncio.sleep(0.25)
        (whole,) = submit(batcher, "whole")
        assert await result(whole) == Result("WHOLE", None, 0.75, 1, 1)

    scenario(steps)


def test_an_invalid_input_is_rejected_while_a_step_runs() -> None:
    async def steps(runner: FakeStepRunner, batcher: ContinuousBatcher) -> None:
        submit(batcher, "a", length=2)
        await asyncio.sleep(0.5)
        bad, good = submit(batcher, "bad", "good")
        assert isinstance((await result(bad)).error, Rejected)
        assert asyncio.get_running_loop().time() == 0.5
        assert (await result(good)).output == "GOOD"

    assert scenario(steps).steps == [(0, [("a", 1)]), (1, [("a", 1), ("good", 1)])]


@pytest.mark.parametrize("text", ["poison", "poison whole"])
def test_an_input_that_the_model_fails_on_fails_alone(text: str) -> None:
    async def steps(runner: FakeStepRunner, batcher: ContinuousBatcher) -> None:
        good, poison, better = submit(batcher, "good", text, "better", length=3)
        answer = await result(poison)
        assert isinstance(answer.error, InferenceFailed)
        assert answer.output is None
        assert [(await result(entry)).output for entry in (good, better)] == ["GOOD", "BETTER"]
        assert unhealthy_reason(batcher) is None

    scenario(steps)


def test_a_cancelled_entry_is_released_at_the_next_step_and_its_room_is_free_in_it() -> None:
    async def steps(runner: FakeStepRunner, batcher: ContinuousBatcher) -> None:
        before = count_of("cancelled")
        (gone,) = submit(batcher, "gone", length=9)
        await asyncio.sleep(0.5)
        gone_too, waiting = submit(batcher, "gone too", "waiting")
        await asyncio.sleep(1)
        gone.cancelled = gone_too.cancelled = True
        assert (await result(waiting)).output == "WAITING"
        assert count_of("cancelled") == before + 2

    runner = scenario(steps, sequences=1)
    assert runner.steps == [(0, [("gone", 1)]), (1, [("gone", 1)]), (2, [("waiting", 1)])]
    assert runner.released == [(2, "gone")]


def test_the_room_of_an_entry_is_free_where_nothing_else_runs_and_the_loop_sleeps_then() -> None:
    async def steps(runner: FakeStepRunner, batcher: ContinuousBatcher) -> None:
        (gone,) = submit(batcher, "gone", length=9)
        await asyncio.sleep(0.5)
        gone.cancelled = True
        await asyncio.sleep(100)
        assert (runner.released, runner.held, runner.calls) == ([(1, "gone")], set(), 2)
        assert (batcher.running, batcher._started, batcher._sizes) == (0, {}, {})
        (next_one,) = submit(batcher, "next")
        assert (await result(next_one)).queue_s == 0
        assert (batcher._started, batcher._sizes) == ({}, {})

    scenario(steps)


def test_an_entry_that_is_cancelled_before_its_turn_is_not_preprocessed() -> None:
    async def steps(runner: FakeStepRunner, batcher: ContinuousBatcher) -> None:
        gone, kept = submit(batcher, "gone", "kept")
        gone.cancelled = True
        assert (await result(kept)).output == "KEPT"
        assert not gone.response_queue.empty()

    runner = scenario(steps)
    assert (runner.preprocessed, runner.released) == (["kept"], [])


def test_an_entry_that_expires_while_it_runs_is_released_and_counted() -> None:
    async def steps(runner: FakeStepRunner, batcher: ContinuousBatcher) -> None:
        before = count_of("expired")
        late, good = submit(batcher, "late", length=9, timeout_s=2.5) + submit(batcher, "good", length=5)
        assert isinstance((await result(late)).error, DeadlineExceeded)
        assert asyncio.get_running_loop().time() == 3
        assert (await result(good)).output == "GOOD"
        assert count_of("expired") == before + 1

    runner = scenario(steps)
    assert runner.released == [(3, "late")]
    assert [len(work) for _, work in runner.steps] == [2, 2, 2, 1, 1]


def test_an_entry_whose_last_step_ends_after_its_deadline_is_answered() -> None:
    async def steps(runner: FakeStepRunner, batcher: ContinuousBatcher) -> None:
        (entry,) = submit(batcher, "a", length=2, timeout_s=1.5)
        assert (await result(entry)).output == "A"

    scenario(steps)


def test_entries_expire_wherever_they_wait() -> None:
    async def steps(runner: FakeStepRunner, batcher: ContinuousBatcher) -> None:
        before = count_of("expired")
        entries = submit(batcher, *["late"] * (5 * MAX_PREPROCESSED), length=9, timeout_s=2.5)
        await asyncio.sleep(4)
        assert all(isinstance(entry.response_queue.get_nowait().error, DeadlineExceeded) for entry in entries)
        assert count_of("expired") == before + len(entries)
        (good,) = submit(batcher, "good")
        assert (await result(good)).output == "GOOD"

    assert [time for time, _ in scenario(steps, sequences=1).steps] == [0, 1, 2, 4]


def test_every_outcome_is_counted_once_and_what_the_model_does_is_measured() -> None:
    histograms = (metrics.BATCH_SIZE, metrics.BATCH_TOKENS, metrics.MODEL_SECONDS, metrics.QUEUE_SECONDS)

    def measured() -> list[float]:
        outcomes = [count_of(outcome) for outcome in ("answered", "invalid", "failed")]
        return outcomes + [histogram._sum.get() for histogram in histograms]

    async def steps(runner: FakeStepRunner, batcher: ContinuousBatcher) -> None:
        for text in ("three word prompt", "bad", "poison", "whole"):
            batcher.submit([text], {"length": 2})
        await batcher.drain(100)

    before = measured()
    scenario(steps)
    # A step of two inputs and four tokens, one of one and one, and a whole one with three tokens.
    expected = [2, 1, 1, 2 + 1 + 1, 4 + 1 + 3, 3, 2]
    assert [after - earlier for after, earlier in zip(measured(), before, strict=True)] == expected


# Admission


def learned(runner: FakeStepRunner, **limits: float) -> Callable[[], Awaitable[ContinuousBatcher]]:
    """A batcher that has seen an input of one token and four that follow: a token takes a tenth of a second."""

    async def main() -> ContinuousBatcher:
        batcher = make(runner, **limits)  # type: ignore[arg-type]
        (known,) = submit(batcher, "known", length=4)
        await result(known)
        return batcher

    return main


def rejection(backlog: int, timeout_s: float, *, elapsed_s: float = 0.0) -> str | None:
    """Why one more input is not admitted, with so many before it that run one after the other."""

    async def main() -> str | None:
        batcher = await learned(FakeStepRunner(fixed_cost_tokens=9), sequences=1)()
        for _ in range(backlog):
            submit(batcher, "before", length=4)
        await asyncio.sleep(elapsed_s)
        refusals = metrics.REJECTED.labels("deadline")
        before = refusals._value.get()
        would = batcher.would_admit(asyncio.get_running_loop().time() + timeout_s)
        try:
            submit(batcher, "last", length=4, timeout_s=timeout_s)
        except Overloaded as error:
            assert not would
            assert refusals._value.get() == before + 1
            return f"{error} Retry-After: {error.retry_after_s}"
        finally:
            await batcher.stop()
        assert would
        return None

    return run(main())


def test_an_input_that_would_miss_its_deadline_is_rejected_at_once_with_a_time_to_retry() -> None:
    # Each is estimated to take four steps of ten, and one for its prompt; with a quarter on top for two, 10.25 s.
    assert rejection(1, timeout_s=10.5) is None
    words = "The server is busy: the answer may take about 10 s; the deadline is in 8 s."
    assert rejection(1, timeout_s=8) == f"{words} Retry-After: 3"


def test_what_the_running_entries_have_done_already_counts() -> None:
    assert rejection(1, timeout_s=8, elapsed_s=1.5) is not None
    assert rejection(1, timeout_s=8, elapsed_s=2.5) is None  # half of 4.1 s


def test_an_idle_server_admits_any_input() -> None:
    assert rejection(0, timeout_s=0.001) is None


def test_the_running_entries_have_their_share_of_the_estimate_behind_them() -> None:
    async def main() -> None:
        batcher = await learned(FakeStepRunner(fixed_cost_tokens=9))()
        assert (batcher.running, batcher.busy_s) == (0, 0)
        submit(batcher, "a", length=4)
        assert (batcher.running, batcher.busy_s) == (0, 0)
        await asyncio.sleep(0.5)
        assert (batcher.running, batcher.busy_s) == (1, 0)
        await asyncio.sleep(1)
        assert batcher.busy_s == pytest.approx(4.1 / 4)
        submit(batcher, "b", length=4)
        await asyncio.sleep(1)
        # Two take four steps of eleven, and one token each for their prompts; one has half of its tokens.
        assert batcher.running == 2
        assert batcher.busy_s == pytest.approx(4.6 / 4)
        await batcher.stop()

    run(main())


def test_a_server_on_which_every_entry_comes_too_late_learns_that_they_do() -> None:
    async def steps(runner: FakeStepRunner, batcher: ContinuousBatcher) -> None:
        (late,) = submit(batcher, "late", length=100, timeout_s=4.5)
        assert isinstance((await result(late)).error, DeadlineExceeded)
        assert batcher.latency_model.estimate_s(1) == 6  # five tokens and that of the prompt, at 1 s each
        submit(batcher, "late", length=100)
        with pytest.raises(Overloaded):
            submit(batcher, "late", length=100, timeout_s=4.5)

    scenario(steps)


def test_entries_that_fail_or_are_cancelled_teach_nothing_of_how_long_the_others_are() -> None:
    async def main() -> None:
        batcher = await learned(FakeStepRunner(fixed_cost_tokens=9))()
        await asyncio.gather(*(result(entry) for entry in submit(batcher, *["poison"] * 30)))
        entries = submit(batcher, *["gone"] * 30, length=100)
        await asyncio.sleep(0.5)
        for entry in entries:
            entry.cancelled = True
        await batcher.admission.wait_until_idle()
        assert list(batcher.latency_model._new_tokens) == [4]
        await batcher.stop()

    run(main())


def test_a_full_server_admits_again_once_an_entry_is_complete() -> None:
    async def steps(runner: FakeStepRunner, batcher: ContinuousBatcher) -> None:
        first, _ = submit(batcher, "a", "b")
        with pytest.raises(Overloaded, match="2 of 2 inputs are in flight"):
            submit(batcher, "c")
        await result(first)
        submit(batcher, "c")

    scenario(steps, max_in_flight=2)


# Shutdown and failure


def test_draining_admits_no_input_and_completes_all_in_flight() -> None:
    async def steps(runner: FakeStepRunner, batcher: ContinuousBatcher) -> None:
        entries = submit(batcher, "a", "b", "whole", length=3)
        drain = asyncio.create_task(batcher.drain(25))
        await asyncio.sleep(0.5)
        with pytest.raises(Draining):
            submit(batcher, "d")
        await drain
        assert [entry.response_queue.get_nowait().output for entry in entries] == ["A", "B", "WHOLE"]
        assert asyncio.get_running_loop().time() == 7

    scenario(steps, sequences=1)


def test_a_drain_that_takes_too_long_completes_the_rest_with_draining() -> None:
    async def steps(runner: FakeStepRunner, batcher: ContinuousBatcher) -> None:
        before = count_of("draining")
        entries = submit(batcher, "a", "b", "c", length=3)
        await batcher.drain(4.5)
        assert asyncio.get_running_loop().time() == 4.5
        answers = [entry.response_queue.get_nowait() for entry in entries]
        assert answers[0].output == "A"
        assert [type(answer.error) for answer in answers[1:]] == [Draining, Draining]
        assert count_of("draining") == before + 2

    scenario(steps, sequences=1)


def test_a_stop_completes_entries_wherever_they_are() -> None:
    async def steps(runner: FakeStepRunner, batcher: ContinuousBatcher) -> None:
        entries = submit(batcher, *["a"] * (3 * MAX_PREPROCESSED))
        await asyncio.sleep(0.5)
        entries += submit(batcher, "b")
        await batcher.stop()
        assert all(isinstance(entry.response_queue.get_nowait().error, Draining) for entry in entries)

    scenario(steps, sequences=1)


@pytest.mark.parametrize("fault", ["broken", "bug", "panic", "idle", "broken whole", "bug whole"])
def test_when_the_loop_dies_every_entry_completes_and_health_is_red(
    fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def steps(runner: FakeStepRunner, batcher: ContinuousBatcher) -> None:
        entries = submit(batcher, fault, "a", length=3)
        await asyncio.sleep(0.5)
        assert unhealthy_reason(batcher) is None
        entries += submit(batcher, "bad", "b", "c")
        errors = [type((await result(entry)).error) for entry in entries if entry.input != "a"]
        assert errors == [Unavailable, Rejected, Unavailable, Unavailable]
        words = "The model is broken." if "broken" in fault else "The server loop died of a bug."
        assert unhealthy_reason(batcher) == words
        with pytest.raises(Unavailable, match=words):
            submit(batcher, "d")
        assert len(batcher.admission) == 0
        assert caplog.records[-1].levelname == "CRITICAL"

    scenario(steps, sequences=1)


def test_a_model_that_is_stuck_in_one_step_is_unhealthy_until_it_goes_on() -> None:
    async def steps(runner: FakeStepRunner, batcher: ContinuousBatcher) -> None:
        runner.gate = asyncio.Event()
        (entry,) = submit(batcher, "a")
        await asyncio.sleep(9)
        runner.heartbeat()
        await asyncio.sleep(9)
        assert unhealthy_reason(batcher) is None
        await asyncio.sleep(2)
        assert unhealthy_reason(batcher) == "The model has been busy with one pass for 11 s."
        assert state() == "stuck"
        with pytest.raises(Unavailable):
            submit(batcher, "b")
        runner.gate.set()
        assert (await result(entry)).output == "A"
        assert unhealthy_reason(batcher) is None
        assert state() == "serving"

    scenario(steps, timeout_s=10)


def test_many_steps_that_take_longer_than_the_time_out_together_are_not_stuck() -> None:
    async def steps(runner: FakeStepRunner, batcher: ContinuousBatcher) -> None:
        (entry,) = submit(batcher, "a", length=35)
        for _ in range(4):
            await asyncio.sleep(8.5)
            assert unhealthy_reason(batcher) is None
        assert (await result(entry)).model_s == 35

    scenario(steps, timeout_s=2)


def test_preprocessing_that_is_stuck_is_unhealthy() -> None:
    async def steps(runner: FakeStepRunner, batcher: ContinuousBatcher) -> None:
        runner.preprocess_s = 100
        submit(batcher, "a")
        await asyncio.sleep(11)
        assert unhealthy_reason(batcher) == "Preprocessing has been busy with one input for 11 s."

    scenario(steps, timeout_s=10)


@pytest.mark.parametrize(
    ("fault", "words"),
    [("broken", "The model is broken."), ("hang", "The model has been busy with one pass for 10 s.")],
)
def test_with_a_supervisor_a_fatal_failure_is_reported_once_after_every_entry_completed(fault: str, words: str) -> None:
    async def main() -> None:
        gave_up: list[int] = []
        runner = FakeStepRunner(gate=asyncio.Event())
        batcher = make(runner, sequences=2, timeout_s=10, on_fatal=lambda: gave_up.append(len(batcher.admission)))
        entries = submit(batcher, fault, "a", "b", length=2)
        assert runner.gate is not None
        if fault == "broken":
            asyncio.get_running_loop().call_at(1, runner.gate.set)
        errors = [(await result(entry)).error for entry in entries]
        assert [(type(error), str(error)) for error in errors] == [(Unavailable, words)] * 3
        runner.gate.set()  # the step comes back in the very moment
        await asyncio.sleep(1)
        assert gave_up == [0]
        assert (state(), unhealthy_reason(batcher)) == ("broken", words)
        await batcher.stop()
        assert all(entry.response_queue.empty() for entry in entries)

    run(main())


def test_entries_whose_step_ends_in_the_moment_of_a_stop_are_answered_once() -> None:
    async def steps(runner: FakeStepRunner, batcher: ContinuousBatcher) -> None:
        runner.gate = asyncio.Event()
        entries = submit(batcher, "a", "b")
        await asyncio.sleep(0.5)
        runner.gate.set()
        await batcher.stop()
        assert [(await result(entry)).output for entry in entries] == ["A", "B"]
        assert all(entry.response_queue.empty() for entry in entries)

    scenario(steps)


def test_a_batcher_that_was_never_started_is_unhealthy() -> None:
    batcher = ContinuousBatcher(FakeStepRunner(), StepPolicy(1, 1, 0, 1), 1, 1)
    assert batcher.unhealthy_reason == "The server loop is not running."


# Tokens


def test_tokens_are_counted_with_the_times_to_the_first_and_between_two() -> None:
    counters = (metrics.PROMPT_TOKENS, metrics.GENERATED_TOKENS)
    histograms = (metrics.FIRST_TOKEN_SECONDS, metrics.TOKEN_SECONDS)

    def counted() -> list[float]:
        return [float(one._value.get()) for one in counters] + [float(one._sum.get()) for one in histograms]

    async def steps(runner: FakeStepRunner, batcher: ContinuousBatcher) -> None:
        before = counted()
        first, second = submit(batcher, "a b c", length=3), submit(batcher, "d e", length=2)
        await asyncio.sleep(0.5)
        assert metrics.GENERATING._value.get() == 2
        assert metrics.CACHE_TOKENS._value.get() == (3 + 3) + (2 + 2)
        for entry in (*first, *second):
            await result(entry)
        await asyncio.sleep(0)
        assert [after - start for after, start in zip(counted(), before, strict=True)] == [5, 5, 1 + 1, 1 + 1 + 1]
        assert metrics.GENERATING._value.get() == 0
        assert metrics.CACHE_TOKENS._value.get() == 0

    scenario(steps)
