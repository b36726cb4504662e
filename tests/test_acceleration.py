"""The speed-ups change no answer, whatever the family, and are kept only where they are faster."""

from collections.abc import Collection

import pytest
import torch

from acceleration import (
    MaskedHead,
    PrepackedLinear,
    PrepackedWeights,
    accelerate,
    levers_for,
    untouched_zeros,
    worst_difference,
)
from hooks import DoesNotFit, stack_of
from packing import NoPadding, rounded
from tests.families import (
    HEADS,
    LENGTHS,
    MASK,
    PACKED,
    UNPACKED,
    alone,
    make,
    rows_of,
    shapes_seen,
    together,
)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", PACKED)
def test_a_mixed_batch_without_padding_equals_the_untouched_model_row_by_row(family: str, head: str) -> None:
    model, rows = make(PACKED[family](), head), rows_of(LENGTHS)
    untouched = alone(model, rows)
    for lever in levers_for(model, MASK if head == "masked" else None):
        if not (lever.name == MaskedHead.name and head != "masked"):
            lever.on()
    shapes = shapes_seen(model)
    assert worst_difference(untouched, together(model, rows)) < 1e-5
    assert {shape[:2] for shape in shapes} == {(1, rounded(sum(LENGTHS)))}
    assert worst_difference(untouched, alone(model, rows)) < 1e-5


@pytest.mark.parametrize("head", ["masked", "classifier"])
@pytest.mark.parametrize("family", UNPACKED)
def test_a_family_that_does_not_fit_keeps_its_padding_and_stays_right(family: str, head: str) -> None:
    model, rows = make(UNPACKED[family](), head), rows_of(LENGTHS)
    untouched, in_one_pass = alone(model, rows), together(model, rows)

    def probe(levers: Collection[str]) -> list[torch.Tensor]:
        return together(model, rows) if NoPadding.name in levers else alone(model, rows)

    (outcome,) = accelerate([NoPadding(model)], (probe, probe), untouched, 1e-5)
    assert outcome.on is False
    assert outcome.why is not None
    assert worst_difference(untouched, alone(model, rows)) == 0
    assert worst_difference(in_one_pass, together(model, rows)) == 0


# Each lever


@pytest.mark.parametrize("family", ["bert", "modernbert", "mpnet"])
def test_switched_off_again_the_model_is_what_it_was_to_the_last_bit(family: str) -> None:
    model, rows = make(PACKED[family]()), rows_of(LENGTHS)
    before, shown = [*alone(model, rows), *together(model, rows)], str(model)
    levers = levers_for(model, MASK)
    for lever in levers:
        lever.on()
    assert str(model) != shown
    for lever in reversed(levers):
        lever.off()
    assert str(model) == shown
    assert worst_difference(before, [*alone(model, rows), *together(model, rows)]) == 0


def test_the_head_computes_masked_positions_only() -> None:
    model = make(PACKED["bert"]())
    ids = torch.tensor([[MASK, 20, MASK], [30, 40, MASK]])
    with torch.no_grad():
        full = model(input_ids=ids)["logits"]
        MaskedHead(model, MASK).on()
        seen: list[torch.Size] = []
        model.get_output_embeddings().register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
        scores = model(input_ids=ids)["logits"]
    assert seen == [(1, 3, 32)]
    assert scores.shape == full.shape
    assert worst_difference([full[ids == MASK]], [scores[ids == MASK]]) < 1e-6
    assert scores[ids != MASK].abs().max() == 0


