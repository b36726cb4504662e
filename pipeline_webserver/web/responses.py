"""From errors to responses: what each error tells the client and the log, with the status of `api.error_table`.

It must never know where an error is raised.
"""

import logging
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ExceptionHandler

from pipeline_webserver.api.codec import JSON, to_json
from pipeline_webserver.api.error_table import CLIENT_DISCONNECTED, ERROR_TABLE, INTERNAL
from pipeline_webserver.errors import (
    InferenceFailed,
    NotServed,
    PipelineServerError,
    Refused,
    Unauthorized,
    UnsupportedMediaType,
)
from pipeline_webserver.web.headers import HEADERS, REQUEST_ID_HEADER
from pipeline_webserver.web.paths import route_path

logger = logging.getLogger(__name__)

# The paths of OpenAI's API begin with this.
OPENAI_PREFIX = "/v1/"


class JSONResponse(Response):
    """A body that is JSON already."""

    media_type = JSON


class ErrorHandlers:
    """The handlers of every error; with `show_errors`, responses have details that otherwise only the log has.

    `usage` returns what a client that asks for what is not there is told to do, under the prefix that it is given.
    """

    def __init__(self, *, show_errors: bool, usage: Callable[[str], str]) -> None:
        self.show_errors = show_errors
        self.usage = usage

    @property
    def by_type(self) -> dict[type[Exception], ExceptionHandler]:
        """For Starlette: each handler, by the exception that it is for."""
        return {
            PipelineServerError: self.on_error,
            HTTPException: self.on_http_error,
            ClientDisconnect: self.on_disconnect,
            Exception: self.on_bug,
        }

    async def on_error(self, request: Request, error: Exception) -> Response:
        """An error of ours, with its status from the table."""
        assert isinstance(error, PipelineServerError)
        facts = ERROR_TABLE[type(error)]
        message, headers = str(error), {}
        if isinstance(error, InferenceFailed):
            _log_failure(request, error)
            if self.show_errors:
                message += f" {type(error.__cause__).__name__}: {error.__cause__}"
        if isinstance(error, NotServed):
            message += f" {self.usage(request.state.prefix)}"
        if isinstance(error, Refused):
            headers["Retry-After"] = str(error.retry_after_s)
        if isinstance(error, UnsupportedMediaType) and error.accepted_encodings:
            headers["Accept-Encoding"] = error.accepted_encodings
        if isinstance(error, Unauthorized):
            headers["WWW-Authenticate"] = "Bearer"
        return _error_response(request, facts.status, facts.error_type, message, headers)

    async def on_http_error(self, request: Request, error: Exception) -> Response:
        """A path or method that does not exist."""
        assert isinstance(error, HTTPException)
        error_type = error.detail.lower().replace(" ", "_")
        message = f"{error.detail}: {request.method} {request.scope['path']}. {self.usage(request.state.prefix)}"
        return _error_response(request, error.status_code, error_type, message, dict(error.headers or {}))

    async def on_bug(self, request: Request, error: Exception) -> Response:
        """Any other exception is a bug of ours; Starlette raises it again behind this response, so it is logged."""
        # Starlette makes this response outside of the middlewares, which would have set these headers.
        headers = {REQUEST_ID_HEADER: request.state.request_id, **HEADERS}
        message = "The server made an error; its log has the details."
        return _error_response(request, INTERNAL.status, INTERNAL.error_type, message, headers)

    async def on_disconnect(self, request: Request, error: Exception) -> Response:
        """The client does not get this response; the log and the metrics have its status."""
        facts = CLIENT_DISCONNECTED
        return _error_response(request, facts.status, facts.error_type, "The client disconnected.", {})


def _log_failure(request: Request, error: InferenceFailed) -> None:
    request_id = request.state.request_id
    logger.error(
        "The model failed on request %s", request_id, exc_info=error.__cause__, extra={"request_id": request_id}
    )


def _error_response(request: Request, status: int, error_type: str, message: str, headers: dict[str, str]) -> Response:
    request.state.error_type = error_type
    error: object = message
    if route_path(request.scope).startswith(OPENAI_PREFIX):  # clients of OpenAI's API read the message only there
        error = {"message": message, "type": error_type, "param": None, "code": None}
    return JSONResponse(to_json({"error": error, "error_type": error_type}), status, headers)
