"""The form of the log: text like uvicorn's own with the time, or JSON, one object a line.

It must never know what is logged.
"""

import logging
from datetime import UTC, datetime
from typing import Literal

import orjson
from uvicorn.config import LOGGING_CONFIG
from uvicorn.logging import AccessFormatter, DefaultFormatter

HANDLER_NAME = "pipeline-webserver"
ACCESS = "pipeline-webserver.access"
# All our modules log to one of these or to a child of it. asyncio's own lines are about tasks and callbacks of ours.
LOGGERS = ("asyncio", "batching", "pipeline_webserver", "server")
# Libraries that bring handlers of their own.
LIBRARY_LOGGERS = ("huggingface_hub", "transformers", "uvicorn")


def time_of(record: logging.LogRecord) -> str:
    """ISO 8601, UTC, to the millisecond."""
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


class TextFormatter(DefaultFormatter):
    """The time (UTC), and what uvicorn shows: level and message."""

    def __init__(self) -> None:
        super().__init__("%(levelprefix)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return f"{time_of(record)} {super().format(record)}"


class JsonFormatter(logging.Formatter):
    """Time (UTC), level, logger and message; fields, the request id and the traceback where there are any."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": time_of(record),
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
    """Show our lines from INFO on, in this form, and uvicorn's too; those of other libraries if it is JSON.

    Where the operator has configured logging (`--log-config`), our lines go where all others go, as they are.
    """
    formatter = JsonFormatter() if log_format == "json" else TextFormatter()
    for name in LOGGERS:
        _show(logging.getLogger(name), formatter)
    _replace_access_log(logging.getLogger("uvicorn.access"), logging.getLogger(ACCESS), formatter)
    for handler in (handler for name in LIBRARY_LOGGERS for handler in logging.getLogger(name).handlers):
        if log_format == "json" or _is_uvicorns_own(handler.formatter):
            handler.setFormatter(formatter)


def _is_uvicorns_own(formatter: logging.Formatter | None) -> bool:
    """Whether it is the one that uvicorn has by default, with no time in it."""
    return type(formatter) is DefaultFormatter and formatter._fmt == LOGGING_CONFIG["formatters"]["default"]["fmt"]


def _show(logger: logging.Logger, formatter: logging.Formatter) -> None:
    logger.setLevel(logging.INFO)
    logger.handlers = [kept for kept in logger.handlers if kept.name != HANDLER_NAME]
    if not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.set_name(HANDLER_NAME)
        handler.setFormatter(formatter)
        logger.addHandler(handler)


def _replace_access_log(uvicorns: logging.Logger, ours: logging.Logger, formatter: logging.Formatter) -> None:
    """Our line for each request goes where uvicorn's went, if that was shown (`--no-access-log` hides both)."""
    if not uvicorns.hasHandlers():
        return
    ours.setLevel(logging.INFO)
    ours.handlers, ours.propagate = uvicorns.handlers, uvicorns.propagate
    uvicorns.handlers, uvicorns.propagate = [], False
    for handler in ours.handlers:
        if isinstance(handler.formatter, AccessFormatter):  # uvicorn's own, which knows only its own fields
            handler.setFormatter(formatter)
