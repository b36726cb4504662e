"""Whatever the order of arrivals, deadlines, hang-ups, failures and the end: each request gets exactly one outcome."""

import asyncio
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
    Refused,
    Unavailable,
)
from pipeline_webserver.scheduling.admission import Answer, Request
from pipeline_webserver.scheduling.batch_policy import Policy
from pipeline_webserver.telemetry import metrics
from tests.support.clock import run
from tests.support.fakes import FakeRunner

OUTCOMES = ("answered", "rejected", "failed", "abandoned", "expired", "draining", "unavailable")

# In tenths of a second, so that events often fall into the same moment.
moments = st.integers(0, 40).map(lambda tenths: tenths / 10)
texts = st.sampled_from(["a", "b c", "d e f", "bad", "poison", "poison g", "a"])
fatal_texts = st.sampled_from(["broken", "bug", "panic", "short"])


@dataclass(frozen=True)
class Arrival:
    """Some inputs that come together; how long their client waits, and when it hangs up, if it does."""

    at: float
    inputs: list[str]
    patience_s: float
    hangs_up_at: float | None


@dataclass(frozen=True)
class Play:
    """What happens to one server."""

    arrivals: list[Arrival]
    policy: Policy
    places: int
    model_s: float
    prepare_s: float
    ends_at: float
    drain_s: float


@dataclass
class Record:
    """What came of it."""

    admitted: list[Request] = field(default_factory=list)
    refused: list[tuple[Arrival, Refused]] = field(default_factory=list)
    batches: list[list[str]] = field(default_factory=list)


def arrivals_of(inputs: st.SearchStrategy[str]) -> st.SearchStrategy[Arrival]:
    lists = st.lists(inputs, min_size=1, max_size=4)
    return st.builds(Arrival, moments, lists, st.sampled_from([0.1, 0.5, 1, 30]), st.none() | moments)


def plays(inputs: st.SearchStrategy[str]) -> st.SearchStrategy[Play]:
    policies = st.builds(Policy, st.integers(1, 4), st.integers(1, 8), st.sampled_from([0, 0.001, 0.2]))
    times = st.sampled_from([0, 0.1, 0.3, 1])
    arrivals = st.lists(arrivals_of(inputs), max_size=12)
    drains = st.sampled_from([0, 0.5, 100])
    return st.builds(Play, arrivals, policies, st.integers(1, 8), times, st.sampled_from([0, 0.1]), moments, drains)


def perform(play: Play) -> Record:
    async def main() -> Record:
        loop, record = asyncio.get_running_loop(), Record()
        runner = FakeRunner(model_s=play.model_s, prepare_s=play.prepare_s, fixed_cost_tokens=1)
        batcher = Batcher(runner, play.policy, play.places, 30, loop.time)
        batcher.start()

        def arrive(arrival: Arrival) -> None:
            try:
                requests = batcher.submit(arrival.inputs, {}, loop.time() + arrival.patience_s)
            except Refused as error:
                record.refused.append((arrival, error))
                return
            record.admitted += requests
            if arrival.hangs_up_at is not None:
                loop.call_at(max(arrival.hangs_up_at, loop.time()), abandon, requests)

        def abandon(requests: list[Request]) -> None:
            for request in requests:
                request.abandoned = True

        for arrival in play.arrivals:
            loop.call_at(arrival.at, arrive, arrival)
        await asyncio.sleep(play.ends_at)
        await batcher.drain(play.drain_s)
        await asyncio.sleep(10)  # whoever comes now is refused
        assert len(batcher.house) == 0
        record.batches = [batch for _, batch in runner.batches]
        return record

    return run(main())


def outcomes() -> dict[str, float]:
    return {outcome: float(metrics.INPUTS.labels(outcome)._value.get()) for outcome in OUTCOMES}


def the_one_answer(request: Request) -> Answer:
    answer = request.response.get_nowait()
    assert request.response.empty()
    return answer


@settings(deadline=None, max_examples=300)
@given(plays(texts))
def test_each_request_gets_exactly_one_outcome_and_it_is_its_own(play: Play) -> None:
    before = outcomes()
    record = perform(play)
    after = outcomes()
    assert sum(after.values()) - sum(before.values()) == len(record.admitted)
    sent = sum(len(arrival.inputs) for arrival in play.arrivals)
    assert len(record.admitted) + sum(len(arrival.inputs) for arrival, _ in record.refused) == sent
    for request in record.admitted:
        answer, text = the_one_answer(request), str(request.input)
        if answer.error is None:
            assert answer.output == text.upper()
            assert "bad" not in text
            assert "poison" not in text
        elif isinstance(answer.error, ClientError):
            assert "bad" in text
        elif isinstance(answer.error, InferenceFailed):
            assert "poison" in text
        else:
            assert isinstance(answer.error, DeadlineExceeded | Draining)
    for _, error in record.refused:
        assert isinstance(error, Overloaded | Draining)
        assert error.retry_after_s >= 1


@settings(deadline=None, max_examples=200)
@given(plays(texts))
def test_batches_keep_both_limits_and_hold_nobody_twice(play: Play) -> None:
    record = perform(play)
    for batch in record.batches:
        assert 1 <= len(batch) <= play.policy.max_batch_size
        assert len(batch) == 1 or sum(len(text.split()) for text in batch) <= play.policy.max_batch_tokens
    assert sum(map(len, record.batches)) <= len(record.admitted)


@settings(deadline=None, max_examples=200)
@given(plays(texts | fatal_texts))
def test_when_the_loop_dies_everyone_gets_exactly_one_outcome_too(play: Play) -> None:
    record = perform(play)
    for request in record.admitted:
        the_one_answer(request)
    died = any(
        word in text for batch in record.batches for text in batch for word in ("broken", "bug", "panic", "short")
    )
    if not died:
        assert not any(isinstance(error, Unavailable) for _, error in record.refused)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(moments, st.integers(1, 4)), max_size=12), st.integers(1, 4))
def test_each_stands_behind_those_before_it_and_a_list_lets_one_more_in_with_each_of_its_inputs(
    arrivals: list[tuple[float, int]], size: int
) -> None:
    """All who wait when a batch begins go by their place: when they came, plus their index in their list."""

    async def main() -> list[tuple[list[int], list[int]]]:
        seen: list[tuple[list[int], list[int]]] = []
        places: dict[str, int] = {}
        waiting: set[str] = set()

        class Watching(FakeRunner):
            async def run(self, batch):  # type: ignore[no-untyped-def]
                texts = [prepared.input for prepared in batch]
                seen.append(([places[text] for text in texts], [places[text] for text in waiting]))
                waiting.difference_update(texts)
                return await super().run(batch)

        loop = asyncio.get_running_loop()
        batcher = Batcher(Watching(model_s=1), Policy(size, 100, 0), 100, 1000, loop.time)
        batcher.start()

        def arrive(number: int, count: int) -> None:
            for request in batcher.submit([f"{number}-{index}" for index in range(count)], {}):
                places[str(request.input)] = request.place
                waiting.add(str(request.input))

        for number, (at, count) in enumerate(arrivals):
            loop.call_at(at, arrive, number, count)
        await asyncio.sleep(5)
        await batcher.drain(1000)
        return seen

    for batch, waiting in run(main()):
        assert batch == sorted(batch)
        assert batch == sorted(waiting)[: len(batch)]
