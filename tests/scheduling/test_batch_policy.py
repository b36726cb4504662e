"""The decisions of batching: every number is exact."""

import pytest

from pipeline_webserver.scheduling.batch_policy import BatchPolicy, batch_length, dispatch_at, drop_reason, is_full

MS = 0.001


@pytest.mark.parametrize(
    ("tokens", "count"),
    [
        ([], 0),
        ([5], 1),
        ([5, 5, 5], 3),
        ([5, 5, 5, 5], 3),  # the limit on entries
        ([5, 10], 2),  # exactly the limit on tokens
        ([5, 11], 1),  # one token over it
        ([99, 1], 1),  # the first always goes, by itself
        ([7, 9, 1], 1),  # no entry overtakes
    ],
)
def test_a_batch_takes_the_first_that_keep_both_limits(tokens: list[int], count: int) -> None:
    assert batch_length(BatchPolicy(max_batch_size=3, max_batch_tokens=15, max_wait_s=MS), tokens) == count


@pytest.mark.parametrize(
    ("tokens", "full"),
    [([], False), ([5], False), ([5, 5], False), ([1, 1, 1], True), ([15], True), ([14], False), ([9, 9], True)],
)
def test_a_batch_is_full_when_waiting_cannot_make_it_larger(tokens: list[int], full: bool) -> None:
    assert is_full(BatchPolicy(max_batch_size=3, max_batch_tokens=15, max_wait_s=MS), tokens) is full


def test_a_batch_is_dispatched_when_its_oldest_entry_has_waited_its_time() -> None:
    assert dispatch_at(BatchPolicy(1, 1, max_wait_s=0.5), 10.0, expect_more=True) == 10.5
    assert dispatch_at(BatchPolicy(1, 1, max_wait_s=0.5), 10.0, expect_more=False) == 10.0


def test_cancelled_and_expired_entries_are_dropped() -> None:
    assert drop_reason(cancelled=False, deadline=5, now=4.999) is None
    assert drop_reason(cancelled=False, deadline=5, now=5) == "expired"
    assert drop_reason(cancelled=True, deadline=5, now=0) == "cancelled"
