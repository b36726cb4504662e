"""An environment without the developer's own settings, and which tests are for one worker together."""

import os

import pytest
from xdist.remote import Producer  # type: ignore[import-untyped]
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

# The files whose tests share forked processes: they are for one worker, so that each process is started once.
FORKED = {
    "tests/api/test_openapi_served.py",
    "tests/e2e/test_clients.py",
    "tests/e2e/test_end_to_end.py",
    "tests/e2e/test_hostile.py",
    "tests/e2e/test_machine.py",
    "tests/test_docs.py",
}
# And those of the browser, whose servers load some of the same models.
FORKED_FOLDER = "tests/e2e/web_ui"
for name in [name for name in os.environ if name.upper().startswith("PIPELINE_")]:
    del os.environ[name]


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures where tests are run: their imports take seconds, which workers would wait for."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        config.pluginmanager.import_plugin("tests.support.fixtures")


class ByFile(LoadScopeScheduling):  # type: ignore[misc]
    """Gives each file to one worker, and the files that share processes or a browser to one worker together.

    Not by xdist's own groups: pytest 9.2 ignores them (https://github.com/pytest-dev/pytest-xdist/issues/1386).
    """

    def _split_scope(self, nodeid: str) -> str:
        file, _, _ = nodeid.partition("::")
        folder, _, _ = file.rpartition("/")
        return "forked" if file in FORKED or folder == FORKED_FOLDER else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    return ByFile(config, log)
