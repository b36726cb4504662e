"""Steps of many sequences give each what the model's own `generate` gives it alone, in every family."""

from typing import Any

import pytest
import torch

from pipeline_webserver.inference import internals
from pipeline_webserver.inference.generation.kv_cache import KVCache
from pipeline_webserver.inference.generation.packed_attention import Chunk, UnknownAttention, packed_attention
from pipeline_webserver.inference.generation.step_model import NotSteppable, StepModel
from tests.support.causal_models import FAMILIES, GROUPED, VOCABULARY, made

LENGTHS = (5, 20, 1, 33, 12, 8)
NEW_TOKENS = 6
CHUNK = 7
# The others are of the same kinds of attention and positions.
ALWAYS = {"llama", "gemma2", "gpt2", "falcon, alibi", "bloom", "mixtral"}


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(2, VOCABULARY, (length,), generator=generator).tolist() for length in LENGTHS]


@torch.inference_mode()
def generated_in_steps(model: Any, texts: list[list[int]]) -> list[list[int]]:
    """Each text joins two steps after the one before, its prompt in chunks; each has one token more than that."""
    steps, cache = StepModel(model), KVCache()
    tokens = [list(text) for text in texts]
    ends = [len(text) + NEW_TOKENS + index for index, text in enumerate(texts)]
    computed = [0] * len(texts)
    slots: dict[int, Any] = {}
    turn = 0
    while any(len(text) < end for text, end in zip(tokens, ends, strict=True)):
        for index in range(len(texts)):
            if index not in slots and turn >= 2 * index and len(tokens[index]) < ends[index]:
                slots[index] = cache.reserve(ends[index])
        running = list(slots)
        chunks = [Chunk(slots[i], tokens[i][computed[i] : computed[i] + CHUNK], computed[i]) for i in running]
        scores = steps.step(chunks)
        for index, chunk, row in zip(running, chunks, scores, strict=True):
            computed[index] += len(chunk.ids)
            if computed[index] == len(tokens[index]):
                tokens[index].append(int(row.argmax()))
        for index in running:
            if len(tokens[index]) == ends[index]:
                slot = slots.pop(index)
                last = [other for other, taken in slots.items() if taken is slot.arena.slots[-1]]
                slot.arena.give_back(slot, computed[last[0]] if last else 0)
        turn += 1
    return tokens


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.extended) for name in FAMILIES]
)
def test_each_sequence_gets_the_tokens_of_generate_whatever_runs_beside_it(family: str) -> None:
    model = FAMILIES[family]()
    expected = [
        model.generate(torch.tensor([text]), max_new_tokens=NEW_TOKENS + index, do_sample=False)[0].tolist()
        for index, text in enumerate(prompts())
    ]
    assert generated_in_steps(model, prompts()) == expected


def test_outside_of_steps_the_models_attention_is_its_own() -> None:
    model = FAMILIES["bloom"]()
    before = model(torch.tensor([prompts()[1]])).logits
    generated_in_steps(model, prompts()[:1])
    assert torch.equal(model(torch.tensor([prompts()[1]])).logits, before)
    model = FAMILIES["llama"]()
    name = internals.attention_of(model)
    generated_in_steps(model, prompts()[:1])
    assert internals.attention_of(model) == name


ROPE = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}


@pytest.mark.parametrize(
    ("maker", "reason"),
    [
        (
            made("LlamaForCausalLM", "LlamaConfig", **GROUPED, rope_parameters=ROPE),
            "its positions depend on the longest",
        ),
        (made("T5ForConditionalGeneration", "T5Config", d_model=32, d_ff=32, num_layers=1), "it has an encoder"),
        (
            made("RwkvForCausalLM", "RwkvConfig", vocab_size=9, hidden_size=32, num_hidden_layers=2),
            "it keeps a state besides keys and values",
        ),
    ],
)
def test_a_model_that_cannot_run_in_steps_says_why(maker: Any, reason: str) -> None:
    with pytest.raises(NotSteppable, match=reason):
        StepModel(maker())


def test_options_of_attention_that_are_not_known_are_an_error() -> None:
    heads = torch.zeros(1, 2, 1, 4)
    with pytest.raises(UnknownAttention, match="its attention has 'position_bias'"):
        packed_attention(torch.nn.Identity(), heads, heads, heads, None, position_bias=heads)
