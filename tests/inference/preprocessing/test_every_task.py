"""Every task: each result of a mixed batch equals the pipeline's own on that input alone."""

import base64
import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import PIL.Image
import pytest

from pipeline_webserver.api.tasks import TASKS
from pipeline_webserver.inference.pipeline_runner import PipelineRunner
from tests.support import media_models, pipelines
from tests.support.compare import assert_same
from tests.support.media import noise, picture, pixels, recording
from tests.support.models import CLASSES, LABELS
from tests.support.pipelines import Parameters, count_rows, load_pipeline, prepare, run, runner_of

TABLE = {"name": ["ann", "bob", "eve"], "age": ["31", "45", "27"]}
GREEDY: Parameters = {"do_sample": False, "max_new_tokens": 6}
SEEDS = (1, 2, 3)
IMAGES = [(picture(seed), pixels(seed)) for seed in SEEDS] + [(picture(4, 90, 40), pixels(4, 90, 40))]
AUDIO = [(recording(noise(seed)), noise(seed)) for seed in SEEDS] + [(recording(noise(4, 0.8)), noise(4, 0.8))]
# Of each task: inputs as they come, beside what the pipeline is given, and parameters.
INPUTS: dict[str, list[tuple[Any, Any]]] = {
    "text-generation": [(text, text) for text in ("once", "upon a time there was", "", "a")],
    "table-question-answering": [
        ({"table": table, "query": query}, {"table": pandas.DataFrame(table), "query": query})
        for table in (TABLE, {"city": ["ulm", "bern"]})
        for query in ("how old is bob ?", "how many ?")
    ],
    **dict.fromkeys([name for name, task in TASKS.items() if task.input_kind == "image"], IMAGES),
    **dict.fromkeys([name for name, task in TASKS.items() if task.input_kind == "audio"], AUDIO),
}
PARAMETERS: dict[str, list[Parameters]] = {
    "text-generation": [
        GREEDY,
        GREEDY | {"return_full_text": False},
        GREEDY | {"stop_sequence": ["e"]},
        GREEDY | {"repetition_penalty": 1.5},
    ],
    "table-question-answering": [{}, {"sequential": True}, {"padding": "max_length"}, {"truncation": True}],
    "image-classification": [{}, {"top_k": 1}, {"function_to_apply": "sigmoid"}, {"function_to_apply": "none"}],
    "object-detection": [{"threshold": 0.1}, {}, {"threshold": 0.0}, {"threshold": 1.0}],
    "image-segmentation": [{}, {"subtask": "semantic"}],
    "image-feature-extraction": [{}, {"pool": True}],
    "zero-shot-image-classification": [
        {"candidate_labels": ["a cat", "a dog"]},
        {"candidate_labels": ["a cat", "a dog"], "hypothesis_template": "{} or something much longer"},
    ],
    "automatic-speech-recognition": [{}, {"return_timestamps": "word"}],
    "audio-classification": [{}, {"top_k": 2}, {"function_to_apply": "sigmoid"}],
}
OTHER_MODELS = {
    "gpt2": ("text-generation", media_models.gpt2),
    "detr": ("object-detection", media_models.detr),
    "whisper": ("automatic-speech-recognition", media_models.whisper),
}
WHISPERS: list[Parameters] = [{}, {"generate_kwargs": {"max_new_tokens": 5}}]


def in_json(result: Any) -> Any:
    """What the pipeline returns, without what JSON does not have."""
    if isinstance(result, list):
        return [in_json(item) for item in result]
    if isinstance(result, dict):
        return {name: in_json(value) for name, value in result.items()}
    if isinstance(result, tuple):
        return [in_json(item) for item in result]
    return result


def readable(result: Any) -> Any:
    """Masks in the form that both sides have: their pixels."""
    for segment in result if isinstance(result, list) else []:
        if isinstance(segment, dict) and isinstance(segment.get("mask"), str):
            segment["mask"] = PIL.Image.open(io.BytesIO(base64.b64decode(segment["mask"])))
        if isinstance(segment, dict) and "mask" in segment:
            segment["mask"] = segment["mask"].convert("L").tobytes().hex()
    return in_json(result)


