"""Which model inputs share a forward pass, by numbers."""

import pytest

from pipeline_webserver.inference.batch_plan import (
    PADDED,
    SAME_SHAPE,
    UNPADDED,
    BatchStrategy,
    alone,
    plan_in_order,
    plan_passes,
    same_length,
    saturating_tokens,
)


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
        ([99], 10, 10, [[0]]),  # a long one has a pass of its own
    ],
)
def test_model_inputs_share_a_pass_while_their_padding_costs_no_more_than_a_pass(
    lengths: list[int], max_tokens: int, fixed: float, passes: list[list[int]]
) -> None:
    assert plan_passes(lengths, max_tokens, fixed) == passes


@pytest.mark.parametrize(
    ("lengths", "max_tokens", "passes"),
    [
        ([], 100, []),
        ([90, 5, 5, 50], 100, [[0, 1, 2], [3]]),  # neighbours, up to the limit and no further
        ([99, 200, 1], 100, [[0], [1], [2]]),  # a long one has a pass of its own
        ([90, *[1] * 10], 100, [[*range(8)], [8, 9, 10]]),  # nine rows of 90 were over eight times the limit
    ],
)
def test_where_padding_costs_no_time_model_inputs_share_a_pass_in_their_order(
    lengths: list[int], max_tokens: int, passes: list[list[int]]
) -> None:
    assert plan_in_order(lengths, max_tokens) == passes


@pytest.mark.parametrize(
    ("strategy", "passes"),
    [
        (alone("why"), [[0], [1], [2], [3]]),
        (SAME_SHAPE, [[1, 3], [2], [0]]),
        (same_length("why"), [[1, 3], [2], [0]]),
        (PADDED, [[1, 3, 2], [0]]),
        (UNPADDED, [[0, 1, 2, 3]]),
    ],
    ids=lambda value: value.kind if isinstance(value, BatchStrategy) else None,
)
def test_each_strategy_shares_passes_in_its_own_way(strategy: BatchStrategy, passes: list[list[int]]) -> None:
    assert strategy.plan([50, 5, 6, 5], max_tokens=100, fixed_cost_tokens=10) == passes


def test_padding_is_computed_except_where_it_is_removed() -> None:
    assert PADDED.computed_tokens([3, 5, 4]) == same_length("why").computed_tokens([3, 5, 4]) == 15
    assert UNPADDED.computed_tokens([3, 5, 4]) == 12


@pytest.mark.parametrize(("fixed", "tokens"), [(30, 570), (1, 256), (10_000, 16_384)])
def test_saturating_tokens_reach_95_percent_of_the_best_throughput_within_their_range(
    fixed: float, tokens: int
) -> None:
    assert saturating_tokens(fixed) == tokens
    if tokens not in {256, 16_384}:
        assert tokens / (fixed + tokens) == pytest.approx(0.95)
