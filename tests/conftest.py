"""Models and a server made once for the whole session, and an environment without the developer's own settings."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline_webserver.api.tasks import TASKS
from pipeline_webserver.inference.pipeline_runner import LoadedPipeline
from tests.support.models import make_model
from tests.support.pipelines import open_pipeline
from tests.support.process import Process, serving
from tests.support.sentences import EMBEDDING, MINILM

for name in [name for name in os.environ if name.upper().startswith("PIPELINE_")]:
    del os.environ[name]


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a small random model for a task."""
    made: dict[str, Path] = {}

    def get(task: str) -> Path:
        if task not in made:
            made[task] = make_model(task, tmp_path_factory.mktemp(task))
        return made[task]

    return get


@pytest.fixture(scope="session")
def pipeline_of(model_of: Callable[[str], Path]) -> Callable[[str], LoadedPipeline]:
    opened: dict[str, LoadedPipeline] = {}

    def get(task: str) -> LoadedPipeline:
        if task not in opened:
            opened[task] = open_pipeline(model_of(task), task)
        return opened[task]

    return get


@pytest.fixture(scope="session")
def every_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model for each task, by its name, and with the real MiniLM."""
    models = tmp_path_factory.mktemp("every_model")
    for task in TASKS:
        make_model(task, models / task)
    (models / EMBEDDING).symlink_to(MINILM)
    return models


@pytest.fixture(scope="session")
def every_task(every_model: Path) -> Iterator[Process]:
    """A real process that serves them all, each under its name."""
    with serving("tests.support.every_task:app", EVERY_TASK=str(every_model)) as process:
        yield process


@pytest.fixture(scope="session")
def bundled() -> Iterator[Process]:
    """`uvicorn server:app`, as the README starts it."""
    with serving() as process:
        yield process
