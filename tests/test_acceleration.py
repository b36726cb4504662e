"""The speed-ups change no answer, whatever the family, and are kept only where they are faster."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import pytest
import torch
import transformers

from acceleration import (
    DoesNotFit,
    MaskedHead,
    NoPadding,
    Packing,
    PrepackedLinear,
    PrepackedWeights,
    accelerate,
    levers_for,
    rounded,
    stack_of,
    untouched_zeros,
    worst_difference,
)

MASK = 7
LENGTHS = (3, 40, 9, 40, 17, 1)
SIZES: dict[str, Any] = {
    "vocab_size": 200,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
}
SMALL = {**SIZES, "initializer_range": 0.3}
SPECIAL = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
PACKED: dict[str, Callable[[], Any]] = {
    "bert": lambda: transformers.BertConfig(**SMALL),
    "roberta": lambda: transformers.RobertaConfig(**SMALL),
    "xlm-roberta": lambda: transformers.XLMRobertaConfig(**SMALL),
    "camembert": lambda: transformers.CamembertConfig(**SMALL),
    "distilbert": lambda: transformers.DistilBertConfig(
        vocab_size=200, dim=32, n_layers=3, n_heads=4, hidden_dim=64, pad_token_id=1, initializer_range=0.3
    ),
    "electra": lambda: transformers.ElectraConfig(**SMALL, embedding_size=16),
    "ernie": lambda: transformers.ErnieConfig(**SMALL),
    "data2vec-text": lambda: transformers.Data2VecTextConfig(**SMALL),
    "nomic-bert": lambda: transformers.NomicBertConfig(**SMALL),
    "mobilebert": lambda: transformers.MobileBertConfig(
        **SIZES, embedding_size=16, intra_bottleneck_size=16, true_hidden_size=16
    ),
    "modernbert": lambda: transformers.ModernBertConfig(**SMALL, **SPECIAL, local_attention=16),
    "albert": lambda: transformers.AlbertConfig(**SMALL, embedding_size=16),
    "albert-groups": lambda: transformers.AlbertConfig(**SMALL, embedding_size=16, num_hidden_groups=2),
    "mpnet": lambda: transformers.MPNetConfig(**{**SMALL, "initializer_range": 0.1}),
}
UNPACKED: dict[str, Callable[[], Any]] = {
    "deberta-v2": lambda: transformers.DebertaV2Config(**SMALL, relative_attention=True, pos_att_type=["p2c", "c2p"]),
    "fnet": lambda: transformers.FNetConfig(
        vocab_size=200, hidden_size=32, num_hidden_layers=3, intermediate_size=64, initializer_range=0.3
    ),
}
HEADS = {
    "masked": transformers.AutoModelForMaskedLM,
    "classifier": transformers.AutoModelForSequenceClassification,
    "bare": transformers.AutoModel,
}


def make(config: Any, head: str = "masked") -> Any:
    torch.manual_seed(0)
    return HEADS[head].from_config(config).eval()


def rows_of(lengths: Sequence[int]) -> list[torch.Tensor]:
    """Rows of `[1, length]`, each with one masked token."""
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(10, 200, (1, length), generator=generator) for length in lengths]
    for row in rows:
        row[0, row.shape[1] // 2] = MASK
    return rows


def padded(rows: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    longest = max(row.shape[1] for row in rows)
    ids = torch.ones(len(rows), longest, dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : row.shape[1]] = row
    return {"input_ids": ids, "attention_mask": (ids != 1).long()}


@torch.no_grad()
def alone(model: Any, rows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [read(model(**padded([row])), 0, row) for row in rows]


@torch.no_grad()
def together(model: Any, rows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    output = model(**padded(rows))
    return [read(output, index, row) for index, row in enumerate(rows)]


def read(output: Any, index: int, row: torch.Tensor) -> torch.Tensor:
    """What a pipeline reads of an output: scores at the masks, scores of labels, or the states of real tokens."""
    first = output[0][index]
    if first.ndim == 1:
        return torch.Tensor(first)
    real = first[: row.shape[1]]
    return torch.Tensor(real[row[0] == MASK] if "logits" in output else real)


def shapes_seen(model: Any) -> list[tuple[int, ...]]:
    """Fills up with the shape that each call of an encoder's layer is given."""
    shapes: list[tuple[int, ...]] = []
    for layer in stack_of(model):
        layer.register_forward_pre_hook(
            lambda module, args, kwargs: shapes.append(tuple((args or tuple(kwargs.values()))[0].shape)),
            with_kwargs=True,
        )
    return shapes


# Families


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


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (lambda: transformers.GPT2Model(transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2)), "encoders only"),
        (
            lambda: transformers.BartModel(
                transformers.BartConfig(d_model=32, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=64)
            ),
            "encoders only",
        ),
        (
            lambda: transformers.ViTModel(transformers.ViTConfig(hidden_size=32, num_attention_heads=2, image_size=32)),
            "texts only",
        ),
        (
            lambda: transformers.Wav2Vec2Model(
                transformers.Wav2Vec2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
            ),
            "texts only",
        ),
    ],
)
def test_decoders_images_and_audio_are_left_untouched(model: Callable[[], Any], why: str) -> None:
    made = model().eval()
    before = str(made), made.config._attn_implementation
    with pytest.raises(DoesNotFit, match=why):
        NoPadding(made).on()
    assert (str(made), made.config._attn_implementation) == before
    assert not made._forward_pre_hooks


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


def test_a_pass_that_fails_leaves_nothing_behind_for_the_next() -> None:
    model, rows = make(PACKED["bert"]()), rows_of(LENGTHS)
    untouched = alone(model, rows)
    NoPadding(model).on()
    breaking = stack_of(model)[1].register_forward_pre_hook(lambda module, args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        together(model, rows)
    breaking.remove()
    assert worst_difference(untouched, alone(model, rows)) < 1e-5


def test_packing_puts_rows_of_equal_length_together_wherever_their_padding_is() -> None:
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 1, 1]], dtype=torch.bool)
    packing = Packing.of(mask)
    assert packing.tokens.tolist() == [0, 1, 7, 8, 3, 4, 5]
    assert packing.groups == [(2, 2), (1, 3)]
    values = torch.arange(1.0, 10).view(3, 3, 1)
    assert packing.pack(values).flatten().tolist() == [1, 2, 8, 9, 4, 5, 6, 0]  # filled up to a multiple of four
    assert packing.unpack(packing.pack(values)).flatten().tolist() == [1, 2, 0, 4, 5, 6, 0, 8, 9]
    positions = torch.tensor([0.0, 1, 2]).view(1, 3, 1)  # one row that stands for all
    assert packing.pack(positions).flatten().tolist() == [0, 1, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize(("rows", "more"), [(1, 4), (8, 8), (9, 12), (128, 128), (129, 160), (160, 160), (1000, 1024)])
def test_few_numbers_of_rows_are_computed_with_so_that_few_kernels_are_kept(rows: int, more: int) -> None:
    assert rounded(rows) == more


def test_rows_that_are_padded_further_than_the_longest_are_refused() -> None:
    with pytest.raises(ValueError, match="rows of at most 2 tokens are padded to 3"):
        Packing.of(torch.tensor([[1, 1, 0], [1, 0, 0]], dtype=torch.bool))


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
