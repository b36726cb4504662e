"""Generation step by step: what each input gets, whatever runs beside it, and what fails fails alone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Pipeline

from pipeline_webserver.errors import InferenceFailed, PipelineServerError, Rejected, Unavailable
from pipeline_webserver.inference.generation.generation_runner import GenerationRunner
from pipeline_webserver.inference.generation.generations import Generation
from pipeline_webserver.inference.generation.packed_attention import Chunk
from tests.support import media_models
from tests.support.pipelines import Parameters, load_pipeline, runner_of

GREEDY: Parameters = {"do_sample": False, "max_new_tokens": 9}
SAMPLED: Parameters = {"do_sample": True, "max_new_tokens": 9}
MIXED: list[tuple[str, Parameters]] = [
    ("once", GREEDY),
    ("upon a time there was", GREEDY | {"max_new_tokens": 14, "repetition_penalty": 1.5}),
    ("", GREEDY),
    ("a", GREEDY | {"return_full_text": False}),
    ("a b c", SAMPLED | {"seed": 3}),
    ("a b c", SAMPLED | {"seed": 4, "top_k": 5, "temperature": 0.7, "num_return_sequences": 3}),
    ("so it", GREEDY | {"max_new_tokens": 20, "stop_sequence": ["e"]}),
    ("and then", GREEDY | {"no_repeat_ngram_size": 1, "min_new_tokens": 9}),
]


@pytest.fixture(scope="module", params=["llama", pytest.param("gpt2", marks=pytest.mark.extended)])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return media_models.make(getattr(media_models, request.param), tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def pipe(folder: Path) -> Pipeline:
    return load_pipeline(folder)


@pytest.fixture(scope="module")
def runner(folder: Path) -> GenerationRunner:
    runner = runner_of(load_pipeline(folder))
    runner.warm_up(accelerate=False)
    return GenerationRunner(runner)


def of_pipeline(pipe: Pipeline, text: str, parameters: Parameters) -> Any:
    """What the pipeline returns, with our names for a seed and for stop texts."""
    known = {name: item for name, item in parameters.items() if name not in {"seed", "stop_sequence"}}
    if "stop_sequence" in parameters:
        known |= {"stop_strings": parameters["stop_sequence"], "tokenizer": pipe.tokenizer}
    with torch.random.fork_rng():
        if "seed" in parameters:
            torch.manual_seed(parameters["seed"])
        return pipe(text, **known)


def ready(runner: GenerationRunner, inputs: list[tuple[str, Parameters]]) -> list[Generation]:
    found = runner.preprocess(inputs)
    assert [item for item in found if isinstance(item, PipelineServerError)] == []
    return [item for item in found if isinstance(item, Generation)]


def run(runner: GenerationRunner, generations: list[Generation], chunk: int = 5, late: int = 2) -> list[Any]:
    """All results: each input joins some steps after the one before, its prompt computed in chunks."""
    step = 0
    while any(generation.result is None for generation in generations):
        running = [one for index, one in enumerate(generations) if step >= late * index and one.result is None]
        sequences = [sequence for one in running for sequence in one.sequences if not sequence.is_ended]
        work = [(sequence, min(chunk, sequence.pending_tokens)) for sequence in sequences if sequence.pending_tokens]
        runner.step(work, [])
        step += 1
    return [generation.result for generation in generations]


@contextmanager
def hooked(runner: GenerationRunner, hook: Callable[[list[Chunk]], None]) -> Iterator[None]:
    """Look at what each step computes, and perhaps raise."""
    model = runner.engine.step_model
    own = model.step

    def step(chunks: Any) -> torch.Tensor:
        hook(list(chunks))
        return own(chunks)

    model.step = step  # type: ignore[method-assign]
    try:
        yield
    finally:
        del model.step


def is_clean(runner: GenerationRunner) -> bool:
    return not any(arena.slots for arena in runner.engine.cache.arenas.values())


@pytest.mark.parametrize(("chunk", "late"), [(5, 2), (100, 0), (1, 1)])
def test_each_result_in_mixed_company_equals_the_pipelines(
    chunk: int, late: int, runner: GenerationRunner, pipe: Pipeline
) -> None:
    expected = [of_pipeline(pipe, text, parameters) for text, parameters in MIXED]
    assert run(runner, ready(runner, MIXED), chunk, late) == expected
    assert run(runner, ready(runner, MIXED[::-1]), chunk, late) == expected[::-1]
    assert is_clean(runner)


def test_equal_inputs_that_sample_without_a_seed_get_results_of_their_own(runner: GenerationRunner) -> None:
    first, second = run(runner, ready(runner, [("once", SAMPLED | {"max_new_tokens": 30})] * 2), late=0)
    assert first != second


def test_an_input_that_is_released_leaves_the_others_as_they_are(runner: GenerationRunner, pipe: Pipeline) -> None:
    one, two, three = ready(runner, [("once", GREEDY), ("upon a time", GREEDY), ("a", GREEDY)])
    for _ in range(4):
        runner.step([(one.sequences[0], one.sequences[0].pending_tokens)], [])
        runner.step([(two.sequences[0], two.sequences[0].pending_tokens)], [])
        runner.step([(three.sequences[0], three.sequences[0].pending_tokens)], [])
    runner.step([], [one])
    assert run(runner, [two, three], late=0) == [of_pipeline(pipe, text, GREEDY) for text in ("upon a time", "a")]
    assert is_clean(runner)


def test_an_input_whose_step_fails_fails_alone(runner: GenerationRunner, pipe: Pipeline) -> None:
    good, bad, other = generations = ready(runner, [("once", GREEDY), ("poison", GREEDY), ("a", GREEDY)])
    poison = bad.sequences[0].tokens[0]

    def fail(chunks: list[Chunk]) -> None:
        if any(chunk.ids[0] == poison for chunk in chunks):
            raise RuntimeError("poison")

    with hooked(runner, fail):
        results = run(runner, generations, late=0)
    assert results[0] == of_pipeline(pipe, "once", GREEDY)
    assert results[2] == of_pipeline(pipe, "a", GREEDY)
    assert isinstance(bad.result, InferenceFailed)
    assert str(bad.result.__cause__) == "poison"
    assert good.sequences[0].is_ended
    assert other.sequences[0].is_ended
    assert is_clean(runner)


def test_out_of_memory_is_halved_until_it_fits(runner: GenerationRunner, pipe: Pipeline) -> None:
    def fail(chunks: list[Chunk]) -> None:
        if len(chunks) > 2:
            raise torch.OutOfMemoryError("out of memory")

    with hooked(runner, fail):
        results = run(runner, ready(runner, [(text, GREEDY) for text in ("once", "upon", "a", "time")]), late=0)
    assert results == [of_pipeline(pipe, text, GREEDY) for text in ("once", "upon", "a", "time")]


def test_where_the_model_computes_no_numbers_the_input_fails_and_its_slot_is_clean(
    runner: GenerationRunner, pipe: Pipeline
) -> None:
    one, two = ready(runner, [("once", GREEDY), ("a", GREEDY)])
    runner.step([(one.sequences[0], 4), (two.sequences[0], 1)], [])
    slot = one.sequences[0].slot
    assert slot is not None
    with torch.inference_mode():
        for storage in slot.arena.layers.values():
            storage.values[slot.row] = torch.nan
    results = run(runner, [one, two], late=0)
    assert isinstance(results[0], InferenceFailed)
    assert results[1] == of_pipeline(pipe, "a", GREEDY)
    assert run(runner, ready(runner, [("upon a time there was", GREEDY)])) == [
        of_pipeline(pipe, "upon a time there was", GREEDY)
    ]


def test_a_model_that_fails_for_every_input_is_unavailable(runner: GenerationRunner) -> None:
    (one,) = ready(runner, [("once", GREEDY)])

    def fail(chunks: list[Chunk]) -> None:
        raise RuntimeError("broken")

    own = runner.runner.forward.forward
    runner.runner.forward.forward = lambda *args: fail([])  # type: ignore[method-assign, assignment]
    try:
        with hooked(runner, fail), pytest.raises(Unavailable):
            runner.step([(one.sequences[0], 4)], [])
    finally:
        runner.runner.forward.forward = own  # type: ignore[method-assign]


def test_a_heartbeat_comes_after_each_step(runner: GenerationRunner) -> None:
    (one,) = ready(runner, [("once", GREEDY)])
    beats: list[None] = []
    while one.result is None:
        runner.step([(one.sequences[0], one.sequences[0].pending_tokens)], [], lambda: beats.append(None))
    assert len(beats) == 9


def test_what_cannot_be_done_in_steps_is_generated_as_the_pipeline_does(
    runner: GenerationRunner, pipe: Pipeline
) -> None:
    beams = GREEDY | {"num_beams": 2}
    (one,) = ready(runner, [("once", beams)])
    assert one.sequences == []
    assert runner.run([one]) == [of_pipeline(pipe, "once", beams)]


def test_a_setting_that_generate_rejects_is_the_clients_error(runner: GenerationRunner) -> None:
    (error,) = runner.preprocess([("once", {"temperature": -1.0, "do_sample": True, "max_new_tokens": 2})])
    assert isinstance(error, Rejected)
    assert "temperature" in str(error)
