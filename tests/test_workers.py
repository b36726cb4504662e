"""How many processes serve the same app. Real servers with workers are started in `tests.e2e.test_workers`."""

import multiprocessing
import os
from collections.abc import Callable
from types import FunctionType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn

from pipeline_webserver.workers import Workers, count_of, find_workers

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue

# The user that gunicorn's workers get: here the one that there is.
UID, GID = os.getuid(), os.getgid()


def called_in(module: str, call: Callable[[], Any], count: int) -> Any:
    """What a call gives that a method in this module makes, of an object of gunicorn's with so many workers."""

    def load(self: object, call: Callable[[], Any]) -> Any:
        return call()

    method = FunctionType(load.__code__, {"__name__": module, "__builtins__": __builtins__})
    return method(SimpleNamespace(cfg=SimpleNamespace(workers=count, uid=UID, gid=GID)), call)


def test_in_a_worker_of_gunicorn_the_number_is_that_of_its_configuration() -> None:
    assert called_in("gunicorn.workers.base", find_workers, 3) == Workers(3, os.getppid())


def test_where_gunicorn_imports_the_app_before_it_forks_it_is_the_parent_itself() -> None:
    assert called_in("gunicorn.arbiter", find_workers, 3) == Workers(3, os.getpid(), UID, GID)


def test_a_worker_is_one_although_the_parent_that_has_forked_it_is_further_up_its_stack() -> None:
    in_worker = lambda: called_in("gunicorn.workers.base", find_workers, 3)  # noqa: E731
    assert called_in("gunicorn.arbiter", in_worker, 3) == Workers(3, os.getppid())


@pytest.mark.parametrize(("module", "count"), [("gunicorn.workers.base", 1), ("another.server", 3)])
def test_a_single_worker_and_another_program_have_no_siblings(module: str, count: int) -> None:
    assert called_in(module, find_workers, count) is None


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (uvicorn.Config("server:app", log_config=None, workers=4), 4),
        (uvicorn.Config("server:app", log_config=None), 1),
        (uvicorn.Config("server:app", log_config=None, workers=4, reload=True), 1),
        (SimpleNamespace(workers=4), 4),
        (SimpleNamespace(workers="many"), 1),
        ("of another program", 1),
        (None, 1),
    ],
)
def test_in_a_configuration_the_number_is_that_of_the_processes_that_there_are(config: object, count: int) -> None:
    assert count_of(config) == count


def report(config: object, results: "SimpleQueue[Workers | None]") -> None:
    """The target of a process as uvicorn and hypercorn start it."""
    results.put(find_workers())


def test_a_spawned_worker_finds_the_configuration_that_it_was_given() -> None:
    context = multiprocessing.get_context("spawn")
    results: SimpleQueue[Workers | None] = context.SimpleQueue()
    config = SimpleNamespace(workers=4)
    process = context.Process(target=report, kwargs={"config": config, "results": results})
    process.start()
    found = results.get()
    process.join()
    assert found == Workers(4, os.getpid())


def test_a_process_without_a_parent_of_that_kind_is_no_worker() -> None:
    assert find_workers() is None
