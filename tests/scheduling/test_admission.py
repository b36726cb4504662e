"""Who is let in, where each stands, and that each leaves once. What it means for batches is in `test_batching`."""

import asyncio

import pytest

from pipeline_webserver.errors import DeadlineExceeded, Draining, Overloaded
from pipeline_webserver.scheduling.admission import Answer, House, Request
from pipeline_webserver.scheduling.batch_policy import Cost, Forecast, Policy
from pipeline_webserver.telemetry import metrics
from tests.support.clock import run


def house(places: int = 8, seconds_each: float = 0) -> House:
    """One in which a request takes so many seconds, one after the other."""
    forecast = Forecast(Policy(1, 100, 0), fixed_cost_tokens=0)
    forecast.learn(Cost(seconds_each, requests=1, tokens=1))
    return House(places, forecast)


def admit(house: House, *inputs: str, patience_s: float = 30, running: int = 0, busy_s: float = 0) -> list[Request]:
    return house.admit(inputs, {}, 100, 100 + patience_s, 7, running=running, busy_s=busy_s)


def test_who_is_let_in_has_its_times_its_place_and_its_number() -> None:
    full = house()
    first, *others = admit(full, "a") + admit(full, "b", "c", "d") + admit(full, "e")
    assert (first.input, first.parameters, first.enqueued_at, first.deadline, first.measured_from) == (
        *("a", {}, 100, 130, 7),
    )
    assert [(first.place, first.number)] == [(0, 0)]
    assert [(request.input, request.place, request.number) for request in others] == [
        ("b", 1, 1),
        ("c", 2, 2),
        ("d", 3, 3),
        ("e", 2, 4),
    ]
    assert [request.input for request in sorted([first, *others])] == ["a", "b", "c", "e", "d"]
    assert len(full) == 5


def test_a_list_is_let_in_whole_or_not_at_all_and_a_refusal_takes_no_place() -> None:
    full = house(places=3)
    admit(full, "a", "b")
    with pytest.raises(Overloaded, match="The server is full: 2 of 3 places are taken"):
        admit(full, "c", "d")
    assert len(full) == 2
    (last,) = admit(full, "c")
    assert (last.place, last.number) == (1, 2)


def test_those_who_would_be_late_are_refused_unless_the_house_until_empty() -> None:
    busy = house(seconds_each=2)
    admit(busy, "a", "b", patience_s=1)
    with pytest.raises(Overloaded, match=r"about 7\.5 s; it was to come within 5\.9 s") as refusal:
        admit(busy, "c", patience_s=5.9)
    assert refusal.value.retry_after_s == 2
    admit(busy, "c", patience_s=7.5)
    admit(busy, "d", patience_s=7.65625, running=1, busy_s=1.875)
    with pytest.raises(Overloaded):
        admit(busy, "e", patience_s=7.65625, running=1, busy_s=100)  # it has done no more than what one takes


def test_a_deadline_that_has_passed_is_told_as_such() -> None:
    with pytest.raises(DeadlineExceeded):
        admit(house(), "a", patience_s=0)


def test_what_is_running_of_a_list_is_waited_for_whatever_its_place() -> None:
    busy = house(seconds_each=2)
    admit(busy, "list", "list", "list", "list", patience_s=100)
    with pytest.raises(Overloaded, match="may take about 12 s"):
        admit(busy, "a", patience_s=9, running=4)
    admit(busy, "a", patience_s=9, running=1)  # it overtakes the third and the fourth


def test_each_leaves_once_with_one_answer_and_is_counted() -> None:
    full = house(places=1)
    (request,) = admit(full, "a")
    before = metrics.INPUTS.labels("answered")._value.get()
    full.leave(request, Answer("A"), "answered")
    assert request.response.get_nowait() == Answer("A")
    assert metrics.INPUTS.labels("answered")._value.get() == before + 1
    with pytest.raises(KeyError):
        full.leave(request, Answer("B"), "answered")
    assert admit(full, "b")


def test_everyone_can_be_answered_at_once() -> None:
    full, verdict = house(), Draining("The server is shutting down.")
    requests = admit(full, "a", "b", "c")
    full.answer_everyone(verdict, "draining")
    assert [request.response.get_nowait().error for request in requests] == [verdict] * 3
    assert len(full) == 0


def test_one_can_wait_until_nobody_is_in() -> None:
    async def main() -> float:
        full, loop = house(), asyncio.get_running_loop()
        await full.until_empty()
        for request in admit(full, "a", "b"):
            loop.call_at(2 + request.number, full.leave, request, Answer(), "answered")
        await full.until_empty()
        return loop.time()

    assert run(main()) == 3
