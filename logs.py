"""The form of the log: text like uvicorn's own, or JSON, one object a line. It must never know what is logged."""

import logging
from datetime import UTC, datetime
from typing import Literal

import orjson
from uvicorn.logging import DefaultFormatter

NAME = "pipeline-webserver"
OURS = ("batching", "inference", "loading", "server")


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
    """Show our loggers from INFO on, everyone else's warnings, and uvicorn's lines in the same form."""
    formatter = JsonFormatter() if log_format == "json" else DefaultFormatter("%(levelprefix)s %(message)s")
    root = logging.getLogger()
    handler = next((handler for handler in root.handlers if handler.name == NAME), None)
    if handler is None:
        handler = logging.StreamHandler()
        handler.set_name(NAME)
        root.addHandler(handler)
    handler.setFormatter(formatter)
    for name in OURS:
        logging.getLogger(name).setLevel(logging.INFO)
    if log_format == "json":
        for name in ("uvicorn", "uvicorn.access"):
            for existing in logging.getLogger(name).handlers:
                existing.setFormatter(formatter)
