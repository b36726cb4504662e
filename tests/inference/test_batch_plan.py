"""Which rows share a pass."""

import pytest

from pipeline_webserver.inference.batch_plan import enough_tokens, plan_in_order, plan_passes


@pytest.mark.parametrize(
    ("lengths", "max_tokens", "fixed", "passes"),
    [
        ([], 100, 10, []),
        ([5, 5, 5], 100, 0, [[0, 1, 2]]),  # no padding, one pass
        ([5, 6], 100, 0, [[0], [1]]),  # the padding costs more than a pass
        ([5, 6], 100, 1, [[0, 1]]),  # as much as a pass
        ([6, 50, 5, 51], 1000, 10, [[2, 0], [1, 3]]),  # short with short, long with long
        ([5, 5, 5], 10, 10, [[0, 1], [2]]),  # the limit on tokens
        ([5, 6, 7], 20, 100, [[0, 1], [2]]),  # which counts padding: 3 x 7 is 21
        ([99], 10, 10, [[99 - 99]]),  # a long one runs by itself
    ],
)
def test_rows_share_a_pass_while_their_padding_costs_less_than_a_pass(
    lengths: list[int], max_tokens: int, fixed: float, passes: list[list[int]]
) -> None:
    assert plan_passes(lengths, max_tokens, fixed) == passes


@pytest.mark.parametrize(
    ("lengths", "max_tokens", "passes"),
    [
        ([], 100, []),
        ([90, 5, 5, 50], 100, [[0, 1, 2], [3]]),  # neighbours, up to the limit and no further
        ([99, 200, 1], 100, [[0], [1], [2]]),  # a long one runs by itself
        ([90, *[1] * 10], 100, [[*range(8)], [8, 9, 10]]),  # nine rows of 90 were over eight times the limit
    ],
)
def test_where_padding_is_free_rows_share_a_pass_in_the_order_they_came(
    lengths: list[int], max_tokens: int, passes: list[list[int]]
) -> None:
    assert plan_in_order(lengths, max_tokens) == passes


@pytest.mark.parametrize(("fixed", "tokens"), [(30, 570), (1, 256), (10_000, 16_384)])
def test_enough_tokens_reach_95_percent_of_the_best_throughput(fixed: float, tokens: int) -> None:
    assert enough_tokens(fixed) == tokens
    if tokens not in {256, 16_384}:
        assert tokens / (fixed + tokens) == pytest.approx(0.95)
