"""The form of the log: text like uvicorn's own, or JSON, one object a line. It must never know what is logged."""

import logging
import sys
from datetime import UTC, datetime
from typing import Literal

import orjson
from uvicorn.logging import DefaultFormatter

NAME = "pipeline-webserver"
ACCESS = "access"
OURS = ("acceleration", "asyncio", "batching", "inference", "loading", "passes", "preparing", "server")
# Those that bring handlers of their own.
THEIRS = ("huggingface_hub", "transformers", "uvicorn")


class JsonFormatter(logging.Formatter):
    """Time (UTC), level, logger and message; fields, the request id and the traceback where there are any."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if request_id := getattr(record, "request_id", None):
            line["request_id"] = request_id
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()


def configure(log_format: Literal["text", "json"]) -> None:
    """Show our loggers' lines from INFO on, and put everyone else's in the same form if that is JSON.

    Our line for each request takes the place of uvicorn's, if that is shown (`--no-access-log` stops it).
    """
    formatter = JsonFormatter() if log_format == "json" else DefaultFormatter("%(levelprefix)s %(message)s")
    for name in OURS:
        _show(logging.getLogger(name), logging.StreamHandler(), formatter)
    theirs, access = logging.getLogger("uvicorn.access"), logging.getLogger(ACCESS)
    if theirs.handlers or access.handlers:
        theirs.handlers, theirs.propagate = [], False
        _show(access, logging.StreamHandler(sys.stdout), formatter)
    if log_format == "json":
        for existing in (handler for name in THEIRS for handler in logging.getLogger(name).handlers):
            existing.setFormatter(formatter)


def _show(logger: logging.Logger, handler: logging.Handler, formatter: logging.Formatter) -> None:
    handler.set_name(NAME)
    handler.setFormatter(formatter)
    logger.handlers = [kept for kept in logger.handlers if kept.name != NAME] + [handler]
    logger.setLevel(logging.INFO)
