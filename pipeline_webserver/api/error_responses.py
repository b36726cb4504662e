"""The OpenAPI document's error responses, one for each status, made from the error table.

It must never know which routes have which.
"""

from collections.abc import Iterable
from typing import Any

from pipeline_webserver.api.codec import JSON
from pipeline_webserver.api.error_table import ERROR_TABLE, INTERNAL, ErrorFacts
from pipeline_webserver.api.json_schema import Schema, ref
from pipeline_webserver.errors import NotServed

# Of each status, the last of its errors in the table names the component: `Unavailable` stands for all of 503. A route
# that is not served is not in the document, so neither is its error.
NAMES = {facts.status: error.__name__ for error, facts in ERROR_TABLE.items() if error is not NotServed}


def errors_of(status: int) -> list[ErrorFacts]:
    """What the table has for a status."""
    return [facts for facts in [*ERROR_TABLE.values(), INTERNAL] if facts.status == status]


def error_references(statuses: Iterable[int], prefix: str = "") -> dict[str, Schema]:
    """A route's error responses, by status."""
    return {str(status): ref(prefix + NAMES[status], "responses") for status in statuses}


def error_responses(statuses: Iterable[int], schema: str, prefix: str = "") -> dict[str, Any]:
    """The components that `error_references` refers to; `schema` is the name of their body's."""
    return {prefix + NAMES[status]: _response(status, schema) for status in statuses}


def _response(status: int, schema: str) -> dict[str, Any]:
    errors = errors_of(status)
    body = {"allOf": [ref(schema), {"properties": {"error_type": {"enum": [facts.error_type for facts in errors]}}}]}
    headers = {"X-Request-ID": ref("X-Request-ID", "headers")}
    headers |= {"Retry-After": ref("Retry-After", "headers")} if status == 503 else {}
    headers |= {"WWW-Authenticate": ref("WWW-Authenticate", "headers")} if status == 401 else {}
    return {"description": _description(errors), "headers": headers, "content": {JSON: {"schema": body}}}


def _description(errors: list[ErrorFacts]) -> str:
    if len(errors) == 1:
        return errors[0].meaning
    return " ".join(f"`{facts.error_type}`: {facts.meaning}" for facts in errors)
