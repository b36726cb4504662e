"""The same input gets the same answer whatever came before it, or beside it."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from pipeline_webserver.errors import ConfigurationError
from pipeline_webserver.inference.loading import BUNDLED_MODEL
from pipeline_webserver.inference.model_inputs import PreparedInput
from pipeline_webserver.inference.module_state import ModuleState, is_changed
from pipeline_webserver.inference.pipeline_runner import PipelineRunner
from tests.support.compare import assert_same
from tests.support.pipelines import Parameters, load_pipeline, run, runner_of

SIZES: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 2, "vocab_size": 8192, "pad_token_id": 0}
WIDE: dict[str, Any] = {**SIZES, "num_hidden_layers": 2, "intermediate_size": 64, "initializer_range": 0.5}


def big_bird() -> Any:
    """A text of 28 tokens or fewer switches it to full attention for good."""
    blocks = {"attention_type": "block_sparse", "block_size": 4, "num_random_blocks": 1}
    config = transformers.BigBirdConfig(**WIDE, **blocks, max_position_embeddings=256, num_labels=3)
    return transformers.BigBirdForSequenceClassification(config)


def reformer(**changes: Any) -> Any:
    """The first text sets the number of buckets, also in the configuration."""
    sizes = {**SIZES, "attention_head_size": 16, "feed_forward_size": 64, "hash_seed": 3, "num_labels": 3}
    config = transformers.ReformerConfig(
        **{**sizes, "initializer_range": 0.5, **changes},
        attn_layers=["lsh", "local"],
        axial_pos_shape=[16, 16],
        axial_pos_embds_dim=[16, 16],
        max_position_embeddings=256,
        lsh_attn_chunk_length=8,
        local_attn_chunk_length=8,
        is_decoder=False,
    )
    return transformers.ReformerForSequenceClassification(config)


def funnel() -> Any:
    sizes = {"block_sizes": [1, 1], "d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 64}
    config = transformers.FunnelConfig(vocab_size=8192, pad_token_id=0, num_labels=3, **sizes)
    return transformers.FunnelForSequenceClassification(config)


def recurrent_gemma() -> Any:
    """A prompt of one token goes on from what the last prompt left."""
    ends = {"eos_token_id": 1, "bos_token_id": 2, "w_init_variance_scale": 1.0}
    sizes = {**SIZES, "num_hidden_layers": 3, "intermediate_size": 64, "lru_width": 32, "attention_window_size": 16}
    return transformers.RecurrentGemmaForCausalLM(transformers.RecurrentGemmaConfig(**sizes, **ends))


def rwkv() -> Any:
    """Its first pass scales weights, and notes that they are."""
    sizes = {"vocab_size": 8192, "hidden_size": 32, "num_hidden_layers": 3, "intermediate_size": 64}
    ends = {"eos_token_id": 1, "bos_token_id": 2, "pad_token_id": 0}
    return transformers.RwkvForCausalLM(transformers.RwkvConfig(**sizes, **ends, context_length=128, rescale_every=1))


def pipe_of(maker: Callable[..., Any], **changes: Any) -> Any:
    """A pipeline as it is in a fresh process."""
    torch.manual_seed(0)
    model = maker(**changes).eval()
    task = "text-generation" if model.can_generate() else "text-classification"
    tokenizer = transformers.AutoTokenizer.from_pretrained(BUNDLED_MODEL, model_max_length=10**30)
    if task == "text-generation":  # without special tokens, so that a prompt may have a single one
        tokenizer.backend_tokenizer.post_processor = None
    return transformers.pipeline(task, model=model, tokenizer=tokenizer, device="cpu")


def opened(maker: Callable[..., Any], **changes: Any) -> PipelineRunner:
    runner = runner_of(pipe_of(maker, **changes))
    runner.warm_up(accelerate=False)
    return runner


TEXTS = ["the dog", "a " * 97, "a", "a dog is an animal " * 5, "x", "the " * 40, "hello"]


@pytest.mark.parametrize(
    ("maker", "kind", "changed"),
    [
        (big_bird, "same_length", "BigBirdModel.attention_type"),
        pytest.param(reformer, "same_length", "LSHSelfAttention.num_buckets", marks=pytest.mark.extended),
        pytest.param(funnel, "same_length", "FunnelAttentionStructure.seq_len", marks=pytest.mark.extended),
        pytest.param(
            recurrent_gemma, "same_length", "RecurrentGemmaRglru.recurrent_states", marks=pytest.mark.extended
        ),
        # Its batches are not computed as its rows.
        pytest.param(rwkv, "alone", None, marks=pytest.mark.extended),
    ],
)
def test_a_text_gets_what_a_fresh_pipeline_gives_whatever_came_before_it(
    maker: Callable[..., Any], kind: str, changed: str | None
) -> None:
    runner = opened(maker)
    parameters: Parameters = {"do_sample": False, "max_new_tokens": 4} if runner.forward.generates else {"top_k": 3}
    assert runner.forward.strategy.kind == kind
    assert changed is None or changed in runner.forward.state.changed
    expected = [pipe_of(maker)(text, **parameters) for text in TEXTS]
    assert_same(run(runner, [(text, parameters) for text in TEXTS]), expected)
    for text, answer in zip(TEXTS[::-1], expected[::-1], strict=True):
        assert_same(run(runner, [(text, parameters)]), [answer])


def test_what_is_put_back_is_said_with_how_inputs_share_passes(caplog: pytest.LogCaptureFixture) -> None:
    runner = opened(recurrent_gemma)
    batching = runner.describe(threads=1).batching
    names = ("RecurrentGemmaRecurrentBlock.conv1d_state", "RecurrentGemmaRglru.recurrent_states")
    assert (batching.strategy, batching.put_back) == ("same_length", names)
    assert batching.reason == f"a pass changes the model itself ({', '.join(names)})"
    assert f"Only inputs of equal length share a forward pass: {batching.reason}." in caplog.messages


def test_a_random_model_is_served_alone_and_said_to_be_random() -> None:
    strategy = opened(reformer, hash_seed=None).forward.strategy
    assert (strategy.kind, strategy.reason) == (
        "alone",
        "the model is random: the same input gets other outputs each time",
    )


class Linear(torch.nn.Linear):
    """A module that is not torch's own, and changes itself when it is called, in one of several ways."""

    mean: torch.Tensor

    def __init__(self, way: str) -> None:
        super().__init__(2, 2)
        self.way, self.count, self.seen = way, 0, list[float]()
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.way == "attribute":
            self.count += 1
        elif self.way == "new attribute":
            self.last = inputs
        elif self.way == "buffer":
            self.mean += inputs.mean()
        elif self.way == "new buffer":
            self.register_buffer("mean", inputs)
        elif self.way == "module":
            self.inner = Linear("none")
        elif self.way == "equal value":
            self.mean = self.mean.clone()
        elif self.way == "failure":
            self.count = 7
            raise RuntimeError
        elif self.way == "weights" or (self.way == "weights once" and self.count == 0):
            self.weight.mul_(2)
            self.count += 1
        return inputs


