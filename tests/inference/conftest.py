"""A Hub of our own in the place of the real one."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import huggingface_hub
import pytest
from transformers.utils import hub

from tests.support.hub import running_hub

ServeHub = Callable[[dict[str, Path]], AbstractContextManager[list[str]]]


@pytest.fixture
def serve_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServeHub:
    """A Hub with these models, by id, which fills a cache of the test's own; behind it, `HF_HUB_OFFLINE` is set."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))

    @contextmanager
    def serve(models: dict[str, Path]) -> Iterator[list[str]]:
        """The paths that it is asked for."""
        with running_hub(models) as (url, paths):
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
            monkeypatch.setattr(constants, "ENDPOINT", url)
            monkeypatch.setattr(hub.hf_api(), "endpoint", url)  # it keeps the one of its first use
            resolve = url + "/{repo_id}/resolve/{revision}/{filename}"
            monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", resolve)
            yield paths
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    return serve
