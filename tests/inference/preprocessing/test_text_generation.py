"""A model writes what it would write alone, and never more than the server allows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline_webserver.api.tasks import TASKS
from pipeline_webserver.errors import Rejected, TooLarge
from pipeline_webserver.inference.loading import load
from pipeline_webserver.inference.pipeline_runner import LoadedPipeline
from pipeline_webserver.inference.preprocessing.base import Limits, PreparedInput
from pipeline_webserver.inference.preprocessing.text_generation import StopAt
from tests.support import media_models
from tests.support.pipelines import Parameters, hooked, run


def gpt2(folder: Path, limits: Limits = Limits(), **changes: Any) -> LoadedPipeline:  # noqa: B008 - frozen
    """128 positions, a token for each byte, no padding token."""
    pipe = load(str(media_models.make(media_models.gpt2, folder, **changes)), None, None, "cpu", None, list(TASKS))
    loaded = LoadedPipeline(pipe, limits=limits, speed_up=False)
    loaded.warm_up()
    loaded.passes.fixed_cost_tokens = 1e9  # whatever was measured: all that may share a pass, do
    return loaded


def prepared(loaded: LoadedPipeline, text: str, parameters: Parameters) -> PreparedInput:
    (item,) = loaded.prepare([(text, parameters)])
    assert isinstance(item, PreparedInput), item
    return item


def greedy(tokens: int) -> Parameters:
    return {"do_sample": False, "max_new_tokens": tokens}


@pytest.mark.parametrize(
    ("text", "parameters", "limit", "tokens"),
    [
        ("ten bytes.", {}, 256, 118),  # what the pipeline writes, 256, as far as there is room
        ("ten bytes.", {}, 20, 20),
        ("ten bytes.", {"max_new_tokens": 5}, 20, 5),
        ("ten bytes.", {"max_new_tokens": 118}, 256, 118),
        ("x" * 127, {}, 256, 1),
    ],
)
def test_as_much_is_written_as_is_asked_for_allowed_and_fits(
    text: str, parameters: Parameters, limit: int, tokens: int, tmp_path: Path
) -> None:
    loaded = gpt2(tmp_path, Limits(max_new_tokens=limit))
    item = prepared(loaded, text, parameters)
    assert item.rows[0].forward_parameters["max_new_tokens"] == tokens
    assert item.tokens == len(text) + tokens


@pytest.mark.parametrize(
    ("text", "parameters", "error", "words"),
    [
        ("a", {"max_new_tokens": 101}, Rejected, "Parameter 'max_new_tokens' is over the limit, 100."),
        (
            "x" * 60,
            {"max_new_tokens": 69},
            TooLarge,
            "The input has 60 tokens and asks for 69 new ones; the model takes 128 in all.",
        ),
        ("x" * 128, {}, TooLarge, "The input has 128 tokens and asks for 1 new ones; the model takes 128 in all."),
        ("x" * 200, {}, TooLarge, "The input has 200 tokens; the model takes at most 128."),
        ("", {}, Rejected, "The input has no tokens."),
    ],
)
def test_what_does_not_fit_is_refused_with_the_numbers(
    text: str, parameters: Parameters, error: type[Exception], words: str, tmp_path: Path
) -> None:
    (result,) = gpt2(tmp_path, Limits(max_new_tokens=100)).prepare([(text, parameters)])
    assert type(result) is error
    assert str(result) == words


def test_prompts_of_different_lengths_share_a_pass_and_are_continued_as_alone(tmp_path: Path) -> None:
    loaded = gpt2(tmp_path)
    texts = ["a", "a much longer prompt than that", "three", "four of them"]
    with hooked(loaded, lambda ids: None) as rows:
        together = run(loaded, [(text, greedy(8)) for text in texts])
    assert set(rows) == {4}
    assert together == [loaded.pipe(text, **greedy(8)) for text in texts]


def test_what_ends_early_is_not_prolonged_by_its_neighbours(tmp_path: Path) -> None:
    """Every second token that this model writes ends its text, and what pads it is a letter."""
    loaded = gpt2(tmp_path, pad_token_id=65)
    loaded.pipe.model.generation_config.eos_token_id = list(range(0, 256, 2))
    loaded.pipe.model.generation_config.pad_token_id = 65
    untouched = [loaded.pipe(text, **greedy(9)) for text in ("a", "some words", "other words here")]
    loaded = LoadedPipeline(loaded.pipe, speed_up=False)
    loaded.passes.why_not_padded, loaded.passes.fixed_cost_tokens = None, 1e9
    results = run(loaded, [(text, greedy(9)) for text in ("a", "some words", "other words here")])
    assert results == untouched
    assert len({len(result[0]["generated_text"]) for result in results}) > 1


def test_settings_that_look_back_keep_prompts_of_other_lengths_out_of_the_pass(tmp_path: Path) -> None:
    loaded = gpt2(tmp_path)
    texts, told = ["aa", "bb", "a longer one"], greedy(8) | {"repetition_penalty": 3.0}
    with hooked(loaded, lambda ids: None) as rows:
        results = run(loaded, [(text, told) for text in texts])
    assert set(rows) == {1, 2}
    assert results == [loaded.pipe(text, **told) for text in texts]


def test_with_a_seed_the_answer_is_the_same_whatever_else_is_in_the_batch(tmp_path: Path) -> None:
    loaded = gpt2(tmp_path)
    told: Parameters = {"do_sample": True, "temperature": 2.0, "max_new_tokens": 12}
    before = torch.random.get_rng_state()
    one, _, other, again = run(
        loaded,
        [
            ("once", told | {"seed": 7}),
            ("upon", greedy(12)),
            ("once", told | {"seed": 8}),
            ("once", told | {"seed": 7}),
        ],
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(7)
    assert one == again == loaded.pipe("once", **told)
    assert one != other


def test_who_asks_twice_for_something_random_gets_two_answers(tmp_path: Path) -> None:
    loaded = gpt2(tmp_path)
    told: Parameters = {"do_sample": True, "temperature": 5.0, "max_new_tokens": 30}
    one, other = run(loaded, [("once", told)] * 2)
    assert one != other


def test_after_each_token_it_is_told_that_the_call_goes_on(tmp_path: Path) -> None:
    loaded = gpt2(tmp_path)
    told: list[bool] = []
    loaded.prepare.on_progress = lambda: told.append(True)
    run(loaded, [("once", greedy(5)), ("upon", greedy(5))])
    assert len(told) == 5


@pytest.mark.parametrize("stops", [["L"], ["2L"], ["nothing of the kind"], ["e"], ["once2"], ["zz", '"']])
def test_stop_sequences_end_the_text_as_the_pipeline_ends_it(stops: list[str], tmp_path: Path) -> None:
    loaded = gpt2(tmp_path)
    told = greedy(20) | {"stop_sequence": stops}
    texts = ["once", "another one", "a third"]
    with hooked(loaded, lambda ids: None) as rows:
        results = run(loaded, [(text, told) for text in texts] + [("once", greedy(20))])
    assert rows[0] == 3
    assert results == [*(loaded.pipe(text, **told) for text in texts), loaded.pipe("once", **greedy(20))]


def test_a_stop_sequence_may_end_within_a_token() -> None:
    class Words:
        """A token for each word, as tokenizers have them, with the space before it."""

        words = ("", " once", " upon", " a time.", ".")

        def decode(self, tokens: list[int]) -> str:
            return "".join(self.words[token] for token in tokens)

    stop = StopAt(Words(), ["a ti", "upon a"])
    rows = torch.tensor([[1, 2, 3], [3, 1, 2], [2, 3, 4], [0, 2, 3], [3, 3, 3]])
    assert stop(rows, None).tolist() == [True, False, False, True, True]


def test_a_setting_that_the_model_refuses_is_the_clients_fault(pipeline_of: Callable[[str], LoadedPipeline]) -> None:
    loaded = pipeline_of("text-generation")
    (result,) = run(loaded, [("once", {"do_sample": True, "max_new_tokens": 3, "typical_p": 0.0})])
    assert isinstance(result, Rejected)
    assert "`typical_p`" in str(result)
