"""Status, type and meaning of each error that an HTTP response can carry, stated once.

Responses, the OpenAPI document, docs/call/http.md and its tests are all made from this table or compared with it. It
must never know where an error is raised, nor how a response is written.
"""

from dataclasses import dataclass

from pipeline_webserver.errors import (
    DeadlineExceeded,
    Draining,
    InferenceFailed,
    Malformed,
    NotServed,
    Overloaded,
    PipelineServerError,
    Rejected,
    Starting,
    TooLarge,
    TooSlow,
    Unauthorized,
    Unavailable,
    UnsupportedMediaType,
)


@dataclass(frozen=True, slots=True)
class ErrorFacts:
    """The HTTP status of an error, its name in the response's `error_type`, and when it happens, in one sentence."""

    status: int
    error_type: str
    meaning: str


ERROR_TABLE: dict[type[PipelineServerError], ErrorFacts] = {
    Malformed: ErrorFacts(
        400, "malformed", "Not UTF-8, not JSON, no `inputs`, a wrong type, or more `dimensions` than there are."
    ),
    Unauthorized: ErrorFacts(401, "unauthorized", "The API key is missing or wrong."),
    NotServed: ErrorFacts(404, "not_served", "Embeddings of a model that has none."),
    TooSlow: ErrorFacts(408, "too_slow", "The body did not arrive in time."),
    TooLarge: ErrorFacts(
        413,
        "too_large",
        "The body, the number of inputs or the tokens are over the limit; the message has both numbers.",
    ),
    UnsupportedMediaType: ErrorFacts(
        415, "unsupported_media_type", "The body has a media type that this pipeline cannot take."
    ),
    Rejected: ErrorFacts(
        422,
        "rejected",
        "The pipeline refuses it: no mask token, an unknown or out-of-range parameter, a file that cannot be read; "
        "the message has the reason.",
    ),
    InferenceFailed: ErrorFacts(
        500, "inference_failed", "The model failed on this input; the log has the details, under the request's ID."
    ),
    Overloaded: ErrorFacts(
        503,
        "overloaded",
        "The server is at capacity, or the answer would come too late; `Retry-After` is from the same estimate.",
    ),
    Starting: ErrorFacts(
        503,
        "starting",
        "The model is not loaded yet; seen only behind servers that listen before the app has started.",
    ),
    Draining: ErrorFacts(503, "draining", "The server is shutting down."),
    Unavailable: ErrorFacts(503, "unavailable", "The serving loop is dead, or the model is stuck or broken."),
    DeadlineExceeded: ErrorFacts(
        504, "deadline_exceeded", "No answer in time; an input whose batch has not begun is skipped."
    ),
}

# A bug of the server: any exception that is not in the table.
INTERNAL = ErrorFacts(500, "internal", "The server has a bug; the log has the traceback.")
# The connection is closed, so only the log and the metrics carry this status.
CLIENT_DISCONNECTED = ErrorFacts(499, "client_disconnected", "The client disconnected before the answer.")
