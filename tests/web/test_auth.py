"""Which requests have a key. That every route but the probes and the pages wants one is in `test_server`."""

import asyncio

import pytest
from starlette.requests import Request
from starlette.responses import Response

from pipeline_webserver.errors import Unauthorized
from pipeline_webserver.web.auth import ApiKeyGuard


async def endpoint(request: Request) -> Response:
    return Response(b"done")


def request(authorization: str) -> Request:
    return Request({"type": "http", "headers": [(b"authorization", authorization.encode())]})


@pytest.mark.parametrize("authorization", ["Bearer hush", "bearer hush", "BEARER hush-as-well"])
def test_each_key_is_valid_whatever_the_case_of_the_scheme(authorization: str) -> None:
    protected = ApiKeyGuard(["hush", "hush-as-well"]).protect(endpoint)
    assert asyncio.run(protected(request(authorization))).body == b"done"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "authorization", ["", "hush", "Bearer", "Bearer ", "Bearer wrong", "Basic hush", "Bearer hush2", "Bearer hüsh"]
)
def test_without_a_valid_key_the_endpoint_is_not_called(authorization: str) -> None:
    protected = ApiKeyGuard(["hush", "hush-as-well"]).protect(endpoint)
    with pytest.raises(Unauthorized, match="send it as 'Authorization: Bearer KEY'"):
        asyncio.run(protected(request(authorization)))  # type: ignore[arg-type]


def test_without_keys_an_endpoint_stays_as_it_is() -> None:
    assert ApiKeyGuard([]).protect(endpoint) is endpoint
