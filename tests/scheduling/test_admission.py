"""Which inputs are admitted, their order, and that each completes once.

What it means for batches is in `test_batching`.
"""

import asyncio

import pytest

from pipeline_webserver.errors import DeadlineExceeded, Draining, Overloaded
from pipeline_webserver.scheduling.admission import AdmissionController
from pipeline_webserver.scheduling.batch_policy import BatchPolicy
from pipeline_webserver.scheduling.entry import Entry, Result
from pipeline_webserver.scheduling.latency_model import BatchCost, LatencyModel
from pipeline_webserver.telemetry import metrics
from tests.support.clock import run


def controller(max_in_flight: int = 8, seconds_each: float = 0) -> AdmissionController:
    """One for which an entry takes so many seconds, one after the other."""
    latency_model = LatencyModel(BatchPolicy(1, 100, 0), fixed_cost_tokens=0)
    latency_model.observe(BatchCost(seconds_each, entries=1, tokens=1))
    return AdmissionController(max_in_flight, latency_model)


def admit(
    admission: AdmissionController, *inputs: str, timeout_s: float = 30, running: int = 0, busy_s: float = 0
) -> list[Entry]:
    return admission.admit(inputs, {}, 100, 100 + timeout_s, 7, running=running, busy_s=busy_s)


def test_an_admitted_entry_has_its_times_its_rank_and_its_arrival() -> None:
    full = controller()
    first, *others = admit(full, "a") + admit(full, "b", "c", "d") + admit(full, "e")
    assert (first.input, first.parameters, first.enqueued_at, first.deadline, first.submitted_at) == (
        *("a", {}, 100, 130, 7),
    )
    assert [(first.rank, first.arrival)] == [(0, 0)]
    assert [(entry.input, entry.rank, entry.arrival) for entry in others] == [
        ("b", 1, 1),
        ("c", 2, 2),
        ("d", 3, 3),
        ("e", 2, 4),
    ]
    assert [entry.input for entry in sorted([first, *others])] == ["a", "b", "c", "e", "d"]
    assert len(full) == 5


def test_a_list_is_admitted_whole_or_not_at_all_and_a_rejection_takes_no_rank() -> None:
    full = controller(max_in_flight=3)
    admit(full, "a", "b")
    with pytest.raises(Overloaded, match="The server is full: 2 of 3 inputs are in flight"):
        admit(full, "c", "d")
    assert len(full) == 2
    (last,) = admit(full, "c")
    assert (last.rank, last.arrival) == (1, 2)


def test_inputs_that_would_miss_their_deadline_are_rejected_unless_the_server_is_idle() -> None:
    busy = controller(seconds_each=2)
    admit(busy, "a", "b", timeout_s=1)
    with pytest.raises(Overloaded, match=r"about 7\.5 s; the deadline is in 5\.9 s") as rejection:
        admit(busy, "c", timeout_s=5.9)
    assert rejection.value.retry_after_s == 2
    admit(busy, "c", timeout_s=7.5)
    admit(busy, "d", timeout_s=7.65625, running=1, busy_s=1.875)
    with pytest.raises(Overloaded):
        admit(busy, "e", timeout_s=7.65625, running=1, busy_s=100)  # it has done no more than what one takes


def test_a_deadline_that_has_passed_is_reported_as_such() -> None:
    with pytest.raises(DeadlineExceeded):
        admit(controller(), "a", timeout_s=0)


def test_running_entries_of_a_list_count_whatever_their_rank() -> None:
    busy = controller(seconds_each=2)
    admit(busy, "list", "list", "list", "list", timeout_s=100)
    with pytest.raises(Overloaded, match="may take about 12 s"):
        admit(busy, "a", timeout_s=9, running=4)
    admit(busy, "a", timeout_s=9, running=1)  # it overtakes the third and the fourth


def test_each_entry_completes_once_with_one_result_and_is_counted() -> None:
    full = controller(max_in_flight=1)
    (entry,) = admit(full, "a")
    before = metrics.INPUTS.labels("answered")._value.get()
    full.complete(entry, Result("A"), "answered")
    assert entry.response_queue.get_nowait() == Result("A")
    assert metrics.INPUTS.labels("answered")._value.get() == before + 1
    with pytest.raises(KeyError):
        full.complete(entry, Result("B"), "answered")
    assert admit(full, "b")


def test_all_entries_can_fail_at_once() -> None:
    full, error = controller(), Draining("The server is shutting down.")
    entries = admit(full, "a", "b", "c")
    full.fail_all(error, "draining")
    assert [entry.response_queue.get_nowait().error for entry in entries] == [error] * 3
    assert len(full) == 0


def test_waiting_until_idle_ends_with_the_last_entry() -> None:
    async def main() -> float:
        full, loop = controller(), asyncio.get_running_loop()
        await full.wait_until_idle()
        for entry in admit(full, "a", "b"):
            loop.call_at(2 + entry.arrival, full.complete, entry, Result(), "answered")
        await full.wait_until_idle()
        return loop.time()

    assert run(main()) == 3
