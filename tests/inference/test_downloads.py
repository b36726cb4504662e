"""The progress of a download is in the log where there are no bars."""

import logging
import threading
from pathlib import Path

import pytest
from huggingface_hub import constants

from pipeline_webserver.inference.downloads import cached_bytes, shown_downloads


@pytest.fixture
def blobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the Hub's cache keeps the files of a model."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    folder = tmp_path / "models--team--model" / "blobs"
    folder.mkdir(parents=True)
    return folder


def test_what_is_in_the_cache_counts_unfinished_files_too(blobs: Path) -> None:
    (blobs / "a").write_bytes(b"12345")
    (blobs / "b.incomplete").write_bytes(b"123")
    assert cached_bytes("team/model") == 8
    assert cached_bytes("team/other") == 0


def test_a_download_logs_how_much_there_is(blobs: Path, caplog: pytest.LogCaptureFixture) -> None:
    logged = threading.Event()

    def note(record: logging.LogRecord) -> bool:
        logged.set()
        return True

    with caplog.at_level("INFO"), shown_downloads("team/model", interval_s=0.001):
        caplog.handler.addFilter(note)
        assert logged.wait(10)
    caplog.handler.removeFilter(note)
    assert caplog.messages[0] == "Still loading after 0 s: 0 MB downloaded."
    assert "downloads" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("model", [".", "/"])
def test_a_folder_is_not_downloaded(model: str, blobs: Path) -> None:
    with shown_downloads(model, interval_s=0.001):
        assert "downloads" not in {thread.name for thread in threading.enumerate()}
