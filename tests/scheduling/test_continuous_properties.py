"""Whatever joins and leaves between steps: each entry has exactly one outcome, in its turn, and the room is kept."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_webserver.errors import (
    ClientError,
    DeadlineExceeded,
    Draining,
    InferenceFailed,
    Overloaded,
    Refused,
    Unavailable,
)
from pipeline_webserver.scheduling.continuous import ContinuousBatcher
from pipeline_webserver.scheduling.entry import Entry, Result
from pipeline_webserver.scheduling.step_policy import StepPolicy
from pipeline_webserver.telemetry import metrics
from tests.support.clock import run
from tests.support.fake_steps import FakeGeneration, FakeSequence, FakeStepRunner

OUTCOMES = ("answered", "invalid", "failed", "cancelled", "expired", "draining", "unavailable")

# In tenths of a second, so that events often fall into the same moment.
moments = st.integers(0, 40).map(lambda tenths: tenths / 10)
texts = st.sampled_from(["a", "b c", "d e f g", "bad", "poison", "whole", "poison whole", "a"])
fatal_texts = st.sampled_from(["broken", "bug", "panic", "idle", "broken whole", "bug whole"])


@dataclass(frozen=True)
class Arrival:
    """Inputs of one request, answered with so many tokens; when its time is over, and when its client disconnects."""

    at: float
    inputs: list[str]
    length: int
    sequences: int
    timeout_s: float
    disconnects_at: float | None


@dataclass(frozen=True)
class Play:
    """What happens to one server."""

    arrivals: list[Arrival]
    policy: StepPolicy
    max_in_flight: int
    step_s: float
    preprocess_s: float
    ends_at: float
    drain_s: float


@dataclass
class RecordingRunner(FakeStepRunner):
    """Remembers the inputs in each step, and the most room that was held at once."""

    inputs: list[list[FakeGeneration]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    async def step(
        self,
        work: Sequence[tuple[FakeSequence, int]],
        released: Sequence[FakeGeneration],
        heartbeat: Callable[[], None],
    ) -> None:
        stays = self.held - set(released)
        self.inputs.append(list(stays | {sequence.generation for sequence, _ in work}))
        self.tokens.append(sum(count for _, count in work))
        await super().step(work, released, heartbeat)


@dataclass
class Record:
    """What became of them."""

    runner: RecordingRunner
    admitted: list[Entry] = field(default_factory=list)
    rejected: list[tuple[Arrival, Refused]] = field(default_factory=list)


def plays(inputs: st.SearchStrategy[str]) -> st.SearchStrategy[Play]:
    policies = st.builds(StepPolicy, st.integers(1, 8), st.integers(1, 4), st.sampled_from([0, 3]), st.integers(1, 20))
    lists = st.lists(inputs, min_size=1, max_size=4)
    time_outs = st.sampled_from([0.1, 0.5, 1, 30])
    arrivals = st.builds(Arrival, moments, lists, st.integers(1, 5), st.integers(1, 3), time_outs, st.none() | moments)
    step_s, preprocess_s, drain_s = (st.sampled_from(some) for some in ([0, 0.1, 0.3], [0, 0.1], [0, 0.5, 100]))
    in_flight = st.integers(1, 24)
    return st.builds(Play, st.lists(arrivals, max_size=10), policies, in_flight, step_s, preprocess_s, moments, drain_s)


def perform(play: Play) -> Record:
    async def main() -> Record:
        loop = asyncio.get_running_loop()
        runner = RecordingRunner(play.step_s, play.preprocess_s, fixed_cost_tokens=play.policy.fixed_cost_tokens)
        record = Record(runner)
        batcher = ContinuousBatcher(runner, play.policy, play.max_in_flight, 30, loop.time)
        batcher.start()

        def arrive(arrival: Arrival) -> None:
            parameters = {"length": arrival.length, "sequences": arrival.sequences}
            try:
                entries = batcher.submit(arrival.inputs, parameters, loop.time() + arrival.timeout_s)
            except Refused as error:
                record.rejected.append((arrival, error))
                return
            record.admitted += entries
            if arrival.disconnects_at is not None:
                loop.call_at(max(arrival.disconnects_at, loop.time()), cancel, entries)

        def cancel(entries: list[Entry]) -> None:
            for entry in entries:
                entry.cancelled = True

        for arrival in play.arrivals:
            loop.call_at(arrival.at, arrive, arrival)
        await asyncio.sleep(play.ends_at)
        await batcher.drain(play.drain_s)
        await asyncio.sleep(10)  # arrivals are rejected by now
        assert len(batcher.admission) == 0
        return record

    return run(main())


def outcomes() -> dict[str, float]:
    return {outcome: float(metrics.INPUTS.labels(outcome)._value.get()) for outcome in OUTCOMES}


def the_one_result(entry: Entry) -> Result:
    result = entry.response_queue.get_nowait()
    assert entry.response_queue.empty()
    return result


@settings(deadline=None, max_examples=100)
@given(plays(texts))
def test_each_entry_gets_exactly_one_outcome_and_it_is_its_own(play: Play) -> None:
    before = outcomes()
    record = perform(play)
    after = outcomes()
    assert sum(after.values()) - sum(before.values()) == len(record.admitted)
    sent = sum(len(arrival.inputs) for arrival in play.arrivals)
    assert len(record.admitted) + sum(len(arrival.inputs) for arrival, _ in record.rejected) == sent
    for entry in record.admitted:
        result, text = the_one_result(entry), str(entry.input)
        if result.error is None:
            assert result.output == text.upper()
            assert "bad" not in text
            assert "poison" not in text
        elif isinstance(result.error, ClientError):
            assert "bad" in text
        elif isinstance(result.error, InferenceFailed):
            assert "poison" in text
        else:
            assert isinstance(result.error, DeadlineExceeded | Draining)
    for _, error in record.rejected:
        assert isinstance(error, Overloaded | Draining)
        assert error.retry_after_s >= 1


@settings(deadline=None, max_examples=100)
@given(plays(texts))
def test_steps_keep_their_limits_and_what_runs_has_room_to_its_end(play: Play) -> None:
    runner = perform(play).runner
    assert all(tokens <= play.policy.max_tokens for tokens in runner.tokens)
    for inputs in runner.inputs:
        sequences = sum(len(made.sequences) for made in inputs)
        room = sum(made.cache_tokens for made in inputs)
        is_kept = sequences <= play.policy.max_sequences and room <= play.policy.max_cache_tokens
        assert is_kept or len(inputs) == 1


@settings(deadline=None, max_examples=100)
@given(plays(texts | fatal_texts))
def test_when_the_loop_dies_each_entry_gets_exactly_one_outcome_too(play: Play) -> None:
    record = perform(play)
    for entry in record.admitted:
        the_one_result(entry)
    seen = [text for _, work in record.runner.steps for text, _ in work] + [text for _, text in record.runner.wholes]
    if not any(word in text for text in seen for word in ("broken", "bug", "panic", "idle")):
        assert not any(isinstance(error, Unavailable) for _, error in record.rejected)


@settings(deadline=None, max_examples=100)
@given(plays(st.sampled_from(["a", "b c", "d e f g"])))
def test_entries_start_by_rank_whatever_their_size(play: Play) -> None:
    """Of those that were there when it started, none that ranks before it starts later."""

    async def main() -> list[tuple[Entry, float]]:
        loop = asyncio.get_running_loop()
        runner = FakeStepRunner(0.3, fixed_cost_tokens=play.policy.fixed_cost_tokens)
        batcher = ContinuousBatcher(runner, play.policy, 1000, 1000, loop.time)
        batcher.start()
        entries: list[Entry] = []

        def arrive(arrival: Arrival) -> None:
            entries.extend(batcher.submit(arrival.inputs, {"length": arrival.length, "sequences": arrival.sequences}))

        for arrival in play.arrivals:
            loop.call_at(arrival.at, arrive, arrival)
        await asyncio.sleep(5)
        await batcher.drain(1000)
        assert runner.held == set()
        return [(entry, entry.enqueued_at + entry.response_queue.get_nowait().queue_s) for entry in entries]

    starts = run(main())
    for entry, started in starts:
        for other, other_started in starts:
            if other < entry and other.enqueued_at < started - 0.01:
                assert other_started < started + 0.01
