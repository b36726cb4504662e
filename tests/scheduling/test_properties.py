"""Whatever the order of arrivals, deadlines, disconnects, failures and shutdown: each entry has exactly one outcome."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from batching import Batcher
from pipeline_webserver.errors import (
    ClientError,
    DeadlineExceeded,
    Draining,
    InferenceFailed,
    Overloaded,
    PipelineServerError,
    Refused,
    Unavailable,
)
from pipeline_webserver.scheduling.batch_policy import BatchPolicy
from pipeline_webserver.scheduling.entry import Entry, Result
from pipeline_webserver.telemetry import metrics
from tests.support.clock import run
from tests.support.fakes import FakePrepared, FakeRunner

OUTCOMES = ("answered", "invalid", "failed", "cancelled", "expired", "draining", "unavailable")

# In tenths of a second, so that events often fall into the same moment.
moments = st.integers(0, 40).map(lambda tenths: tenths / 10)
texts = st.sampled_from(["a", "b c", "d e f", "bad", "poison", "poison g", "a"])
fatal_texts = st.sampled_from(["broken", "bug", "panic", "short"])


@dataclass(frozen=True)
class Arrival:
    """Some inputs of one entry; how long their client waits, and when it disconnects, if it does."""

    at: float
    inputs: list[str]
    timeout_s: float
    disconnects_at: float | None


@dataclass(frozen=True)
class Play:
    """What happens to one server."""

    arrivals: list[Arrival]
    policy: BatchPolicy
    max_in_flight: int
    model_s: float
    preprocess_s: float
    ends_at: float
    drain_s: float


@dataclass
class Record:
    """What became of them."""

    admitted: list[Entry] = field(default_factory=list)
    rejected: list[tuple[Arrival, Refused]] = field(default_factory=list)
    batches: list[list[str]] = field(default_factory=list)


def arrivals_of(inputs: st.SearchStrategy[str]) -> st.SearchStrategy[Arrival]:
    lists = st.lists(inputs, min_size=1, max_size=4)
    return st.builds(Arrival, moments, lists, st.sampled_from([0.1, 0.5, 1, 30]), st.none() | moments)


def plays(inputs: st.SearchStrategy[str]) -> st.SearchStrategy[Play]:
    policies = st.builds(BatchPolicy, st.integers(1, 4), st.integers(1, 8), st.sampled_from([0, 0.001, 0.2]))
    times = st.sampled_from([0, 0.1, 0.3, 1])
    arrivals = st.lists(arrivals_of(inputs), max_size=12)
    drains = st.sampled_from([0, 0.5, 100])
    return st.builds(Play, arrivals, policies, st.integers(1, 8), times, st.sampled_from([0, 0.1]), moments, drains)


def perform(play: Play) -> Record:
    async def main() -> Record:
        loop, record = asyncio.get_running_loop(), Record()
        runner = FakeRunner(model_s=play.model_s, preprocess_s=play.preprocess_s, fixed_cost_tokens=1)
        batcher = Batcher(runner, play.policy, play.max_in_flight, 30, loop.time)
        batcher.start()

        def arrive(arrival: Arrival) -> None:
            try:
                entries = batcher.submit(arrival.inputs, {}, loop.time() + arrival.timeout_s)
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
        record.batches = [batch for _, batch in runner.batches]
        return record

    return run(main())


def outcomes() -> dict[str, float]:
    return {outcome: float(metrics.INPUTS.labels(outcome)._value.get()) for outcome in OUTCOMES}


def the_one_result(entry: Entry) -> Result:
    result = entry.response_queue.get_nowait()
    assert entry.response_queue.empty()
    return result


@settings(deadline=None, max_examples=300)
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


@settings(deadline=None, max_examples=200)
@given(plays(texts))
def test_batches_keep_both_limits_and_hold_no_entry_twice(play: Play) -> None:
    record = perform(play)
    for batch in record.batches:
        assert 1 <= len(batch) <= play.policy.max_batch_size
        assert len(batch) == 1 or sum(len(text.split()) for text in batch) <= play.policy.max_batch_tokens
    assert sum(map(len, record.batches)) <= len(record.admitted)


@settings(deadline=None, max_examples=200)
@given(plays(texts | fatal_texts))
def test_when_the_loop_dies_each_entry_gets_exactly_one_outcome_too(play: Play) -> None:
    record = perform(play)
    for entry in record.admitted:
        the_one_result(entry)
    died = any(
        word in text for batch in record.batches for text in batch for word in ("broken", "bug", "panic", "short")
    )
    if not died:
        assert not any(isinstance(error, Unavailable) for _, error in record.rejected)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(moments, st.integers(1, 4)), max_size=12), st.integers(1, 4))
def test_batches_are_formed_by_rank_and_each_input_of_a_list_ranks_one_later(
    arrivals: list[tuple[float, int]], size: int
) -> None:
    """A batch has the lowest ranks of all that arrived before it began; a rank is the arrival plus the index in its
    list.
    """

    async def main() -> list[tuple[list[int], list[int]]]:
        seen: list[tuple[list[int], list[int]]] = []
        waiting: dict[str, Entry] = {}
        loop = asyncio.get_running_loop()

        class RecordingRunner(FakeRunner):
            async def run(
                self, batch: Sequence[FakePrepared], heartbeat: Callable[[], None]
            ) -> Sequence[object | PipelineServerError]:
                entries = [waiting.pop(prepared.input) for prepared in batch]
                # What arrives in the very moment may come before or after.
                ranks = [entry.rank for entry in entries]
                earlier = [entry.rank for entry in waiting.values() if entry.enqueued_at < loop.time()]
                seen.append((ranks, earlier))
                return await super().run(batch, heartbeat)

        batcher = Batcher(RecordingRunner(model_s=1), BatchPolicy(size, 100, 0), 100, 1000, loop.time)
        batcher.start()

        def arrive(number: int, count: int) -> None:
            entries = batcher.submit([f"{number}-{index}" for index in range(count)], {})
            waiting.update({str(entry.input): entry for entry in entries})

        for number, (at, count) in enumerate(arrivals):
            loop.call_at(at, arrive, number, count)
        await asyncio.sleep(5)
        await batcher.drain(1000)
        return seen

    for batch, left in run(main()):
        assert batch == sorted(batch)
        assert not left or max(batch) <= min(left)
