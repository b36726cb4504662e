"""The form of the log: text like uvicorn's own, or JSON, one object a line. It must never know what is logged."""

import logging
from datetime import UTC, datetime
from typing import Literal

import orjson
from uvicorn.logging import DefaultFormatter

NAME = "pipeline-webserver"
OURS = ("acceleration", "asyncio", "batching", "inference", "loading", "passes", "preparing", "server")
# Those that bring handlers of their own.
THEIRS = ("huggingface_hub", "transformers", "uvicorn", "uvicorn.access")


class JsonFormatter(logging.Formatter):
    """Time (UTC), level, logger and message; the request id and the traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := getattr(record, "request_id", None):
            line["request_id"] = request_id
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()


def configure(log_format: Literal["text", "json"]) -> None:
    """Show our loggers' lines from INFO on, and put everyone else's in the same form if that is JSON."""
    formatter = JsonFormatter() if log_format == "json" else DefaultFormatter("%(levelprefix)s %(message)s")
    handler = logging.StreamHandler()
    handler.set_name(NAME)
    handler.setFormatter(formatter)
    for name in OURS:
        logger = logging.getLogger(name)
        logger.handlers = [kept for kept in logger.handlers if kept.name != NAME] + [handler]
        logger.setLevel(logging.INFO)
    if log_format == "json":
        for existing in (handler for name in THEIRS for handler in logging.getLogger(name).handlers):
            existing.setFormatter(formatter)
