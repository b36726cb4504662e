"""One line for each way in which loading fails: why, and what to do. It must never know how a model is loaded."""

import errno
import re
from collections.abc import Iterator, Sequence

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from pipeline_webserver.errors import first_line

# The causes of an error that say that no Hub was reached.
UNREACHABLE = (ConnectionError, TimeoutError, LocalEntryNotFoundError)
# What torch, safetensors and the system say when there is not enough memory.
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")

MISSING = re.compile(r"Missing optional dependencies: [\w, -]+|\w+ requires the \w+ library")


def explain_loading(model: str, revision: str | None, error: BaseException, extra: str | None = None) -> str:
    """One line that says why a model could not be loaded; `extra` is the one of this package that its task needs."""
    causes = list(_causes(error))
    if line := explain_hub(model, revision, error):
        return line
    if "trust_remote_code" in str(error):
        return f"{model!r} brings code of its own, which this server does not run; choose another model"
    if any(_is_out_of_memory(cause) for cause in causes):
        return f"there is not enough memory to load {model!r} ({first_line(error)}); give the process more"
    if extra is not None and (why := _missing_libraries(causes)):
        return f"{model!r} needs more than is installed ({why}): pip install 'pipeline-webserver[{extra}]'"
    return f"cannot load {model!r}: {first_line(error)}"


def explain_hub(model: str, revision: str | None, error: BaseException) -> str | None:
    """One line that says what the Hub refuses; None if it is not the Hub's doing."""
    causes = list(_causes(error))
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return f"{model!r} is gated: accept its terms on its page, and set HF_TOKEN to a token that may read it"
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        where = f"there is no model {model!r} at {constants.ENDPOINT}"
        return f"{where}; check PIPELINE_MODEL, or set HF_TOKEN if it is private"
    if any(isinstance(cause, RevisionNotFoundError) for cause in causes):
        return f"{model!r} has no revision {revision!r}; check PIPELINE_REVISION"
    if any(isinstance(cause, UNREACHABLE) for cause in causes):
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"cannot reach {constants.ENDPOINT}"
        return (
            f"{why} and {model!r} is not in the local cache; "
            "check the network and HF_ENDPOINT, or set PIPELINE_MODEL to a local folder"
        )
    return None


def _missing_libraries(causes: Sequence[BaseException]) -> str | None:
    """What transformers says of libraries that are not there, without its own advice, which names others of them."""
    if found := next(filter(None, (MISSING.search(str(cause)) for cause in causes)), None):
        return found[0]
    return next((first_line(cause) for cause in causes if isinstance(cause, ImportError)), None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from, each once."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        seen.append(cause)
        yield cause
        cause = cause.__cause__ or cause.__context__


def _is_out_of_memory(error: BaseException) -> bool:
    is_reported = any(words in str(error).lower() for words in OUT_OF_MEMORY)
    return isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM or is_reported
