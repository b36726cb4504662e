"""The form of the log: text like uvicorn's own, or JSON, one object a line. It must never know what is logged."""

import logging
from datetime import UTC, datetime
from typing import Literal

import orjson
from uvicorn.logging import AccessFormatter, DefaultFormatter

NAME = "pipeline-webserver"
ACCESS = "pipeline-webserver.access"
OURS = ("asyncio", "batching", "pipeline_webserver", "server")
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
    """Show our loggers' lines from INFO on, in this form, and put everyone else's into it if that is JSON.

    Where the operator has set up logging (`--log-config`), our lines go where all others go, as they are.
    """
    formatter = JsonFormatter() if log_format == "json" else DefaultFormatter("%(levelprefix)s %(message)s")
    for name in OURS:
        _show(logging.getLogger(name), logging.StreamHandler(), formatter)
    _take_the_place_of(logging.getLogger("uvicorn.access"), logging.getLogger(ACCESS), formatter)
    if log_format == "json":
        for existing in (handler for name in THEIRS for handler in logging.getLogger(name).handlers):
            existing.setFormatter(formatter)


def _show(logger: logging.Logger, handler: logging.Handler, formatter: logging.Formatter) -> None:
    logger.setLevel(logging.INFO)
    logger.handlers = [kept for kept in logger.handlers if kept.name != NAME]
    if not logger.hasHandlers():
        handler.set_name(NAME)
        handler.setFormatter(formatter)
        logger.addHandler(handler)


def _take_the_place_of(theirs: logging.Logger, ours: logging.Logger, formatter: logging.Formatter) -> None:
    """Our line for each request goes where uvicorn's went, if that was shown (`--no-access-log` stops it)."""
    if not theirs.hasHandlers():
        return
    ours.setLevel(logging.INFO)
    ours.handlers, ours.propagate = theirs.handlers, theirs.propagate
    theirs.handlers, theirs.propagate = [], False
    for handler in ours.handlers:
        if isinstance(handler.formatter, AccessFormatter):  # uvicorn's own, which knows only its own fields
            handler.setFormatter(formatter)
