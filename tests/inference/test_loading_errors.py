"""Each way in which loading fails is one line that says why, and what to do."""

import errno

import httpx2
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from pipeline_webserver.errors import first_line
from pipeline_webserver.inference.loading_errors import explain_loading


def test_the_reason_is_found_however_deep_it_is_chained() -> None:
    outer = OSError("first line\nsecond line")
    outer.__cause__ = ValueError()
    outer.__cause__.__context__ = LocalEntryNotFoundError("x")
    assert "is not in the local cache" in explain_loading("m", None, outer)
    assert explain_loading("m", None, OSError("first line\nsecond line")) == "cannot load 'm': first line"
    assert explain_loading("m", None, OSError()) == "cannot load 'm': OSError"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("one\ntwo", "one"),
        (
            "Error(s) in loading:\n\tsize mismatch for a: 3\n\tsize mismatch for b",
            "Error(s) in loading: size mismatch for a: 3",
        ),
        (
            "See the original errors:\n\n  while loading:\n  no file\n",
            "See the original errors: while loading: no file",
        ),
        ("nothing behind it:", "nothing behind it:"),
        (" \n ", "ValueError"),
    ],
)
def test_a_line_that_announces_the_next_one_is_told_with_it(text: str, line: str) -> None:
    assert first_line(ValueError(text)) == line


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (MemoryError(), "MemoryError"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "[Errno 12] Cannot allocate memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"), None),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), None),
    ],
)
def test_too_little_memory_is_said_as_such(error: Exception, why: str | None) -> None:
    for raised in (error, ValueError("while loading")):
        raised.__cause__ = None if raised is error else error
        told = (why or str(error)) if raised is error else "while loading"
        assert explain_loading("m", None, raised) == (
            f"there is not enough memory to load 'm' ({told}); give the process more"
        )


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ImportError("No module named 'pandas'"), "No module named 'pandas'"),
        (
            ImportError("\nA requires the PIL library but it was not found: `pip install pillow`.\n"),
            "A requires the PIL library",
        ),
        (
            ValueError("None could be imported. Missing optional dependencies: torchvision, Pillow. Please install"),
            "Missing optional dependencies: torchvision, Pillow",
        ),
    ],
)
def test_what_a_task_needs_and_is_not_installed_is_one_command(error: Exception, why: str) -> None:
    assert explain_loading("m", None, error, "media") == (
        f"'m' needs more than is installed ({why}): pip install 'pipeline-webserver[media]'"
    )
    assert explain_loading("m", None, error).startswith("cannot load 'm': ")


def hub_error(kind: type[HfHubHTTPError]) -> OSError:
    """As transformers raises it: wrapped, with the Hub's answer."""
    error = OSError("many\nlines")
    error.__cause__ = kind(
        "the hub's words", response=httpx2.Response(403, request=httpx2.Request("GET", "http://hub"))
    )
    return error


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            GatedRepoError,
            "'m' is gated: accept its terms on its page, and set HF_TOKEN to a token that may read it",
        ),
        (
            RepositoryNotFoundError,
            f"there is no model 'm' at {constants.ENDPOINT}; check PIPELINE_MODEL, or set HF_TOKEN if it is private",
        ),
        (RevisionNotFoundError, "'m' has no revision 'v1'; check PIPELINE_REVISION"),
    ],
)
def test_what_the_hub_refuses_is_an_error_that_says_what_to_do(kind: type[HfHubHTTPError], message: str) -> None:
    assert explain_loading("m", "v1", hub_error(kind)) == message