def test_a_model_without_a_vocabulary_head_has_none_to_mask() -> None:
    with pytest.raises(DoesNotFit, match="guesses no masked tokens"):
        MaskedHead(make(PACKED["bert"](), "classifier"), MASK).on()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_untouched_zeros_are_zeros_of_the_same_kind(dtype: torch.dtype) -> None:
    zeros = untouched_zeros((2, 3), torch.ones(1, dtype=dtype))
    assert zeros.dtype == dtype
    assert zeros.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_prepacking_replaces_the_linear_layers_of_the_stack_and_frees_their_weights() -> None:
    model = make(PACKED["bert"]())
    bytes_before = sum(weight.nbytes for weight in stack_of(model).parameters())
    packed = PrepackedWeights(model)
    packed.on()
    linear = [module for module in stack_of(model).modules() if isinstance(module, torch.nn.Linear)]
    prepacked = [module for module in stack_of(model).modules() if isinstance(module, PrepackedLinear)]
    assert (len(linear), len(prepacked)) == (0, 3 * 6)
    assert sum(weight.nbytes for weight in stack_of(model).parameters()) < bytes_before / 10  # biases and norms
    assert type(model.get_output_embeddings()) is torch.nn.Linear  # it shares its weight with the embeddings


# Trying them


class FakeLever:
    """Named; does nothing, or raises."""

    def __init__(self, name: str, error: Exception | None = None) -> None:
        self.name = name
        self.error = error
        self.is_on = False

    def on(self) -> None:
        self.is_on = True
        if self.error is not None:
            raise self.error

    def off(self) -> None:
        self.is_on = False


class FakeModel:
    """A probe whose time and error depend on which levers are on, and the clock that it moves."""

    def __init__(self, factors: dict[str, float], errors: dict[str, float]) -> None:
        self.factors, self.errors, self.now = factors, errors, 0.0

    def probe(self, levers: Collection[str]) -> list[torch.Tensor]:
        took_s = 1.0
        for name in levers:
            took_s *= self.factors.get(name, 1)
        self.now += took_s
        return [torch.tensor([10.0 + sum(self.errors.get(name, 0) for name in levers), 1.0])]

    def clock(self) -> float:
        return self.now


def test_a_speed_up_is_kept_if_it_is_faster_and_right_on_top_of_those_before_it() -> None:
    model = FakeModel({"fast": 0.5, "slow": 1.25, "wrong": 0.1, "last": 0.8}, {"wrong": 0.5, "last": 0.0001})
    levers = [
        FakeLever("fast"),
        FakeLever("slow"),
        FakeLever("wrong"),
        FakeLever("alien", DoesNotFit("it is for others")),
        FakeLever("bad", RuntimeError("shapes\nand more")),
        FakeLever("last"),
    ]
    outcomes = accelerate(levers, (model.probe, model.probe), [torch.tensor([10.0, 1.0])], 1e-4, model.clock)
    assert [lever.is_on for lever in levers] == [True, False, False, False, False, True]
    assert [outcome.on for outcome in outcomes] == [lever.is_on for lever in levers]
    assert [outcome.gain and round(outcome.gain, 3) for outcome in outcomes] == [2, 0.8, None, None, None, 1.25]
    assert outcomes[-1].difference == pytest.approx(1e-5, rel=0.1)
    assert [outcome.why for outcome in outcomes] == [
        None,
        "it is no faster here (0.80 times)",
        "it changes the answers by 5.0e-02",
        "it is for others",
        "it fails on this model (shapes)",
        None,
    ]


def test_a_gain_for_a_batch_and_a_gain_for_one_input_count_alike() -> None:
    batch, lone = FakeModel({"lever": 4.0}, {}), FakeModel({"lever": 0.0625}, {})
    (outcome,) = accelerate(
        [FakeLever("lever")], (batch.probe, lone.probe), [torch.tensor([10.0, 1.0])], 1e-4, lambda: batch.now + lone.now
    )
    assert outcome.gain == pytest.approx(2)


def test_a_difference_is_relative_to_the_largest_number_and_endless_for_what_is_none() -> None:
    one, other = torch.tensor([100.0, 1.0]), torch.tensor([101.0, 1.0])
    assert worst_difference([one], [other]) == pytest.approx(0.01)
    assert worst_difference([one], [one]) == 0
    assert worst_difference([one], [torch.tensor([100.0, torch.nan])]) == torch.inf
    assert worst_difference([one], [torch.tensor([100.0])]) == torch.inf
