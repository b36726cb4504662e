"""Headers of every request and response: the defaults, the request id, the client's time-out.

It must never know the routes.
"""

import re
import uuid

from starlette.datastructures import Headers

from pipeline_webserver.api.codec import TIMEOUT_PATTERN
from pipeline_webserver.errors import Malformed

# Clients must neither sniff a media type nor store a response, unless a route says otherwise.
HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
REQUEST_ID_HEADER = "X-Request-ID"
TIMEOUT_HEADER = "X-Request-Timeout"
SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


def request_id(headers: Headers) -> str:
    """The client's own request id, if it is a sane one, or a new one."""
    own = headers.get(REQUEST_ID_HEADER, "")
    return own if SANE_REQUEST_ID.fullmatch(own) else uuid.uuid4().hex


def request_timeout_s(headers: Headers, max_s: float) -> float:
    """Seconds that a request may take: `max_s`, or less where its client says so. Raises `Malformed`."""
    value = headers.get(TIMEOUT_HEADER)
    if value is None:
        return max_s
    if not re.fullmatch(TIMEOUT_PATTERN, value):
        raise Malformed(f"The header {TIMEOUT_HEADER} is a number of seconds over 0, like 2.5.")
    return min(float(value), max_s)
