"""From errors to answers: the one table of statuses, and what each error tells the client and the log.

It must never know where an error comes from.
"""

import logging

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ExceptionHandler

from pipeline_webserver import errors
from pipeline_webserver.api import inference_api
from pipeline_webserver.web.middleware import HEADERS

logger = logging.getLogger(__name__)

# Routes in OpenAI's form begin with this.
OPENAI = "/v1/"

STATUS: dict[type[errors.PipelineServerError], tuple[int, str]] = {
    errors.Malformed: (400, "malformed"),
    errors.Unauthorized: (401, "unauthorized"),
    errors.NotServed: (404, "not_served"),
    errors.TooSlow: (408, "too_slow"),
    errors.TooLarge: (413, "too_large"),
    errors.UnsupportedMediaType: (415, "unsupported_media_type"),
    errors.Rejected: (422, "rejected"),
    errors.InferenceFailed: (500, "inference_failed"),
    errors.Overloaded: (503, "overloaded"),
    errors.Starting: (503, "starting"),
    errors.Draining: (503, "draining"),
    errors.Unavailable: (503, "unavailable"),
    errors.DeadlineExceeded: (504, "deadline_exceeded"),
}


class Json(Response):
    media_type = "application/json"


class Failures:
    """The handlers of every error; with `show_errors` clients are told what is otherwise for the log only."""

    def __init__(self, *, show_errors: bool) -> None:
        self.show_errors = show_errors

    @property
    def handlers(self) -> dict[type[Exception], ExceptionHandler]:
        return {
            errors.PipelineServerError: self.on_error,
            HTTPException: self.on_http_error,
            ClientDisconnect: self.on_hang_up,
            Exception: self.on_bug,
        }

    async def on_error(self, request: Request, error: Exception) -> Response:
        """Our errors, as the table says."""
        assert isinstance(error, errors.PipelineServerError)
        status, error_type = STATUS[type(error)]
        message, headers = str(error), {}
        if isinstance(error, errors.InferenceFailed):
            logger.error(
                "The model failed on request %s",
                request.state.request_id,
                exc_info=error.__cause__,
                extra={"request_id": request.state.request_id},
            )
            if self.show_errors:
                message += f" {type(error.__cause__).__name__}: {error.__cause__}"
        if isinstance(error, errors.Refused):
            headers["Retry-After"] = str(error.retry_after_s)
        if isinstance(error, errors.Unauthorized):
            headers["WWW-Authenticate"] = "Bearer"
        return _answer(request, status, error_type, message, headers)

    async def on_http_error(self, request: Request, error: Exception) -> Response:
        """A path or method that is not there."""
        assert isinstance(error, HTTPException)
        error_type = error.detail.lower().replace(" ", "_")
        message = f"{error.detail}: {request.method} {request.scope['path']}. Send your text with POST to /."
        return _answer(request, error.status_code, error_type, message, dict(error.headers or {}))

    async def on_bug(self, request: Request, error: Exception) -> Response:
        """An error of ours that nobody foresaw; the traceback goes to the log."""
        headers = {"X-Request-ID": request.state.request_id, **HEADERS}  # this answer is made outside the envelope
        return _answer(request, 500, "internal", "The server made an error; its log has the details.", headers)

    async def on_hang_up(self, request: Request, error: Exception) -> Response:
        """Nobody reads this answer; its status is for the metrics."""
        return _answer(request, 499, "hung_up", "The client hung up.", {})


def _answer(request: Request, status: int, error_type: str, message: str, headers: dict[str, str]) -> Response:
    request.state.error_type = error_type
    error: object = message
    if request.scope["path"].startswith(OPENAI):  # its clients show only what stands where OpenAI puts it
        error = {"message": message, "type": error_type, "param": None, "code": None}
    return Json(inference_api.to_json({"error": error, "error_type": error_type}), status, headers)
