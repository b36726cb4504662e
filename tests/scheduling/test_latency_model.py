"""Estimates of how long entries will take: every number is exact."""

import pytest

from pipeline_webserver.scheduling.batch_policy import BatchPolicy
from pipeline_webserver.scheduling.latency_model import BatchCost, LatencyModel, retry_after_s

MS = 0.001


@pytest.mark.parametrize(("seconds", "expected"), [(0, 1), (0.2, 1), (1, 1), (1.001, 2), (16, 16)])
def test_a_retry_is_due_in_whole_seconds_and_not_at_once(seconds: float, expected: int) -> None:
    assert retry_after_s(seconds) == expected


def latency_model(*costs: BatchCost, fixed: float = 10, size: int = 4, tokens: int = 100) -> LatencyModel:
    model = LatencyModel(BatchPolicy(size, tokens, MS), fixed)
    for cost in costs:
        model.observe(cost)
    return model


def test_there_is_no_estimate_before_the_first_observation() -> None:
    assert latency_model().estimate_s(1000) == 0


def test_the_cost_of_a_single_entry_predicts_that_of_full_batches() -> None:
    # 10 of fixed cost and 10 tokens in 2 s: a tenth of a second each.
    known = latency_model(BatchCost(seconds=2, entries=1, tokens=10))
    assert known.estimate_s(1) == pytest.approx(2)
    assert known.estimate_s(4) == pytest.approx(5)  # one batch, 40 tokens
    assert known.estimate_s(5) == pytest.approx(10)  # two batches, and the second will be full when it begins
    assert known.estimate_s(400) == pytest.approx(500)


def test_the_limit_on_tokens_makes_more_batches() -> None:
    known = latency_model(BatchCost(seconds=2, entries=1, tokens=10), tokens=20)
    assert known.estimate_s(4) == pytest.approx(6)  # two batches of 20 tokens


def test_one_disturbed_batch_has_no_weight_but_a_new_speed_is_learned() -> None:
    typical, disturbed = BatchCost(seconds=2, entries=1, tokens=10), BatchCost(seconds=200, entries=1, tokens=10)
    assert latency_model(*[typical] * 3, disturbed).estimate_s(1) == pytest.approx(2)
    assert latency_model(*[typical] * 9, *[disturbed] * 4).estimate_s(1) == pytest.approx(2)
    assert latency_model(*[typical] * 9, *[disturbed] * 5).estimate_s(1) == pytest.approx(200)


def test_one_long_entry_has_no_weight() -> None:
    typical, long = BatchCost(seconds=2, entries=1, tokens=10), BatchCost(seconds=1601, entries=1, tokens=16_000)
    assert latency_model(*[typical] * 8, long).estimate_s(1) == pytest.approx(2)


def test_batches_without_tokens_do_not_divide_by_zero() -> None:
    assert latency_model(BatchCost(seconds=1, entries=1, tokens=0), fixed=0).estimate_s(5) == 0
