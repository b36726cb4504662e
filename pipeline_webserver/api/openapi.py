"""What is published about the server: the OpenAPI document of its routes for the loaded task, and the body of `/info`.

Pure: from what is known of the model to a document. It must never know Starlette, the queue, settings or the model.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline_webserver.api.codec import JSON, TIMEOUT_PATTERN
from pipeline_webserver.api.error_responses import NAMES, error_references, error_responses
from pipeline_webserver.api.inference_api import how_to_send
from pipeline_webserver.api.json_schema import INTEGER, TEXT, Schema, ref
from pipeline_webserver.api.schemas import BINARY, MEDIA_TYPES, Facts, component_schemas, text_schema
from pipeline_webserver.model_info import ModelInfo

HEADERS: dict[str, Schema] = {
    "X-Request-ID": {"description": "The client's own, if it sent a valid one.", "schema": TEXT},
    "Server-Timing": {
        "description": "Milliseconds in the queue, in the model and in all, and the size of the batch.",
        "schema": TEXT,
    },
    "Retry-After": {"description": "Seconds after which a retry can succeed.", "schema": INTEGER},
    "WWW-Authenticate": {"description": "`Bearer`.", "schema": TEXT},
}
REQUEST_HEADERS = [
    {
        "name": "X-Request-ID",
        "in": "header",
        "description": "Returned in the response, and written to the log.",
        "schema": TEXT,
    },
    {
        "name": "X-Request-Timeout",
        "in": "header",
        "description": "Seconds that the client waits; at most as long as the server does.",
        "schema": {"type": "string", "pattern": TIMEOUT_PATTERN},
    },
]
# The statuses of errors: of a missing key, of a server that is not up, and of everything up to the model's output.
NO_KEY, NOT_UP = 401, 503
RUNNING_THE_MODEL = [status for status in NAMES if status != NO_KEY]


def info(model_info: ModelInfo, limits: Mapping[str, object], version: str) -> dict[str, object]:
    """The body of `/info`. `limits` are the settings and measured limits that a client can run into, by name."""
    return {**model_info.as_json(), "limits": limits, "version": version}


def document(facts: Facts) -> dict[str, Any]:
    """OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{facts.task_name} with {facts.model_info.name}",
            "version": facts.version,
            "description": "One pipeline of transformers over HTTP. Requests that come together share forward passes.",
        },
        "paths": _paths(facts),
        "components": _components(facts),
    }


def usage(facts: Facts, prefix: str) -> str:
    """For clients that ask for what is not there: what to send, and the routes there are, all under the prefix."""
    routes = [f"{method.upper()} {prefix}{path}" for path, methods in _paths(facts).items() for method in methods]
    return f"{how_to_send(facts.task, f'{prefix}/')} There are {', '.join(routes)}."


def _paths(facts: Facts) -> dict[str, Any]:
    """The routes that are served. The page at `GET /` is for people: without an `Accept` of HTML it is not there."""
    # Every server has the route of embeddings; one without them answers 404, as it does for what is not here at all.
    embeddings = {"/v1/embeddings": {"post": _embed(facts)}} if facts.has_embeddings else {}
    return {
        "/": {"post": _infer(facts)},
        **embeddings,
        "/health": {"get": _probe("health", "Whether the process can serve.")},
        "/ready": {"get": _probe("ready", "Whether new requests are taken.")},
        "/info": {"get": _info(facts)},
        "/metrics": {"get": _metrics(facts)},
        "/openapi.json": {"get": _openapi(facts)},
        "/docs": {"get": _docs()},
    }


# Routes that run the model


def _infer(facts: Facts) -> dict[str, Any]:
    return {
        "operationId": "infer",
        "tags": ["inference"],
        "summary": f"Run {facts.task_name}.",
        "description": "A body that is no JSON is the input itself, and is answered with what the pipeline returns; a "
        "type that says nothing, as curl's default does, is taken, too. A list of inputs has a list of answers.",
        "parameters": REQUEST_HEADERS,
        "security": _security(facts),
        "requestBody": {"required": True, "content": _inference_content(facts)},
        "responses": _inference_responses(facts, "Answer"),
    }


