"""What a step computes, and what may start: every number is exact."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_webserver.scheduling.step_policy import StepPolicy, prefill_budget, schedule, startable

POLICY = StepPolicy(max_tokens=100, max_sequences=4, fixed_cost_tokens=20, max_cache_tokens=100)


def policy(max_tokens: int) -> StepPolicy:
    return StepPolicy(max_tokens, 4, 0, 100)


@pytest.mark.parametrize(
    ("fixed", "decoding", "budget"),
    [
        (20, 0, 100),  # there is none to delay
        (20, 1, 21),  # as long again as the step would take
        (20, 10, 30),
        (3, 1, 16),  # prompts go on, however small a step is
        (20, 60, 40),  # the rest of the step
        (20, 99, 1),
        (20, 100, 0),
    ],
)
def test_prompts_make_a_step_twice_as_long_at_most(fixed: float, decoding: int, budget: int) -> None:
    assert prefill_budget(StepPolicy(100, 4, fixed, 100), decoding) == budget


@pytest.mark.parametrize(
    ("pending", "counts"),
    [
        ([], []),
        ([5], [5]),
        ([250], [100]),  # in chunks
        ([60, 60, 60], [60, 40, 0]),
        ([1, 1, 1], [1, 1, 1]),
        ([1, 50], [1, 21]),
        ([50, 1], [21, 1]),  # a prompt that came first delays no sequence that decodes
        ([1, 10, 50], [1, 10, 11]),
        ([1, 30, 5], [1, 21, 0]),  # first come, first served
        ([0, 1, 0, 4, 0], [0, 1, 0, 4, 0]),  # one that waits for the prompt of another
        ([0, 0], [0, 0]),
        ([1] * 99 + [7], [1] * 99 + [1]),
    ],
)
def test_every_sequence_that_decodes_has_its_token_and_prompts_share_the_rest(
    pending: list[int], counts: list[int]
) -> None:
    assert schedule(POLICY, pending) == counts


@pytest.mark.parametrize(
    ("max_tokens", "pending", "counts"),
    [
        (3, [1, 1, 1, 1], [1, 1, 1, 0]),
        (3, [1, 1, 1, 9], [1, 1, 0, 1]),  # one token is for the prompts
        (2, [9, 1, 1], [1, 1, 0]),
        (1, [1, 9], [0, 1]),
        (1, [1, 1], [1, 0]),
    ],
)
def test_a_step_that_is_too_small_for_all_serves_the_first_and_a_prompt(
    max_tokens: int, pending: list[int], counts: list[int]
) -> None:
    assert schedule(policy(max_tokens), pending) == counts


@pytest.mark.parametrize(
    ("running", "reserved", "waiting", "count"),
    [
        (0, 0, [], 0),
        (0, 0, [(1, 30)] * 3, 3),
        (0, 0, [(1, 30)] * 4, 3),  # the room
        (0, 0, [(1, 10)] * 5, 4),  # the limit on sequences
        (0, 0, [(3, 10), (2, 10)], 1),
        (1, 60, [(1, 40)], 1),  # exactly the room
        (1, 60, [(1, 41)], 0),
        (0, 60, [(1, 41)], 0),
        (1, 1, [(1, 500), (1, 1)], 0),  # a smaller one behind it does not overtake
        (0, 0, [(1, 500), (1, 1)], 1),  # larger than all the room: alone
        (0, 0, [(8, 10), (1, 1)], 1),
        (0, 0, [(1, 1), (1, 500)], 1),
    ],
)
def test_those_start_that_have_room_to_their_end_and_none_overtakes(
    running: int, reserved: int, waiting: list[tuple[int, int]], count: int
) -> None:
    assert startable(POLICY, running, reserved, waiting) == count


policies = st.builds(StepPolicy, st.integers(1, 40), st.integers(1, 6), st.floats(0, 50), st.integers(1, 60))


@settings(deadline=None)
@given(policies, st.lists(st.sampled_from([0, 1, 1, 1, 2, 7, 30])))
def test_a_step_keeps_its_limit_makes_progress_and_serves_prompts_in_their_order(
    policy: StepPolicy, pending: list[int]
) -> None:
    counts = schedule(policy, pending)
    assert all(0 <= count <= most for count, most in zip(counts, pending, strict=True))
    assert min(1, sum(pending)) <= sum(counts) <= policy.max_tokens
    prompts = [(count, most) for count, most in zip(counts, pending, strict=True) if most > 1]
    if prompts:
        assert prompts[0][0] >= 1
    for (count, most), (later, _) in itertools.pairwise(prompts):
        assert later == 0 or count == most
    decoding = [count for count, most in zip(counts, pending, strict=True) if most == 1]
    if len(decoding) + bool(prompts) <= policy.max_tokens:
        assert all(decoding)


@settings(deadline=None)
@given(policies, st.lists(st.tuples(st.integers(1, 30), st.integers(1, 5)), max_size=6))
def test_step_after_step_every_sequence_comes_to_its_end(policy: StepPolicy, lengths: list[tuple[int, int]]) -> None:
    """Of sequences with so many tokens in their prompts, and so many that follow."""
    pending, left = [prompt for prompt, _ in lengths], [follow for _, follow in lengths]
    for _ in range(sum(prompt + follow for prompt, follow in lengths)):
        for index, count in enumerate(schedule(policy, pending)):
            pending[index] -= count
            if count and not pending[index]:
                left[index] -= 1
                pending[index] = min(1, left[index])
    assert left == [0] * len(lengths)


@settings(deadline=None)
@given(policies, st.lists(st.tuples(st.integers(1, 4), st.integers(1, 30)), max_size=8))
def test_as_many_start_as_there_is_room_for_and_one_always(policy: StepPolicy, waiting: list[tuple[int, int]]) -> None:
    def fits(started: list[tuple[int, int]]) -> bool:
        sequences, tokens = sum(count for count, _ in started), sum(tokens for _, tokens in started)
        return sequences <= policy.max_sequences and tokens <= policy.max_cache_tokens

    count = startable(policy, 0, 0, waiting)
    assert count >= min(1, len(waiting))
    assert count <= 1 or fits(waiting[:count])
    assert count == len(waiting) or not fits(waiting[: count + 1])
