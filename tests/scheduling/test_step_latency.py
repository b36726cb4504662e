"""Estimates of how long entries will be generated from: every number is exact."""

import pytest

from pipeline_webserver.scheduling.step_latency import WINDOW_ENTRIES, WINDOW_STEPS, StepCost, StepLatencyModel
from pipeline_webserver.scheduling.step_policy import StepPolicy
from tests.support.fake_steps import FakeGeneration, generation

# 10 of fixed cost and 10 tokens in 2 s: a tenth of a second each.
STEP = StepCost(seconds=2, tokens=10)


def generated(prompt: int = 6, new: int = 20, sequences: int = 1, max_length: int = 40) -> FakeGeneration:
    """An input with so many tokens in its prompt, and what each of its sequences has so far."""
    made = generation("word " * prompt, new, sequences, max_length)
    for sequence in made.sequences:
        sequence.new_tokens = new
    return made


def latency_model(*costs: StepCost, cache: int = 1000) -> StepLatencyModel:
    model = StepLatencyModel(StepPolicy(100, max_sequences=4, fixed_cost_tokens=10, max_cache_tokens=cache))
    for cost in costs:
        model.observe(cost)
    return model


def known(*entries: FakeGeneration, cache: int = 1000) -> StepLatencyModel:
    model = latency_model(STEP, cache=cache)
    for entry in entries:
        model.observe_entry(entry)
    return model


def test_there_is_no_estimate_before_a_step_and_an_entry_are_known() -> None:
    assert latency_model().estimate_s(1000) == 0
    assert latency_model(STEP).estimate_s(1000) == 0
    entry_alone = latency_model()
    entry_alone.observe_entry(generated())
    assert entry_alone.estimate_s(1000) == 0
    assert entry_alone.done_s([generated()]) == 0
    assert known(generated()).estimate_s(0) == 0


def test_one_entry_predicts_those_beside_it_and_those_that_follow() -> None:
    model = known(generated())
    assert model.estimate_s(1) == pytest.approx(22.6)  # 20 steps of 10 and 1, and 6 of the prompt
    assert model.estimate_s(4) == pytest.approx(30.4)  # 20 steps of 10 and 4
    assert model.estimate_s(5) == pytest.approx(59.0)  # 40 steps, as many again
    assert model.estimate_s(8) == pytest.approx(60.8)


def test_an_entry_with_several_sequences_counts_as_so_many() -> None:
    model = known(generated(sequences=2))
    assert model.estimate_s(2) == pytest.approx(20 * 14 / 10 + 1.2)
    assert model.estimate_s(3) == pytest.approx(40 * 14 / 10 + 1.8)


def test_the_room_for_keys_and_values_limits_what_is_generated_side_by_side() -> None:
    model = known(generated(), cache=100)  # of which an entry takes 46
    assert model.estimate_s(2) == pytest.approx(20 * 12 / 10 + 1.2)
    assert model.estimate_s(3) == pytest.approx(40 * 12 / 10 + 1.8)
    assert known(generated(), cache=10).estimate_s(2) == pytest.approx(40 * 11 / 10 + 1.2)  # one at a time


def test_an_entry_is_as_long_as_the_longest_of_its_sequences() -> None:
    made = generated(sequences=2)
    made.sequences[0].new_tokens = 3
    assert known(made).estimate_s(1) == pytest.approx(20 * 12 / 10 + 0.6)


def test_one_disturbed_step_has_no_weight_but_a_new_speed_is_learned() -> None:
    disturbed = StepCost(seconds=200, tokens=10)
    for others, factor in ((1, 1), (WINDOW_STEPS // 2, 1), (WINDOW_STEPS // 2 + 1, 100)):
        model = latency_model(*[STEP] * WINDOW_STEPS, *[disturbed] * others)
        model.observe_entry(generated())
        assert model.estimate_s(1) == pytest.approx(22.6 * factor)


def test_one_long_entry_has_no_weight_but_a_new_length_is_learned() -> None:
    typical, long = generated(), generated(prompt=6, new=2000, max_length=2000)
    assert known(*[typical] * WINDOW_ENTRIES, *[long] * 4).estimate_s(1) == pytest.approx(22.6)
    assert known(*[typical] * WINDOW_ENTRIES, *[long] * 5, cache=9999).estimate_s(1) == pytest.approx(2200.6)


def test_inputs_without_sequences_teach_nothing_and_count_as_not_begun() -> None:
    model = known(generation("whole"))
    assert model.estimate_s(1) == 0
    model = known(generated(), generation("whole"))
    assert model.estimate_s(1) == pytest.approx(22.6)
    assert model.done_s([generation("whole")]) == 0


def test_what_runs_has_its_share_of_the_estimate_behind_it() -> None:
    model = known(generated())
    assert model.done_s([]) == 0
    assert model.done_s([generated(new=10, max_length=40)]) == pytest.approx(22.6 / 4)
    # For two, 20 steps of 12 and their prompts: one of them is half done, the other has not begun.
    assert model.done_s([generated(new=20), generated(new=0)]) == pytest.approx((24 + 1.2) / 4)
