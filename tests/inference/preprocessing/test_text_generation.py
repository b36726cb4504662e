"""A model generates what it would generate alone, and never more than the server allows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from pipeline_webserver.errors import Rejected, TooLarge
from pipeline_webserver.inference.batch_plan import PADDED
from pipeline_webserver.inference.model_inputs import Limits
from pipeline_webserver.inference.pipeline_runner import PipelineRunner
from tests.support import media_models
from tests.support.pipelines import (
    Parameters,
    count_rows,
    load_pipeline,
    prepare,
    run,
    runner_of,
    share_all,
)


def gpt2(folder: Path, limits: Limits | None = None, **changes: Any) -> PipelineRunner:
    """128 positions, a token for each byte, no padding token."""
    runner = runner_of(load_pipeline(media_models.make(media_models.gpt2, folder, **changes)), limits)
    share_all(runner)  # as its warm-up has it, which takes a second
    return runner


def greedy(tokens: int) -> Parameters:
    return {"do_sample": False, "max_new_tokens": tokens}


@pytest.mark.parametrize(
    ("text", "parameters", "limit", "tokens"),
    [
        ("ten bytes.", {}, 256, 118),  # what the pipeline generates, 256, as far as there is room
        ("ten bytes.", {}, 20, 20),
        ("ten bytes.", {"max_new_tokens": 5}, 20, 5),
        ("ten bytes.", {"max_new_tokens": 118}, 256, 118),
        ("x" * 127, {}, 256, 1),
    ],
)
def test_as_much_is_generated_as_is_requested_allowed_and_fits(
    text: str, parameters: Parameters, limit: int, tokens: int, tmp_path: Path
) -> None:
    runner = gpt2(tmp_path, Limits(max_new_tokens=limit))
    item = prepare(runner, text, parameters)
    assert item.model_inputs[0].forward_parameters["max_new_tokens"] == tokens
    assert item.tokens == len(text) + tokens


@pytest.mark.parametrize(
    ("text", "parameters", "error", "words"),
    [
        ("a", {"max_new_tokens": 101}, Rejected, "Parameter 'max_new_tokens' is over the limit, 100."),
        (
            "x" * 60,
            {"max_new_tokens": 69},
            TooLarge,
            "The input has 60 tokens and asks for 69 more; the model takes 128 in all.",
        ),
        ("x" * 128, {}, TooLarge, "The input has 128 tokens and asks for 1 more; the model takes 128 in all."),
        ("x" * 200, {}, TooLarge, "The input has 200 tokens; the model takes at most 128."),
    ],
)
def test_what_does_not_fit_is_an_error_with_the_numbers(
    text: str, parameters: Parameters, error: type[Exception], words: str, tmp_path: Path
) -> None:
    (result,) = gpt2(tmp_path, Limits(max_new_tokens=100)).preprocess([(text, parameters)])
    assert type(result) is error
    assert str(result) == words


def test_prompts_of_different_lengths_share_a_pass_and_are_continued_as_alone(tmp_path: Path) -> None:
    runner = gpt2(tmp_path)
    runner.warm_up(accelerate=False)
    assert runner.forward.strategy == PADDED
    share_all(runner)  # whatever was measured
    texts = ["a", "a much longer prompt than that", "three", "four of them"]
    with count_rows(runner) as rows:
        batched = run(runner, [(text, greedy(8)) for text in texts])
    assert set(rows) == {4}
    assert batched == [runner.pipe(text, **greedy(8)) for text in texts]


def test_what_ends_early_is_not_prolonged_by_its_neighbours(tmp_path: Path) -> None:
    """Every second token that this model generates ends its text, and what pads it is a letter."""
    runner = gpt2(tmp_path, pad_token_id=65, eos_token_id=list(range(0, 256, 2)))
    untouched = [runner.pipe(text, **greedy(9)) for text in ("a", "some words", "other words here")]
    results = run(runner, [(text, greedy(9)) for text in ("a", "some words", "other words here")])
    assert results == untouched
    assert len({len(result[0]["generated_text"]) for result in results}) > 1


def test_settings_that_look_back_keep_prompts_of_other_lengths_out_of_the_pass(tmp_path: Path) -> None:
    runner = gpt2(tmp_path)
    texts, parameters = ["aa", "bb", "a longer one"], greedy(8) | {"repetition_penalty": 3.0}
    with count_rows(runner) as rows:
        results = run(runner, [(text, parameters) for text in texts])
    assert set(rows) == {1, 2}
    assert results == [runner.pipe(text, **parameters) for text in texts]


def test_with_a_seed_the_result_is_the_same_whatever_else_is_in_the_batch(tmp_path: Path) -> None:
    runner = gpt2(tmp_path)
    parameters: Parameters = {"do_sample": True, "temperature": 2.0, "max_new_tokens": 12}
    before = torch.random.get_rng_state()
    one, _, other, again = run(
        runner,
        [
            ("once", parameters | {"seed": 7}),
            ("upon", greedy(12)),
            ("once", parameters | {"seed": 8}),
            ("once", parameters | {"seed": 7}),
        ],
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(7)
    assert one == again == runner.pipe("once", **parameters)
    assert one != other


def test_equal_requests_that_sample_get_two_results(tmp_path: Path) -> None:
    runner = gpt2(tmp_path)
    parameters: Parameters = {"do_sample": True, "temperature": 5.0, "max_new_tokens": 30}
    one, other = run(runner, [("once", parameters)] * 2)
    assert one != other


def test_requests_that_sample_are_never_taken_for_equal_however_they_arrive(tmp_path: Path) -> None:
    """Nor are two texts: inputs of one batch may come from many calls, between which memory is used again."""
    runner = gpt2(tmp_path)
    parameters: Parameters = {"do_sample": True, "max_new_tokens": 3}
    prepared = [prepare(runner, text, parameters) for text in ["once", "upon"] * 20]
    assert len({item.dedup_key for item in prepared}) == 40


def test_requests_with_a_seed_never_share_a_pass_however_they_arrive(tmp_path: Path) -> None:
    runner = gpt2(tmp_path)
    parameters: Parameters = {"do_sample": True, "temperature": 2.0, "max_new_tokens": 3}
    prepared = [prepare(runner, "once", parameters | {"seed": seed}) for seed in range(20)]
    with count_rows(runner) as rows:
        results = runner.run(prepared)
    assert set(rows) == {1}
    for seed, result in enumerate(results):
        torch.manual_seed(seed)
        assert result == runner.pipe("once", **parameters)


def test_a_heartbeat_comes_after_each_token(tmp_path: Path) -> None:
    runner = gpt2(tmp_path)
    heartbeats: list[bool] = []
    prepared = [prepare(runner, text, greedy(5)) for text in ("once", "upon")]
    runner.run(prepared, lambda: heartbeats.append(True))
    assert len(heartbeats) == 5 + 1  # each token, and the forward pass


@pytest.mark.parametrize("stops", [["L"], ["2L"], ["nothing of the kind"], ["e"], ["once2"], ["zz", '"']])
def test_stop_sequences_end_the_text_as_the_pipeline_ends_it(stops: list[str], tmp_path: Path) -> None:
    runner = gpt2(tmp_path)
    parameters = greedy(20) | {"stop_sequence": stops}
    texts = ["once", "another one", "a third"]
    with count_rows(runner) as rows:
        results = run(runner, [(text, parameters) for text in texts] + [("once", greedy(20))])
    assert rows[0] == 3
    assert results == [*(runner.pipe(text, **parameters) for text in texts), runner.pipe("once", **greedy(20))]


def test_a_setting_that_the_model_rejects_is_the_clients_error(pipeline_of: Callable[[str], PipelineRunner]) -> None:
    runner = pipeline_of("text-generation")
    (result,) = run(runner, [("once", {"do_sample": True, "max_new_tokens": 3, "typical_p": 0.0})])
    assert isinstance(result, Rejected)
    assert "`typical_p`" in str(result)


# Several texts for one prompt


SAMPLED: Parameters = {"do_sample": True, "num_return_sequences": 3, "max_new_tokens": 12, "seed": 5}


@pytest.mark.parametrize(
    "parameters",
    [
        {"num_return_sequences": 2, "num_beams": 3, "do_sample": False, "max_new_tokens": 10},
        {"num_return_sequences": 2, "num_beams": 2, "do_sample": False, "max_new_tokens": 10, "stop_sequence": []},
        SAMPLED,
    ],
)
def test_each_of_several_texts_for_one_prompt_goes_on_to_its_own_end(parameters: Parameters, tmp_path: Path) -> None:
    """Every second token that this model generates ends its text, and what pads it is a letter."""
    runner = gpt2(tmp_path, pad_token_id=65, eos_token_id=list(range(0, 256, 2)))
    texts = ["a", "some words", "other words here", "b"]
    results = run(runner, [(text, parameters) for text in texts])
    expected = []
    for text in texts:
        torch.manual_seed(5)
        expected.append(runner.pipe(text, **{name: item for name, item in parameters.items() if name in ASKED}))
    assert results == expected
    assert any(
        len({len(item["generated_text"]) for item in result}) > 1 for result in [*results, [*results[0], *results[1]]]
    )


ASKED = {"num_return_sequences", "num_beams", "do_sample", "max_new_tokens"}


def test_a_model_that_is_configured_for_several_texts_starts_and_gives_them(tmp_path: Path) -> None:
    folder = media_models.make(media_models.gpt2, tmp_path)
    transformers.GenerationConfig(
        num_return_sequences=2, num_beams=2, bos_token_id=256, eos_token_id=list(range(0, 256, 2))
    ).save_pretrained(folder)
    runner = runner_of(load_pipeline(folder))
    runner.warm_up(accelerate=False)
    results = run(runner, [(text, greedy(9)) for text in ("once", "a second one")])
    untouched = load_pipeline(folder)
    assert results == [untouched(text, **greedy(9)) for text in ("once", "a second one")]
    assert [len(result) for result in results] == [2, 2]


# An empty prompt


@pytest.mark.parametrize("parameters", [greedy(6), greedy(6) | {"return_full_text": False}, greedy(1)])
def test_an_empty_prompt_goes_on_from_the_token_that_begins_a_text(parameters: Parameters, tmp_path: Path) -> None:
    runner = gpt2(tmp_path)
    results = run(runner, [(text, parameters) for text in ("", "once", "", "upon a time")])
    assert results == [runner.pipe(text, **parameters) for text in ("", "once", "", "upon a time")]
    assert results[0] != [{"generated_text": ""}]


def test_an_empty_prompt_counts_as_the_token_that_it_begins_with(tmp_path: Path) -> None:
    runner = gpt2(tmp_path)
    assert prepare(runner, "").model_inputs[0].forward_parameters["max_new_tokens"] == 127
    (result,) = runner.preprocess([("", {"max_new_tokens": 128})])
    assert str(result) == "The input has 1 tokens and asks for 128 more; the model takes 128 in all."


def test_an_empty_prompt_of_a_model_without_such_a_token_is_an_error(tmp_path: Path) -> None:
    folder = media_models.make(media_models.gpt2, tmp_path)
    transformers.GenerationConfig(eos_token_id=256, pad_token_id=256).save_pretrained(folder)
    (result,) = runner_of(load_pipeline(folder)).preprocess([("", greedy(3))])
    assert isinstance(result, Rejected)
    assert str(result) == "The input has no tokens, and this model has none that begins a text: send some text."
