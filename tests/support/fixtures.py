"""Models and servers made once for the whole session."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from pipeline_webserver.api.tasks import TASKS
from pipeline_webserver.inference.pipeline_runner import PipelineRunner
from tests.support.forkserver import ForkServer
from tests.support.models import make_model
from tests.support.pipelines import open_pipeline
from tests.support.process import Process, serving
from tests.support.sentences import EMBEDDING, MINILM

# Several processes run tests side by side: with a thread for each core, each would wait for the others' in every pass.
torch.set_num_threads(1)


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
def pipeline_of(model_of: Callable[[str], Path]) -> Callable[[str], PipelineRunner]:
    opened: dict[str, PipelineRunner] = {}

    def get(task: str) -> PipelineRunner:
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
def fork_server() -> Iterator[ForkServer]:
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def every_task(fork_server: ForkServer, every_model: Path) -> Iterator[Process]:
    """A process that serves them all, each under its name."""
    with serving("tests.support.every_task:app", fork_server, EVERY_TASK=str(every_model)) as process:
        yield process


@pytest.fixture(scope="session")
def bundled(fork_server: ForkServer) -> Iterator[Process]:
    """A process with the bundled model."""
    with serving("server:app", fork_server) as process:
        yield process
