"""Finds the preprocessor of a task, and loads its file only then: not every installation has what the file imports.

It must never know which tasks there are, requests or HTTP.
"""

import importlib

from pipeline_webserver.errors import ConfigurationError, first_line
from pipeline_webserver.inference.preprocessing.base import Preprocessor


def preprocessor_class(task: str, location: str, extra: str | None) -> type[Preprocessor]:
    """The class at `module.Class` beside this file; `extra` is the one of this package that its imports need.

    Raises `ConfigurationError` if that is not installed.
    """
    module, _, name = location.partition(".")
    try:
        found: type[Preprocessor] = getattr(importlib.import_module(f"{__package__}.{module}"), name)
    except (ImportError, OSError) as error:  # also where a library of the system is missing
        raise ConfigurationError(
            f"the task {task!r} needs more than is installed ({first_line(error)}): "
            f"pip install 'pipeline-webserver[{extra}]'"
        ) from error
    return found
