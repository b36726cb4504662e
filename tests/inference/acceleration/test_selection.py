"""Optimizations change no output, whatever the family, and what is applied is decided within a bounded time.

What each does is in the test of its own file.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from pipeline_webserver.errors import ConfigurationError
from pipeline_webserver.inference.acceleration.base import NotApplicable, Optimization
from pipeline_webserver.inference.acceleration.last_layer import LastLayer
from pipeline_webserver.inference.acceleration.onednn import computed_rows
from pipeline_webserver.inference.acceleration.selection import (
    MAX_ROUNDS,
    Probe,
    optimizations_for,
    optimize,
    summary,
)
from pipeline_webserver.inference.acceleration.unpadding import Unpadding
from pipeline_webserver.inference.numerics import worst_difference
from pipeline_webserver.inference.preprocessing.text import first_token
from pipeline_webserver.model_info import OptimizationReport
from tests.support.families import (
    HEADS,
    LENGTHS,
    NOT_UNPADDABLE,
    REDUCIBLE,
    UNPADDABLE,
    alone,
    make,
    masks,
    rows_of,
    shapes_seen,
    together,
)
from tests.support.pipelines import apply_all

POSITIONS_READ = {"masked": masks, "classifier": first_token, "bare": None}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", UNPADDABLE)
def test_a_mixed_batch_with_all_optimizations_equals_the_untouched_model_row_by_row(family: str, head: str) -> None:
    model, rows = make(UNPADDABLE[family](), head), rows_of(LENGTHS)
    untouched = alone(model, rows)
    for optimization in apply_all(model, POSITIONS_READ[head]):
        if optimization.name == LastLayer.name and family not in REDUCIBLE:
            optimization.revert()
    shapes = shapes_seen(model)
    assert worst_difference(untouched, together(model, rows)) < 1e-5
    assert {shape[:2] for shape in shapes} == {(1, computed_rows(sum(LENGTHS)))}
    assert worst_difference(untouched, alone(model, rows)) < 1e-5


@pytest.mark.parametrize("head", ["masked", "classifier"])
@pytest.mark.parametrize("family", sorted(set(UNPADDABLE) - REDUCIBLE))
def test_a_last_layer_that_cannot_be_reduced_is_found_out_and_left_whole(family: str, head: str) -> None:
    model, rows = make(UNPADDABLE[family](), head), rows_of(LENGTHS)
    unpadding = Unpadding(model)
    untouched, description = alone(model, rows), str(model)
    unpadding.apply()
    probe = Probe("in a batch", lambda applied: together(model, rows), untouched)
    (report,) = optimize([LastLayer(model, POSITIONS_READ[head], unpadding)], [probe], 1e-5)
    assert report.applied is False
    assert str(report.reason).startswith("it fails on this model")
    assert str(model) == description
    assert worst_difference(untouched, together(model, rows)) < 1e-5


@pytest.mark.parametrize("head", ["masked", "classifier"])
@pytest.mark.parametrize("family", NOT_UNPADDABLE)
def test_a_family_that_cannot_be_unpadded_keeps_its_padding_and_its_outputs(family: str, head: str) -> None:
    model, rows = make(NOT_UNPADDABLE[family](), head), rows_of(LENGTHS)
    untouched, in_one_pass = alone(model, rows), together(model, rows)

    def run(applied: Sequence[Optimization]) -> list[torch.Tensor]:
        return together(model, rows) if applied else alone(model, rows)

    (report,) = optimize([Unpadding(model)], [Probe("in a batch", run, untouched)], 1e-5)
    assert report.applied is False
    assert report.difference is None or report.difference > 1e-2
    assert worst_difference(untouched, alone(model, rows)) == 0
    assert worst_difference(in_one_pass, together(model, rows)) == 0


@pytest.mark.parametrize("family", ["bert", "modernbert", "mpnet"])
def test_with_all_optimizations_reverted_the_model_is_what_it_was_to_the_last_bit(family: str) -> None:
    model, rows = make(UNPADDABLE[family]()), rows_of(LENGTHS)
    before, description = [*alone(model, rows), *together(model, rows)], str(model)
    optimizations = apply_all(model, masks)
    assert len(optimizations) == 4
    assert str(model) != description
    for optimization in reversed(optimizations):
        optimization.revert()
    assert str(model) == description
    assert worst_difference(before, [*alone(model, rows), *together(model, rows)]) == 0


def test_a_model_that_does_not_encode_texts_has_prepacked_weights_only() -> None:
    model = make(UNPADDABLE["bert"]())
    names = [optimization.name for optimization in optimizations_for(model, masks)]
    assert names == ["masked_head", "unpadding", "last_layer", "prepacked_weights"]
    assert [one.name for one in optimizations_for(model, None, encodes_text=False)] == ["prepacked_weights"]


# Trying them


class FakeOptimization(Optimization):
    """Named; does nothing, or raises."""

    def __init__(self, name: str, error: Exception | None = None, *, is_default: bool = True) -> None:
        self.name = name
        self.error = error
        self._is_default = is_default
        self._undo = []

    @property
    def is_default(self) -> bool:
        return self._is_default

    def apply(self) -> None:
        self._undo.append(lambda: None)
        if self.error is not None:
            raise self.error


class FakeModel:
    """A probe whose runs take `run_s` by the factors of what is applied, and the clock that they move.

    `errors` are what each optimization adds to a number of 10. `noise` is one more factor, anew for each run.
    """

    def __init__(
        self,
        factors: dict[str, float],
        errors: dict[str, float] | None = None,
        *,
        run_s: float = 1.0,
        noise: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self.factors, self.errors, self.run_s, self.noise = factors, errors or {}, run_s, noise
        self.now = 0.0
        self.runs: list[float] = []  # the seconds of each

    def run(self, applied: Sequence[Optimization]) -> list[torch.Tensor]:
        names = [optimization.name for optimization in applied]
        seconds = self.run_s * self.noise()
        for name in names:
            seconds *= self.factors.get(name, 1)
        self.now += seconds
        self.runs.append(seconds)
        return [torch.tensor([10.0 + sum(self.errors.get(name, 0) for name in names), 1.0])]

    def probe(self, name: str = "in a batch") -> Probe:
        return Probe(name, self.run, [torch.tensor([10.0, 1.0])])

    def clock(self) -> float:
        return self.now

    def optimize(self, *optimizations: Optimization, budget_s: float = 100.0) -> list[OptimizationReport]:
        return optimize(optimizations, [self.probe()], 1e-4, self.clock, budget_s)


def timing_noise(seed: int) -> Callable[[], float]:
    """A run is now and then slower than it could be: a little mostly, sometimes three times."""
    generator = random.Random(seed)  # noqa: S311 - repeatable, not secret
    return lambda: 3.0 if generator.random() < 0.1 else 1 + abs(generator.gauss(0, 0.05))


def test_an_optimization_is_tried_on_top_of_those_applied_and_left_out_where_it_is_slower_or_wrong() -> None:
    model = FakeModel({"fast": 0.5, "slow": 1.25, "wrong": 0.1, "last": 0.8}, {"wrong": 0.5, "last": 0.0001})
    optimizations = [
        FakeOptimization("fast"),
        FakeOptimization("slow"),
        FakeOptimization("wrong"),
        FakeOptimization("alien", NotApplicable("it is for others")),
        FakeOptimization("bad", RuntimeError("shapes\nand more")),
        FakeOptimization("last"),
    ]
    reports = model.optimize(*optimizations)
    assert [optimization.name for optimization in optimizations if optimization.is_applied] == ["fast", "last"]
    assert [report.applied for report in reports] == [True, False, False, False, False, True]
    assert [report.gains and round(report.gains["in a batch"], 3) for report in reports] == [
        2,
        0.8,
        None,
        None,
        None,
        1.25,
    ]
    assert reports[-1].difference == pytest.approx(1e-5, rel=0.1)
    assert [report.reason for report in reports] == [
        None,
        "it is not clearly faster here (0.80 times in a batch)",
        "it changes the outputs by 5.0e-02",
        "it is for others",
        "it fails on this model (shapes)",
        None,
    ]


@pytest.mark.parametrize(
    ("batch", "lone", "by_default", "otherwise"),
    [
        (0.5, 1.0, True, True),  # faster for many, as fast for one
        (1.0, 0.5, True, True),
        (0.99, 0.99, True, False),  # no more than a timing is off by
        (1.03, 1.03, True, False),
        (0.9, 0.9, True, True),
        (1.1, 1.1, False, False),
        (0.5, 1.2, True, True),  # a little slower for one
        (0.25, 1.3, False, False),  # too much slower for one
    ],
)
def test_a_gain_in_a_batch_and_a_gain_alone_count_alike(
    batch: float, lone: float, by_default: bool, otherwise: bool
) -> None:
    for is_default, applied in ((True, by_default), (False, otherwise)):
        many, one = FakeModel({"it": batch}), FakeModel({"it": lone})
        probes = [many.probe("in a batch"), one.probe("alone")]
        clock = lambda many=many, one=one: many.now + one.now  # noqa: E731
        (report,) = optimize([FakeOptimization("it", is_default=is_default)], probes, 1e-4, clock, 200.0)
        assert report.applied is applied
        assert report.gains == pytest.approx({"in a batch": 1 / batch, "alone": 1 / lone})


def test_an_optimization_that_is_wrong_for_one_probe_is_left_out() -> None:
    right, wrong = FakeModel({"it": 0.5}), FakeModel({"it": 0.5}, {"it": 1.0})
    probes = [right.probe(), wrong.probe("alone")]
    (report,) = optimize([FakeOptimization("it")], probes, 1e-4, lambda: right.now + wrong.now)
    assert report.applied is False
    assert report.reason == "it changes the outputs by 1.0e-01"


# Within a budget


@pytest.mark.parametrize("run_s", [0.05, 0.3, 1.0, 5.0, 1000.0])
@pytest.mark.parametrize(("factor", "is_default"), [(1.0, True), (2.0, True), (0.5, True), (1.0, False), (0.5, False)])
def test_the_budget_bounds_the_timed_seconds_whatever_the_probes_cost(
    factor: float, is_default: bool, run_s: float
) -> None:
    names = ("a", "b", "c", "d")
    model = FakeModel(dict.fromkeys(names, factor), run_s=run_s)
    verified: list[float] = []

    class Verified(FakeOptimization):
        """Notes the seconds of the run that verifies it, the first behind its first `apply`."""

        def apply(self) -> None:
            if self not in applied:
                applied.append(self)
                verified.append(len(model.runs))
            super().apply()

    applied: list[Optimization] = []
    model.optimize(*(Verified(name, is_default=is_default) for name in names), budget_s=10.0)
    timed = [seconds for index, seconds in enumerate(model.runs) if index not in verified]
    assert sum(timed) <= 10.0 + max(timed, default=0.0) + 1e-9  # a run that began in time is not broken off


def test_an_optimization_that_keeps_overruling_is_timed_in_a_bounded_number_of_rounds() -> None:
    model = FakeModel({"bad": 2.0})
    model.optimize(FakeOptimization("bad"), budget_s=1e6)
    assert len(model.runs) == 1 + MAX_ROUNDS * 4


def test_what_one_optimization_leaves_of_the_budget_is_for_the_others() -> None:
    model = FakeModel({"good": 0.5, "bad": 2.0})
    model.optimize(FakeOptimization("good"), FakeOptimization("bad"), budget_s=40.0)
    good = 2 * (2 * 1 + 2 * 0.5)  # confirmed in two rounds, of two runs without it and two with it
    runs_on_top = len(model.runs) - 1 - 2 * 4 - 1
    assert runs_on_top > 40  # over half of the budget, in runs of 0.5 s without it and 1 s with it
    assert model.now <= 40 + 0.5 + 1 + 1
    assert model.now > 40 - good


@pytest.mark.parametrize(("is_default", "applied"), [(True, True), (False, False)])
@pytest.mark.parametrize("budget_s", [0.0, 4.0])  # nothing, and not enough for one round
def test_an_optimization_that_is_not_timed_is_what_is_its_default_and_says_so(
    budget_s: float, is_default: bool, applied: bool
) -> None:
    model = FakeModel({"it": 0.5 if applied else 2.0})
    optimization = FakeOptimization("it", is_default=is_default)
    (report,) = model.optimize(optimization, budget_s=min(budget_s, 4 * model.factors["it"]))
    assert (report.applied, optimization.is_applied) == (applied, applied)
    assert (report.difference, report.gains) == (0, None)
    assert report.reason == "the default on this CPU, not timed: all optimizations together have 3 s"


def test_an_optimization_that_is_not_timed_is_verified_all_the_same() -> None:
    (report,) = FakeModel({}, {"it": 1.0}).optimize(FakeOptimization("it"), budget_s=0.0)
    assert report.applied is False
    assert report.reason == "it changes the outputs by 1.0e-01"


@pytest.mark.parametrize("budget_s", [12.5, 13.5, 14.0, 15.0, 17.0])  # two rounds of six seconds, and a part of one
def test_a_clear_loss_in_too_few_rounds_does_not_overturn_the_default(budget_s: float) -> None:
    model, optimization = FakeModel({"it": 2.0}), FakeOptimization("it")
    (report,) = model.optimize(optimization, budget_s=budget_s)
    assert report.applied is optimization.is_applied is True
    assert report.gains == {"in a batch": 0.5}


# Noise


@pytest.mark.parametrize(("disturbed_rounds", "applied"), [(3, True), (20, False)])
def test_a_default_that_seems_slow_is_timed_longer_since_another_process_may_have_disturbed_it(
    disturbed_rounds: int, applied: bool
) -> None:
    model, runs = FakeModel({"it": 0.5}), 0

    def run(optimizations: Sequence[Optimization]) -> list[torch.Tensor]:
        nonlocal runs
        runs += len(optimizations)
        if optimizations and runs <= 1 + 2 * disturbed_rounds:  # the first verifies it, and each round has two
            model.now += 1.0
        return model.run(optimizations)

    probe = Probe("alone", run, model.probe().reference)
    (report,) = optimize([FakeOptimization("it")], [probe], 1e-4, model.clock, 80.0)
    assert report.applied is applied
    assert report.gains == {"alone": 2.0 if applied else pytest.approx(1 / 1.5)}
    assert runs == 1 + 2 * 4 or not applied


@pytest.mark.parametrize(
    ("factor", "is_default", "applied"),
    [
        (1.0, True, True),  # noise alone overturns no default
        (1.0, False, False),
        (0.97, False, False),
        (1.02, True, True),
        (0.7, False, True),  # a clear gain does
        (1.5, True, False),  # as does a clear loss
        (0.7, True, True),
        (1.5, False, False),
    ],
)
def test_starts_with_different_noise_decide_alike(factor: float, is_default: bool, applied: bool) -> None:
    decisions = {
        FakeModel({"it": factor}, noise=timing_noise(seed))
        .optimize(FakeOptimization("it", is_default=is_default), budget_s=100.0)[0]
        .applied
        for seed in range(100)
    }
    assert decisions == {applied}


# Failures


def test_an_optimization_that_fails_midway_is_reverted_as_a_whole() -> None:
    model = make(UNPADDABLE["bert"]())

    class Midway(Unpadding):
        def apply(self) -> None:
            super().apply()
            raise RuntimeError("midway")

    description, attention = str(model), model.config._attn_implementation
    (report,) = FakeModel({}).optimize(Midway(model))
    assert report.reason == "it fails on this model (midway)"
    assert (str(model), model.config._attn_implementation) == (description, attention)
    assert not model._forward_pre_hooks


def test_an_optimization_that_cannot_be_reverted_stops_the_start_and_its_other_changes_are_undone() -> None:
    undone: list[str] = []
    optimization = FakeOptimization("sticky", NotApplicable("it is for others"))
    optimization._undo = [lambda: undone.append("first"), lambda: 1 / 0, lambda: undone.append("last")]
    with pytest.raises(ConfigurationError) as raised:
        FakeModel({}).optimize(optimization)
    assert str(raised.value) == (
        "the optimization sticky could not be reverted (division by zero); PIPELINE_ACCELERATE=false tries none"
    )
    assert undone == ["last", "first"]


# Log


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (OptimizationReport("it", True, 0.0, {"a": 1.5, "b": 0.99}), "1.50 times as fast a, 0.99 times as fast b"),
        (OptimizationReport("it", True, 0.0, None, "why"), "why"),
        (OptimizationReport("it", False, None, None, "why"), "not applied, why"),
    ],
)
def test_a_report_is_a_few_words_in_the_log(report: OptimizationReport, words: str) -> None:
    assert summary(report) == words


def test_what_became_of_each_optimization_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    optimizations: list[Any] = [FakeOptimization("fast"), FakeOptimization("alien", NotApplicable("it is for others"))]
    FakeModel({"fast": 0.5}).optimize(*optimizations)
    assert caplog.messages == [
        "Optimization fast: 2.00 times as fast in a batch.",
        "Optimization alien: not applied, it is for others.",
    ]
