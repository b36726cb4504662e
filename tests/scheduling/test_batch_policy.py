"""The decisions of batching: every number is exact."""

import pytest

from pipeline_webserver.scheduling.batch_policy import (
    Cost,
    Forecast,
    Policy,
    fits,
    is_full,
    leaves_at,
    retry_after_s,
    skip_reason,
)

MS = 0.001


@pytest.mark.parametrize(
    ("tokens", "count"),
    [
        ([], 0),
        ([5], 1),
        ([5, 5, 5], 3),
        ([5, 5, 5, 5], 3),  # the limit on requests
        ([5, 10], 2),  # exactly the limit on tokens
        ([5, 11], 1),  # one token over it
        ([99, 1], 1),  # the first always goes, by itself
        ([7, 9, 1], 1),  # nobody overtakes
    ],
)
def test_a_batch_takes_the_first_that_keep_both_limits(tokens: list[int], count: int) -> None:
    assert fits(Policy(max_batch_size=3, max_batch_tokens=15, wait_s=MS), tokens) == count


@pytest.mark.parametrize(
    ("tokens", "full"),
    [([], False), ([5], False), ([5, 5], False), ([1, 1, 1], True), ([15], True), ([14], False), ([9, 9], True)],
)
def test_a_batch_is_full_when_waiting_cannot_make_it_larger(tokens: list[int], full: bool) -> None:
    assert is_full(Policy(max_batch_size=3, max_batch_tokens=15, wait_s=MS), tokens) is full


def test_a_batch_leaves_when_its_oldest_request_has_waited_its_time() -> None:
    assert leaves_at(Policy(1, 1, wait_s=0.5), 10.0, company=True) == 10.5
    assert leaves_at(Policy(1, 1, wait_s=0.5), 10.0, company=False) == 10.0


def test_nobody_waits_for_the_abandoned_and_the_expired() -> None:
    assert skip_reason(abandoned=False, deadline=5, now=4.999) is None
    assert skip_reason(abandoned=False, deadline=5, now=5) == "expired"
    assert skip_reason(abandoned=True, deadline=5, now=0) == "abandoned"


@pytest.mark.parametrize(("seconds", "told"), [(0, 1), (0.2, 1), (1, 1), (1.001, 2), (16, 16)])
def test_who_is_refused_comes_back_in_whole_seconds_and_not_at_once(seconds: float, told: int) -> None:
    assert retry_after_s(seconds) == told


# The forecast


def forecast(*costs: Cost, fixed: float = 10, size: int = 4, tokens: int = 100) -> Forecast:
    made = Forecast(Policy(size, tokens, MS), fixed)
    for cost in costs:
        made.learn(cost)
    return made


def test_nothing_is_forecast_while_nothing_is_known() -> None:
    assert forecast().seconds(1000) == 0


def test_what_a_lone_request_took_tells_what_full_batches_will_take() -> None:
    # 10 of fixed cost and 10 tokens in 2 s: a tenth of a second each.
    known = forecast(Cost(seconds=2, requests=1, tokens=10))
    assert known.seconds(1) == pytest.approx(2)
    assert known.seconds(4) == pytest.approx(5)  # one batch, 40 tokens
    assert known.seconds(5) == pytest.approx(10)  # two batches, and the second will be full when it begins
    assert known.seconds(400) == pytest.approx(500)


def test_the_limit_on_tokens_makes_more_batches() -> None:
    known = forecast(Cost(seconds=2, requests=1, tokens=10), tokens=20)
    assert known.seconds(4) == pytest.approx(6)  # two batches of 20 tokens


def test_one_batch_that_was_held_up_is_not_believed_but_the_new_speed_is_learned() -> None:
    usual, held_up = Cost(seconds=2, requests=1, tokens=10), Cost(seconds=200, requests=1, tokens=10)
    assert forecast(*[usual] * 3, held_up).seconds(1) == pytest.approx(2)
    assert forecast(*[usual] * 9, *[held_up] * 4).seconds(1) == pytest.approx(2)
    assert forecast(*[usual] * 9, *[held_up] * 5).seconds(1) == pytest.approx(200)


def test_one_long_request_is_not_taken_for_the_usual_one() -> None:
    usual, long = Cost(seconds=2, requests=1, tokens=10), Cost(seconds=1601, requests=1, tokens=16_000)
    assert forecast(*[usual] * 8, long).seconds(1) == pytest.approx(2)


def test_batches_that_cost_no_tokens_are_no_division_by_nothing() -> None:
    assert forecast(Cost(seconds=1, requests=1, tokens=0), fixed=0).seconds(5) == 0
