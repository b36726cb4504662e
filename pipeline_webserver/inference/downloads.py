"""The progress of a download: as bars where a person sees them, else as lines of the log. It must never know models."""

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import transformers
from huggingface_hub import constants
from huggingface_hub.utils.tqdm import enable_progress_bars

logger = logging.getLogger(__name__)

INTERVAL_S = 10.0


@contextmanager
def shown_downloads(model: str, interval_s: float = INTERVAL_S) -> Iterator[None]:
    """Inside, downloads of a Hub id are shown. Weights that are read from a disk are not: that takes seconds."""
    transformers.utils.logging.disable_progress_bar()
    has_bars = sys.stderr.isatty() and not constants.HF_HUB_DISABLE_PROGRESS_BARS
    if has_bars:
        enable_progress_bars()
    if has_bars or constants.HF_HUB_OFFLINE or Path(model).is_dir():
        yield
        return
    has_ended = threading.Event()
    thread = threading.Thread(target=_log_progress, args=(model, has_ended, interval_s), name="downloads", daemon=True)
    thread.start()
    try:
        yield
    finally:
        has_ended.set()
        thread.join()


def _log_progress(model: str, has_ended: threading.Event, interval_s: float) -> None:
    started, before = time.monotonic(), cached_bytes(model)
    while not has_ended.wait(interval_s):
        megabytes = (cached_bytes(model) - before) / 1e6
        logger.info("Still loading after %.0f s: %.0f MB downloaded.", time.monotonic() - started, megabytes)


def cached_bytes(model: str) -> int:
    """What the Hub's cache holds of a model, unfinished files among it."""
    blobs = Path(constants.HF_HUB_CACHE) / f"models--{model.replace('/', '--')}" / "blobs"
    total = 0
    for path in blobs.glob("*"):
        with suppress(FileNotFoundError):  # renamed when it is complete
            total += path.stat().st_size
    return total