def warmed_up(folder: Path, task: str) -> PipelineRunner:
    runner = runner_of(load_pipeline(folder, task))
    runner.warm_up(accelerate=False)
    return runner


@pytest.fixture(scope="module")
def runner_for(model_of: Callable[[str], Path]) -> Callable[[str], PipelineRunner]:
    """The warmed up runner of a task, made once."""
    return functools.cache(lambda task: warmed_up(model_of(task), task))


def check_against_the_pipeline(runner: PipelineRunner, folder: Path, task: str, parameters: list[Parameters]) -> None:
    pipe = load_pipeline(folder, task)
    inputs = [(value, expected, some) for value, expected in INPUTS[task] for some in parameters if value]
    results = run(runner, [(value, some) for value, _, some in inputs])
    for result, (_, value, some) in zip(results, inputs, strict=True):
        assert_same(readable(result), readable(pipe(value, **some)))


@pytest.mark.parametrize("task", PARAMETERS)
def test_each_result_of_a_mixed_batch_equals_the_pipelines(
    task: str, runner_for: Callable[[str], PipelineRunner], model_of: Callable[[str], Path]
) -> None:
    check_against_the_pipeline(runner_for(task), model_of(task), task, PARAMETERS[task])


@pytest.mark.parametrize(
    "name", ["gpt2", *(pytest.param(name, marks=pytest.mark.extended) for name in OTHER_MODELS if name != "gpt2")]
)
def test_each_result_of_a_mixed_batch_equals_the_pipelines_for_other_models_too(name: str, tmp_path: Path) -> None:
    task, maker = OTHER_MODELS[name]
    parameters = WHISPERS if name == "whisper" else PARAMETERS[task]
    folder = media_models.make(maker, tmp_path / name)
    check_against_the_pipeline(warmed_up(folder, task), folder, task, parameters)


@pytest.mark.parametrize("task", [task for task in PARAMETERS if task != "table-question-answering"])
def test_inputs_of_one_shape_share_a_pass(
    task: str, runner_for: Callable[[str], PipelineRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = runner_for(task)
    # Whatever was measured: all that may share a pass, do.
    monkeypatch.setattr(runner.forward, "fixed_cost_tokens", 1e9)
    inputs = [(value, PARAMETERS[task][0]) for value, _ in INPUTS[task][:3] if value]
    with count_rows(runner) as rows:
        run(runner, inputs)
    assert rows[0] == len(inputs)


def test_every_task_is_tested_against_the_pipeline_here_or_in_the_tests_of_the_runner() -> None:
    assert set(PARAMETERS) | set(CLASSES) == set(TASKS)
    assert set(INPUTS) == set(PARAMETERS)
    assert set(pipelines.PARAMETERS) == set(CLASSES)
    assert set(LABELS) <= set(CLASSES)


def test_what_a_pipeline_rejects_only_at_the_end_is_rejected_in_its_words(model_of: Callable[[str], Path]) -> None:
    task = "image-segmentation"
    (result,) = run(runner_of(load_pipeline(model_of(task), task)), [(picture(1), {"subtask": "panoptic"})])
    assert type(result).__name__ == "Rejected"
    assert str(result).startswith("Subtask panoptic is not supported for model")


def test_an_input_costs_as_many_tokens_as_a_text_that_costs_as_much(model_of: Callable[[str], Path]) -> None:
    def tokens(task: str, value: Any, parameters: Parameters) -> int:
        return prepare(runner_of(load_pipeline(model_of(task), task)), value, parameters).tokens

    assert tokens("text-generation", "four", GREEDY) == 4 + 6
    assert tokens("image-classification", picture(1), {}) == 32 * 32 * 3 // 768
    assert tokens("audio-classification", recording(noise(1, 0.5)), {}) == 8_000 // 768
