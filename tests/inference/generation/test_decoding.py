"""Choosing tokens: what `generate` prepares is kept, alike inputs are chosen for together, and each fails alone."""

from typing import Any

import pytest
import torch
from transformers import Pipeline
from transformers.generation import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from pipeline_webserver.inference.generation.decoding import Choice, Decoding, choose, is_end, prepare
from pipeline_webserver.inference.preprocessing.generation import StopTextCriterion
from tests.support import media_models
from tests.support.pipelines import Parameters, load_pipeline, runner_of
from tests.support.pipelines import prepare as prepared_input

DRAWS = 20_000


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return load_pipeline(media_models.make(media_models.gpt2, tmp_path_factory.mktemp("gpt2")))


def decoding_of(pipe: Pipeline, **parameters: Any) -> Decoding | None:
    (model_input,) = prepared_input(runner_of(pipe), "once", parameters).model_inputs
    return prepare(pipe, model_input).decoding


def decoding(*processors: Any, is_sampled: bool = False, **others: Any) -> Decoding:
    key = tuple(str(vars(one)) for one in processors)
    usual: dict[str, Any] = {"batch_key": key, "max_length": 9, "end_ids": frozenset({2}), "pad_id": 0, "criteria": []}
    return Decoding(LogitsProcessorList(processors), is_sampled, **{**usual, **others})


def choice(how: Decoding, row: int, ids: list[int] | None = None) -> Choice:
    return Choice(how, 1, [0], [row], [ids or [5]])


# What is prepared


def test_lengths_ends_and_processors_are_those_of_generate(pipe: Pipeline) -> None:
    found = decoding_of(pipe, max_new_tokens=7, do_sample=True, temperature=0.5, top_k=3, top_p=0.5)
    assert found is not None
    assert [type(one) for one in found.processors] == [TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper]
    assert (found.is_sampled, found.max_length, found.end_ids) == (True, 4 + 7, frozenset({256}))
    assert found.batch_key is not None
    assert found.criteria == []
    again = decoding_of(pipe, max_new_tokens=5, do_sample=True, temperature=0.5, top_k=3, top_p=0.5)
    other = decoding_of(pipe, max_new_tokens=5, do_sample=True, temperature=0.5, top_k=4, top_p=0.5)
    assert again is not None
    assert other is not None
    assert again.batch_key == found.batch_key != other.batch_key


def test_what_looks_at_tokens_is_not_chosen_for_together(pipe: Pipeline) -> None:
    found = decoding_of(pipe, max_new_tokens=7, do_sample=False, repetition_penalty=1.5)
    assert found is not None
    assert found.batch_key is None


def test_stop_texts_are_further_ends_and_a_seed_is_a_generator(pipe: Pipeline) -> None:
    found = decoding_of(pipe, max_new_tokens=7, stop_sequence=["a"], seed=3, do_sample=True)
    assert found is not None
    assert [type(one) for one in found.criteria] == [StopTextCriterion]
    assert found.generator is not None
    assert found.generator.initial_seed() == 3


def test_beams_are_not_steppable(pipe: Pipeline) -> None:
    assert decoding_of(pipe, max_new_tokens=7, num_beams=2, do_sample=False) is None


# Choosing


def test_greedy_choices_are_the_best_of_their_rows() -> None:
    choices = [choice(decoding(), 1), choice(decoding(), 0)]
    choose(torch.tensor([[0.0, 1.0, 0.5], [9.0, 1.0, 0.5]]), choices)
    assert [one.tokens for one in choices] == [[0], [1]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_where_there_are_no_numbers_only_that_input_fails(bad: float) -> None:
    choices = [choice(decoding(), 0), choice(decoding(), 1)]
    choose(torch.tensor([[0.0, bad, 0.5], [9.0, 1.0, 0.5]]), choices)
    assert str(choices[0].error) == "the model computed no numbers"
    assert (choices[1].tokens, choices[1].error) == ([0], None)


class Failing:
    """A processor that fails for the scores that begin with 7."""

    def __call__(self, ids: Any, scores: torch.Tensor) -> torch.Tensor:
        if (scores[:, 0] == 7).any():
            raise ValueError("seven")
        return scores


def test_of_inputs_that_are_chosen_for_together_only_the_one_that_fails_fails() -> None:
    how = decoding(is_sampled=True)
    how.processors = LogitsProcessorList([Failing()])
    choices = [choice(how, row) for row in range(3)]
    choose(torch.tensor([[0.0, 99.0], [7.0, 9.0], [99.0, 0.0]]), choices)
    assert [one.tokens for one in choices] == [[1], [], [0]]
    assert [str(one.error) for one in choices] == ["None", "seven", "None"]


def chi_square(counts: torch.Tensor, probabilities: torch.Tensor) -> float:
    expected = probabilities * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize(
    ("warpers", "kept"),
    [
        ([], 8),
        ([TemperatureLogitsWarper(0.5)], 8),
        ([TopKLogitsWarper(3)], 3),
        ([TemperatureLogitsWarper(2.0), TopPLogitsWarper(0.6)], 3),
    ],
)
@pytest.mark.parametrize("is_seeded", [False, True])
def test_draws_have_the_distribution_of_the_scores(warpers: list[Any], kept: int, is_seeded: bool) -> None:
    scores = torch.tensor([[2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -1.5]])
    expected = torch.softmax(LogitsProcessorList(warpers)(None, scores.clone()), -1)[0]
    generator = torch.Generator().manual_seed(5) if is_seeded else None
    how = decoding(*warpers, is_sampled=True, generator=generator)
    one = Choice(how, DRAWS, list(range(DRAWS)), [0] * DRAWS, [[5]] * DRAWS)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        choose(scores, [one])
    drawn = torch.tensor(one.tokens)
    counts = drawn.bincount(minlength=8).float()
    assert int((counts > 0).sum()) == kept
    # Beyond this are 0.1 % of fair draws, with up to seven degrees of freedom; the seeds are fixed.
    assert chi_square(counts[expected > 0], expected[expected > 0]) < 24.3


# Ends


def test_a_sequence_ends_at_its_length_with_an_end_or_behind_a_stop_text() -> None:
    how = decoding(criteria=[lambda ids, scores: torch.tensor([ids[0, -1] == 7])])
    assert [is_end(tokens, how) for tokens in ([5] * 8, [5] * 9, [5, 2], [2, 5], [5, 7])] == [
        False,
        True,
        True,
        False,
        True,
    ]


def test_a_prompt_of_several_sequences_comes_as_often(pipe: Pipeline) -> None:
    parameters: Parameters = {"max_new_tokens": 2, "num_return_sequences": 3, "do_sample": True}
    (model_input,) = prepared_input(runner_of(pipe), "once", parameters).model_inputs
    prompts = prepare(pipe, model_input).input_ids.tolist()
    assert prompts == [model_input.tensors["input_ids"][0].tolist()] * 3