@pytest.mark.parametrize(
    ("way", "changed"),
    [
        ("none", set()),
        ("attribute", {"Linear.count"}),
        ("new attribute", {"Linear.last"}),
        ("buffer", {"Linear.mean"}),
        ("new buffer", {"Linear.mean"}),
        ("module", {"Linear.inner"}),
        ("equal value", set()),
        ("failure", {"Linear.count"}),
    ],
)
def test_whatever_a_pass_changes_is_put_back_also_if_it_fails(way: str, changed: set[str]) -> None:
    module = Linear(way)
    state = ModuleState(module)
    before, values = copy.copy(vars(module)), module.mean
    for _ in range(2):
        try:
            with state.kept(), torch.no_grad():
                module(torch.ones(2))
        except RuntimeError:
            assert way == "failure"
        assert (state.changed, state.changed_by_last) == (changed, changed)
        assert vars(module) == before
        assert module.mean is values
        assert module.mean.tolist() == [0, 0]
        assert list(module.children()) == []


def test_what_the_first_pass_does_to_weights_stays_done() -> None:
    module = Linear("weights once")
    weight, state = module.weight.tolist(), ModuleState(module)
    with torch.no_grad():
        state.settle(lambda: module(torch.ones(2)))
    assert module.weight.tolist() == [[2 * number for number in row] for row in weight]
    assert (module.count, state.changed) == (1, set())


def test_weights_that_each_pass_changes_are_a_configuration_error() -> None:
    module = Linear("weights")
    with pytest.raises(ConfigurationError, match=r"^each pass changes the model's weights"), torch.no_grad():
        ModuleState(module).settle(lambda: module(torch.ones(2)))


def test_an_input_whose_outputs_depend_on_the_one_before_is_a_configuration_error(
    model_of: Callable[[str], Path],
) -> None:
    """The state is in a list, which is changed in place."""
    runner = runner_of(load_pipeline(model_of("text-classification")))
    seen = [0.0]

    def remember(module: Any, args: Any, output: Any) -> Any:
        output = output + seen[0]
        seen[0] = output.shape[1]
        return output

    runner.pipe.model.bert.embeddings.register_forward_hook(remember)
    with pytest.raises(ConfigurationError, match=r"^the outputs of an input change by .* with the inputs before it"):
        runner.warm_up(accelerate=False)


@pytest.mark.parametrize(
    ("now", "before", "result"),
    [
        (1, 1, False),
        (1, 2, True),
        (None, 1, True),
        (torch.ones(2), torch.ones(2), False),
        (torch.ones(2), torch.ones(3), True),
        (torch.ones(2), torch.ones(2, dtype=torch.int), True),
        (torch.ones(2), None, True),
        ([1], [1], True),  # may be changed in place later
    ],
)
def test_values_are_compared_by_what_they_hold(now: object, before: object, result: bool) -> None:
    assert is_changed(now, before) is result


def test_a_list_of_prepared_inputs_is_computed_as_each_alone_by_a_model_that_changes_itself() -> None:
    runner = opened(big_bird)
    prepared = runner.preprocess([(text, {"top_k": 3}) for text in TEXTS])
    inputs = [item for item in prepared if isinstance(item, PreparedInput)]
    assert_same(list(runner.run(inputs)), [runner.run([item])[0] for item in inputs])
