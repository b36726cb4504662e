"""The exception tree, named by whose fault it is.

It must never know HTTP: the table from error to status is in `api.error_table`.

PipelineServerError
├── ConfigurationError          the operator's: the start stops
├── ClientError                 the client's: sending the same again gives the same
│   ├── Malformed
│   ├── Unauthorized
│   ├── NotServed
│   ├── TooSlow
│   ├── TooLarge
│   ├── UnsupportedMediaType
│   └── Rejected
└── ServerError                 ours: the request may have been fine
    ├── InferenceFailed
    ├── DeadlineExceeded
    └── Refused                 not admitted, or dropped; carries when to retry
        ├── Overloaded
        ├── Starting
        ├── Draining
        └── Unavailable
"""


class PipelineServerError(Exception):
    """Base of every error of ours; its text is for the client or operator that must act on it."""


class ConfigurationError(PipelineServerError):
    """The settings, the model or the environment cannot be served; one line that says what to do."""


class ClientError(PipelineServerError):
    """The request is at fault."""


class Malformed(ClientError):
    """Not UTF-8, not JSON, no inputs, a wrong type, or more dimensions than there are."""


class Unauthorized(ClientError):
    """The API key is missing or wrong."""


class NotServed(ClientError):
    """What this server's task or model does not have."""


class TooSlow(ClientError):
    """The body did not arrive in time."""


class TooLarge(ClientError):
    """Over a limit; the text gives both numbers."""


class UnsupportedMediaType(ClientError):
    """A media type that this pipeline cannot take, or an encoding; `accepted_encodings` is then the header's value."""

    def __init__(self, message: str, accepted_encodings: str | None = None) -> None:
        super().__init__(message)
        self.accepted_encodings = accepted_encodings


class Rejected(ClientError):
    """Well-formed, but the pipeline refuses it; its own words."""


class ServerError(PipelineServerError):
    """The server is at fault."""


class InferenceFailed(ServerError):
    """The model failed on this input alone; the cause is chained, for the log."""


class DeadlineExceeded(ServerError):
    """No answer within the request's time."""


class Refused(ServerError):
    """The server does not take this request now.

    `retry_after_s` is the estimate, in whole seconds, of when a retry can succeed.
    """

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Overloaded(Refused):
    """The server is at capacity, or the answer would come too late."""


class Starting(Refused):
    """The model is not loaded yet."""


class Draining(Refused):
    """The server is shutting down."""


class Unavailable(Refused):
    """The serving loop is dead, or the model is stuck or broken."""


def first_line(error: BaseException) -> str:
    """The first line of a library's error message, or the error's class where it has no message.

    A line that ends in a colon only announces the next one, which is then part of it.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    end = next((index for index, line in enumerate(lines) if not line.endswith(":")), len(lines) - 1)
    return " ".join(lines[: end + 1])