def _inference_content(facts: Facts) -> dict[str, Any]:
    """The JSON form and the raw one. A task with required parameters has no raw one; JSON has no examples of bytes."""
    raw_types = () if facts.task.required_parameters else MEDIA_TYPES[facts.task.input_kind]
    raw: dict[str, Any] = {"schema": BINARY}
    if not facts.task.is_file:
        # An empty body is refused, also where an empty text in JSON is not.
        raw = {"schema": text_schema(facts.task, facts.model_info) | {"minLength": 1}, "example": facts.example}
    example: dict[str, Any] = {"inputs": facts.example}
    if facts.task.required_parameters:
        example["parameters"] = dict(facts.task.example_parameters)
    form = {"schema": ref("Request"), "example": example}
    return {**dict.fromkeys(raw_types, raw), JSON: form}


def _embed(facts: Facts) -> dict[str, Any]:
    form = {"schema": ref("EmbeddingsRequest"), "example": {"input": "a text", "model": "any"}}
    return {
        "operationId": "embed",
        "tags": ["inference"],
        "summary": "Embeddings in OpenAI's form.",
        "description": "`model`, `user` and what is not here are ignored.",
        "parameters": REQUEST_HEADERS,
        "security": _security(facts),
        "requestBody": {"required": True, "content": {JSON: form}},
        "responses": _inference_responses(facts, "Embeddings", "OpenAI"),
    }


def _inference_responses(facts: Facts, schema: str, error_prefix: str = "") -> dict[str, Any]:
    headers = {"X-Request-ID": ref("X-Request-ID", "headers"), "Server-Timing": ref("Server-Timing", "headers")}
    ok = {"description": "The answer.", "headers": headers, "content": {JSON: {"schema": ref(schema)}}}
    return {"200": ok} | error_references([*_key_errors(facts), *RUNNING_THE_MODEL], error_prefix)


# Routes about the server


def _probe(name: str, summary: str) -> dict[str, Any]:
    return _get(name, summary, _ok("The server is well.", JSON, ref("State")), [], [NOT_UP])


def _info(facts: Facts) -> dict[str, Any]:
    summary = "The model, the limits, and the effect of each optimization."
    ok = _ok("What is served.", JSON, ref("Info"))
    return _get("info", summary, ok, _security(facts), [*_key_errors(facts), NOT_UP])


def _metrics(facts: Facts) -> dict[str, Any]:
    ok = _ok("Prometheus text.", "text/plain", TEXT)
    return _get("metrics", "Metrics for Prometheus.", ok, _security(facts), _key_errors(facts))


def _openapi(facts: Facts) -> dict[str, Any]:
    ok = _ok("OpenAPI 3.1.", JSON, {"type": "object"})
    return _get("openapi", "This document.", ok, _security(facts), [*_key_errors(facts), NOT_UP])


def _docs() -> dict[str, Any]:
    return _get(
        "docs", "This document as a page, on which each call can be tried.", _ok("A page.", "text/html", TEXT), [], []
    )


def _ok(description: str, media_type: str, schema: Schema) -> dict[str, Any]:
    headers = {"X-Request-ID": ref("X-Request-ID", "headers")}
    return {"description": description, "headers": headers, "content": {media_type: {"schema": schema}}}


def _get(
    name: str, summary: str, ok: dict[str, Any], security: list[Any], error_statuses: Sequence[int]
) -> dict[str, Any]:
    return {
        "operationId": name,
        "tags": ["operation"],
        "summary": summary,
        "parameters": REQUEST_HEADERS[:1],
        "security": security,
        "responses": {"200": ok} | error_references(error_statuses),
    }


# Of all routes


def _security(facts: Facts) -> list[Any]:
    """Of a route that wants the key, if there is one."""
    return [{"apiKey": []}] if facts.has_key else []


def _key_errors(facts: Facts) -> list[int]:
    return [NO_KEY] if facts.has_key else []


def _components(facts: Facts) -> dict[str, Any]:
    statuses = [*_key_errors(facts), *RUNNING_THE_MODEL]
    openai = error_responses(statuses, "OpenAIError", "OpenAI") if facts.has_embeddings else {}
    components: dict[str, Any] = {
        "schemas": component_schemas(facts),
        "headers": {name: header for name, header in HEADERS.items() if facts.has_key or name != "WWW-Authenticate"},
        "responses": error_responses(statuses, "Error") | openai,
    }
    if facts.has_key:
        components["securitySchemes"] = {"apiKey": {"type": "http", "scheme": "bearer"}}
    return components
