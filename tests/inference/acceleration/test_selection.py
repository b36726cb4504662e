"""The speed-ups change no answer, whatever the family, and are kept only where they are faster.

What each does by itself is in `test_reading`, `test_packing` and `test_onednn`.
"""

from collections.abc import Collection, Sequence
from typing import Any

import pytest
import torch

from pipeline_webserver.errors import ConfigurationError
from pipeline_webserver.inference.acceleration.base import DoesNotFit, SpeedUp
from pipeline_webserver.inference.acceleration.last_layer import LastLayer, first_token
from pipeline_webserver.inference.acceleration.onednn import computed_rows
from pipeline_webserver.inference.acceleration.selection import (
    Probe,
    accelerate,
    speed_ups_for,
    tolerance_of,
    worst_difference,
)
from pipeline_webserver.inference.acceleration.unpadding import NoPadding
from tests.support.families import (
    CUT,
    HEADS,
    LENGTHS,
    PACKED,
    UNPACKED,
    alone,
    make,
    masks,
    rows_of,
    shapes_seen,
    together,
)

READS = {"masked": masks, "classifier": first_token, "bare": None}


def switch_on(model: Any, head: str) -> list[SpeedUp]:
    """All that fit, whatever they gain."""
    fitting = []
    for speed_up in speed_ups_for(model, READS[head]):
        try:
            speed_up.on()
        except DoesNotFit:
            speed_up.off()
        else:
            fitting.append(speed_up)
    return fitting


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", PACKED)
def test_a_mixed_batch_with_all_speed_ups_equals_the_untouched_model_row_by_row(family: str, head: str) -> None:
    model, rows = make(PACKED[family](), head), rows_of(LENGTHS)
    untouched = alone(model, rows)
    for speed_up in switch_on(model, head):
        if speed_up.name == LastLayer.name and family not in CUT:
            speed_up.off()
    shapes = shapes_seen(model)
    assert worst_difference(untouched, together(model, rows)) < 1e-5
    assert {shape[:2] for shape in shapes} == {(1, computed_rows(sum(LENGTHS)))}
    assert worst_difference(untouched, alone(model, rows)) < 1e-5


@pytest.mark.parametrize("head", ["masked", "classifier"])
@pytest.mark.parametrize("family", sorted(set(PACKED) - CUT))
def test_a_last_layer_that_cannot_be_cut_is_found_out_and_left_whole(family: str, head: str) -> None:
    model, rows = make(PACKED[family](), head), rows_of(LENGTHS)
    no_padding = NoPadding(model)
    untouched, shown = alone(model, rows), str(model)
    no_padding.on()
    probe = Probe("in a batch", lambda names: together(model, rows), untouched)
    (outcome,) = accelerate([LastLayer(model, READS[head], no_padding)], [probe], 1e-5)
    assert outcome.on is False
    assert str(outcome.why).startswith("it fails on this model")
    assert str(model) == shown
    assert worst_difference(untouched, together(model, rows)) < 1e-5


@pytest.mark.parametrize("head", ["masked", "classifier"])
@pytest.mark.parametrize("family", UNPACKED)
def test_a_family_that_does_not_fit_keeps_its_padding_and_stays_right(family: str, head: str) -> None:
    model, rows = make(UNPACKED[family](), head), rows_of(LENGTHS)
    untouched, in_one_pass = alone(model, rows), together(model, rows)

    def run(names: Collection[str]) -> list[torch.Tensor]:
        return together(model, rows) if NoPadding.name in names else alone(model, rows)

    (outcome,) = accelerate([NoPadding(model)], [Probe("in a batch", run, untouched)], 1e-5)
    assert outcome.on is False
    assert outcome.difference is None or outcome.difference > 1e-2
    assert worst_difference(untouched, alone(model, rows)) == 0
    assert worst_difference(in_one_pass, together(model, rows)) == 0


@pytest.mark.parametrize("family", ["bert", "modernbert", "mpnet"])
def test_switched_off_again_the_model_is_what_it_was_to_the_last_bit(family: str) -> None:
    model, rows = make(PACKED[family]()), rows_of(LENGTHS)
    before, shown = [*alone(model, rows), *together(model, rows)], str(model)
    speed_ups = switch_on(model, "masked")
    assert len(speed_ups) == 4
    assert str(model) != shown
    for speed_up in reversed(speed_ups):
        speed_up.off()
    assert str(model) == shown
    assert worst_difference(before, [*alone(model, rows), *together(model, rows)]) == 0


# Trying them


class FakeSpeedUp(SpeedUp):
    """Named; does nothing, or raises."""

    def __init__(self, name: str, error: Exception | None = None) -> None:
        self.name = name
        self.error = error
        self._undo = []

    def on(self) -> None:
        self._undo.append(lambda: None)
        if self.error is not None:
            raise self.error


class FakeModel:
    """A probe whose time and error depend on which speed-ups are on, and the clock that it moves."""

    def __init__(self, factors: dict[str, float], errors: dict[str, float] | None = None) -> None:
        self.factors, self.errors, self.now = factors, errors or {}, 0.0

    def run(self, names: Collection[str]) -> list[torch.Tensor]:
        took_s = 1.0
        for name in names:
            took_s *= self.factors.get(name, 1)
        self.now += took_s
        return [torch.tensor([10.0 + sum(self.errors.get(name, 0) for name in names), 1.0])]

    def probe(self, name: str = "in a batch") -> Probe:
        return Probe(name, self.run, [torch.tensor([10.0, 1.0])])

    def clock(self) -> float:
        return self.now


def names_on(speed_ups: Sequence[SpeedUp]) -> list[str]:
    return [speed_up.name for speed_up in speed_ups if speed_up.is_on]


