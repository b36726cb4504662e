"""A task's preprocessor is found by where it is; one whose imports are not installed says what installs them."""

import sys

import pytest

from pipeline_webserver.api.tasks import TASKS
from pipeline_webserver.errors import ConfigurationError
from pipeline_webserver.inference.preprocessing.base import Preprocessor
from pipeline_webserver.inference.preprocessing.registry import preprocessor_class


@pytest.mark.parametrize("name", TASKS)
def test_each_task_has_a_preprocessor(name: str) -> None:
    task = TASKS[name]
    found = preprocessor_class(name, task.preprocessor, task.extra)
    assert issubclass(found, Preprocessor)
    assert f"{found.__module__.rpartition('.')[2]}.{found.__name__}" == task.preprocessor


@pytest.mark.parametrize(
    ("name", "missing", "extra"),
    [
        ("image-classification", "PIL", "media"),
        ("audio-classification", "soundfile", "media"),
        ("automatic-speech-recognition", "soxr", "media"),
        ("table-question-answering", "pandas", "tables"),
    ],
)
def test_what_is_not_installed_is_reported_with_the_command_that_installs_it(
    name: str, missing: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    for module in ("image", "audio", "table"):
        monkeypatch.delitem(sys.modules, f"pipeline_webserver.inference.preprocessing.{module}", raising=False)
    with pytest.raises(ConfigurationError) as error:
        preprocessor_class(name, TASKS[name].preprocessor, TASKS[name].extra)
    assert str(error.value).startswith(f"the task {name!r} needs more than is installed (")
    assert str(error.value).endswith(f"): pip install 'pipeline-webserver[{extra}]'")
