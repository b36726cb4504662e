"""The arithmetic of the benchmarks: percentiles, ratios, slopes, and the simulated server."""

import statistics

import pytest

from benchmarks.figures import Spread, percentile, ratios, slope, spread
from benchmarks.queueing import Cost, fit, simulate

# Figures


@pytest.mark.parametrize(
    ("values", "share", "value"),
    [
        ([], 0.5, None),
        ([7.0], 0.99, 7.0),
        ([3.0, 1.0, 2.0], 0.5, 2.0),
        ([4.0, 3.0, 2.0, 1.0], 0.5, 2.0),  # half of them are no larger
        ([float(n) for n in range(1, 101)], 0.99, 99.0),
        ([1.0, 2.0], 0.0, 1.0),
    ],
)
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(
    values: list[float], share: float, value: float | None
) -> None:
    assert percentile(values, share) == value


def test_a_spread_is_the_median_the_lowest_and_the_highest() -> None:
    assert spread([3.0, 1.0, 8.0]) == Spread(3.0, 1.0, 8.0)
    assert spread([]) is None


def test_ratios_are_taken_round_by_round_and_a_round_without_one_does_not_count() -> None:
    assert ratios([20.0, 10.0, 60.0], [10.0, 10.0, 20.0]) == Spread(2.0, 1.0, 3.0)
    assert ratios([20.0, None, 60.0], [10.0, 10.0, 0.0]) == Spread(2.0, 2.0, 2.0)
    assert ratios([None], [1.0]) is None


def test_a_slope_is_that_of_the_line_through_the_points() -> None:
    assert slope([(0.0, 100.0), (1.0, 103.0), (2.0, 106.0)]) == pytest.approx(3.0)
    assert slope([(1.0, 5.0)]) == 0.0
    assert slope([]) == 0.0


# The simulated server

COST = Cost(fixed_s=0.010, text_s=0.002)


def test_the_cost_of_a_batch_follows_from_two_closed_loops() -> None:
    cost = fit(alone_per_s=1 / 0.012, together_per_s=32 / 0.074, together=32)
    assert (cost.fixed_s, cost.text_s) == pytest.approx((0.010, 0.002))


def test_a_simulated_request_alone_takes_a_batch_of_its_own_length() -> None:
    assert simulate(COST, 1e-6, [1.0, 3.0], 32, requests=4) == pytest.approx([0.011, 0.013, 0.011, 0.013])


def test_simulated_requests_that_arrive_together_are_answered_a_full_batch_at_a_time() -> None:
    first, *others = simulate(COST, 1e9, [1.0], 32, requests=65)
    assert first == pytest.approx(0.012, rel=1e-3)
    assert others == pytest.approx([0.012 + 0.074] * 32 + [0.012 + 2 * 0.074] * 32, rel=1e-3)


def test_without_batches_the_simulated_wait_is_that_of_queueing_theory() -> None:
    """Pollaczek and Khinchin: with a constant service time s at a load of one half, s / 2 of waiting on average."""
    latencies_s = simulate(Cost(0.0, 0.001), 500.0, [1.0], 1, requests=200_000)
    assert statistics.mean(latencies_s) == pytest.approx(0.0015, rel=0.02)
