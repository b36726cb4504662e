"""The API key: whether a request has one of the keys. It must never know the settings, or what the routes do."""

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Iterable

from starlette.requests import Request
from starlette.responses import Response

from pipeline_webserver.errors import Unauthorized

Endpoint = Callable[[Request], Awaitable[Response]]


class ApiKeyGuard:
    """Any of `keys` is valid; without keys, every request is let through."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [digest(key.encode()) for key in keys]

    def protect(self, endpoint: Endpoint) -> Endpoint:
        """The same endpoint, which raises `Unauthorized` for a request without a valid key."""
        if not self._digests:
            return endpoint

        async def protected(request: Request) -> Response:
            self.check(request.headers.get("authorization", ""))
            return await endpoint(request)

        return protected

    def check(self, authorization: str) -> None:
        """Takes the value of the `Authorization` header. Raises `Unauthorized`."""
        scheme, _, key = authorization.partition(" ")
        candidate = digest(key.encode("latin-1"))
        # Every key is compared, and all digests have one length, so the time tells nothing about the keys.
        matches = sum(hmac.compare_digest(candidate, valid) for valid in self._digests)
        if not matches or scheme.lower() != "bearer":
            raise Unauthorized("The API key is missing or wrong; send it as 'Authorization: Bearer KEY'.")


def digest(key: bytes) -> bytes:
    """SHA-256, 32 bytes."""
    return hashlib.sha256(key).digest()