def test_a_speed_up_is_kept_if_it_is_faster_and_right_on_top_of_those_before_it() -> None:
    model = FakeModel({"fast": 0.5, "slow": 1.25, "wrong": 0.1, "last": 0.8}, {"wrong": 0.5, "last": 0.0001})
    speed_ups = [
        FakeSpeedUp("fast"),
        FakeSpeedUp("slow"),
        FakeSpeedUp("wrong"),
        FakeSpeedUp("alien", DoesNotFit("it is for others")),
        FakeSpeedUp("bad", RuntimeError("shapes\nand more")),
        FakeSpeedUp("last"),
    ]
    outcomes = accelerate(speed_ups, [model.probe()], 1e-4, model.clock)
    assert names_on(speed_ups) == ["fast", "last"]
    assert [outcome.on for outcome in outcomes] == [True, False, False, False, False, True]
    assert [outcome.gains and round(outcome.gains["in a batch"], 3) for outcome in outcomes] == [
        2,
        0.8,
        None,
        None,
        None,
        1.25,
    ]
    assert outcomes[-1].difference == pytest.approx(1e-5, rel=0.1)
    assert [outcome.why for outcome in outcomes] == [
        None,
        "it is no faster here (0.80 times in a batch)",
        "it changes the answers by 5.0e-02",
        "it is for others",
        "it fails on this model (shapes)",
        None,
    ]


@pytest.mark.parametrize(
    ("batch", "lone", "kept"),
    [
        (0.5, 1.0, True),  # faster for many, as fast for one
        (1.0, 0.5, True),
        (0.99, 0.99, False),  # no more than a timing is off by
        (0.5, 1.2, True),  # a little slower for one
        (0.25, 1.3, False),  # too much slower for one
    ],
)
def test_a_gain_for_a_batch_and_a_gain_for_one_input_count_alike(batch: float, lone: float, kept: bool) -> None:
    one, other = FakeModel({"it": batch}), FakeModel({"it": lone})
    probes = [one.probe("in a batch"), other.probe("alone")]
    (outcome,) = accelerate([FakeSpeedUp("it")], probes, 1e-4, lambda: one.now + other.now)
    assert outcome.on is kept
    assert outcome.gains == pytest.approx({"in a batch": 1 / batch, "alone": 1 / lone})


@pytest.mark.parametrize(("disturbed", "kept"), [(3, True), (20, False)])
def test_a_speed_up_that_seems_slow_is_tried_longer_since_something_else_may_have_run(
    disturbed: int, kept: bool
) -> None:
    model, rounds = FakeModel({"it": 0.5}), 0

    def run(names: Collection[str]) -> list[torch.Tensor]:
        nonlocal rounds
        if "it" in names and (rounds := rounds + 1) <= 2 * disturbed + 1:  # two runs in each round, and the check
            model.now += 1.0
        return model.run(names)

    (outcome,) = accelerate([FakeSpeedUp("it")], [Probe("alone", run, model.probe().reference)], 1e-4, model.clock)
    assert outcome.on is kept
    assert outcome.gains == {"alone": 2.0 if kept else pytest.approx(1 / 1.5)}
    assert rounds == 1 + 2 * 4


def test_a_speed_up_that_is_wrong_for_one_input_alone_is_left_off() -> None:
    right, wrong = FakeModel({"it": 0.5}), FakeModel({"it": 0.5}, {"it": 1.0})
    (outcome,) = accelerate([FakeSpeedUp("it")], [right.probe(), wrong.probe("alone")], 1e-4, lambda: 0.0)
    assert outcome.why == "it changes the answers by 1.0e-01"


def test_a_speed_up_that_fails_midway_is_taken_off_whole() -> None:
    model = make(PACKED["bert"]())

    class Midway(NoPadding):
        def on(self) -> None:
            super().on()
            raise RuntimeError("midway")

    shown, before = str(model), model.config._attn_implementation
    (outcome,) = accelerate([Midway(model)], [FakeModel({}).probe()], 1e-4)
    assert outcome.why == "it fails on this model (midway)"
    assert (str(model), model.config._attn_implementation) == (shown, before)
    assert not model._forward_pre_hooks


def test_a_speed_up_that_cannot_be_taken_off_stops_the_start_and_everything_else_of_it_is_taken_off() -> None:
    taken_off: list[str] = []
    speed_up = FakeSpeedUp("sticky", DoesNotFit("it is for others"))
    speed_up._undo = [lambda: taken_off.append("first"), lambda: 1 / 0, lambda: taken_off.append("last")]
    with pytest.raises(ConfigurationError, match=r"sticky could not be taken off .*PIPELINE_ACCELERATE=false"):
        accelerate([speed_up], [FakeModel({}).probe()], 1e-4)
    assert taken_off == ["last", "first"]


def test_a_difference_is_relative_to_the_largest_number_and_endless_for_what_is_none() -> None:
    one, other = torch.tensor([100.0, 1.0]), torch.tensor([101.0, 1.0])
    assert worst_difference([one], [other]) == pytest.approx(0.01)
    assert worst_difference([one], [one]) == 0
    assert worst_difference([one], [torch.tensor([100.0, torch.nan])]) == torch.inf
    assert worst_difference([torch.tensor([torch.inf, 1.0])], [other]) == torch.inf
    assert worst_difference([one], [torch.tensor([100.0])]) == torch.inf
    assert worst_difference([torch.zeros(0, 2)], [torch.zeros(0, 2)]) == 0


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-4), (torch.float64, 1e-4), (torch.float16, 1e-2), (torch.bfloat16, 5e-2)],
)
def test_short_numbers_may_differ_more(dtype: torch.dtype, tolerance: float) -> None:
    assert tolerance_of(dtype) == tolerance
