"""The OpenAPI document of what is served: its routes with their requests, answers and errors, for the loaded task.

Pure: from what is known of the model to the document. It must never know Starlette, the queue or the model.
"""

from typing import Any

from pipeline_webserver.api.openai_embeddings import EmbeddingsRequest
from pipeline_webserver.api.schemas import (
    BINARY,
    INFO,
    ITEMS,
    LABELS,
    MEDIA_TYPES,
    NUMBERS,
    SOME,
    SPEED_UP,
    TEXT,
    WHOLE,
    Facts,
    Schema,
    answers,
    array,
    input_schema,
    nullable,
    parameter_schemas,
    ref,
    structure,
    text_schema,
)

JSON = "application/json"
# What can go wrong, by its name in the document: the status, its kinds of error, and when. What is not served is not in
# the document at all.
FAILURES: dict[str, tuple[int, list[str], str]] = {
    "Malformed": (400, ["malformed"], "Not UTF-8, not JSON, no inputs, or a wrong type."),
    "Unauthorized": (401, ["unauthorized"], "The API key is missing or wrong."),
    "TooSlow": (408, ["too_slow"], "The body did not arrive in time."),
    "TooLarge": (413, ["too_large"], "Over a limit; the message gives both numbers."),
    "UnsupportedMediaType": (415, ["unsupported_media_type"], "A media type that this pipeline cannot take."),
    "Rejected": (422, ["rejected"], "The pipeline refuses it; the message has its own words."),
    "Failed": (500, ["inference_failed", "internal"], "The model failed on this input."),
    "Unavailable": (
        503,
        ["overloaded", "starting", "draining", "unavailable"],
        "Full, starting, shutting down or broken; Retry-After says when to come back.",
    ),
    "DeadlineExceeded": (504, ["deadline_exceeded"], "No answer in time; nothing was computed that had not begun."),
}
RUNS_THE_MODEL = [name for name in FAILURES if name != "Unauthorized"]
HEADERS: dict[str, Schema] = {
    "X-Request-ID": {"description": "The client's own, if it sent a sane one.", "schema": TEXT},
    "Server-Timing": {
        "description": "Milliseconds in the queue, in the model and in all, and the size of the batch.",
        "schema": TEXT,
    },
    "Retry-After": {"description": "Seconds in which it is worth coming back.", "schema": WHOLE},
    "WWW-Authenticate": {"description": "`Bearer`.", "schema": TEXT},
}
REQUEST_HEADERS = [
    {
        "name": "X-Request-ID",
        "in": "header",
        "description": "Comes back, and stands in the log.",
        "schema": TEXT,
    },
    {
        "name": "X-Request-Timeout",
        "in": "header",
        "description": "Seconds that the client waits; at most as long as the server does.",
        "schema": {"type": "string", "pattern": r"^(?=[0-9.]*[1-9])[0-9]{1,9}(\.[0-9]{1,9})?$"},
    },
]


def document(facts: Facts) -> dict[str, Any]:
    """OpenAPI 3.1."""
    secured: list[Any] = [{"apiKey": []}] if facts.has_key else []
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{facts.name} with {facts.described.get('model')}",
            "version": facts.version,
            "description": "One pipeline of transformers over HTTP. Requests that come together share forward passes.",
        },
        # The page at `GET /` is for people: without a wish for HTML it is not there.
        "paths": {path: {method: operation} for path, method, operation in _operations(facts, secured)},
        "components": _components(facts),
    }


def _operations(facts: Facts, secured: list[Any]) -> list[tuple[str, str, dict[str, Any]]]:
    failures = ["Unauthorized"] if facts.has_key else []
    state = {"description": "It is well.", "content": {JSON: {"schema": ref("State")}}}
    embeddings = [("/v1/embeddings", "post", _embeddings(secured, failures))] if facts.has_embeddings else []
    return [
        ("/", "post", _inference(facts, secured, failures)),
        *embeddings,
        ("/health", "get", _get("health", "Whether the process can serve.", state, [], ["Unavailable"])),
        ("/ready", "get", _get("ready", "Whether new requests are taken.", state, [], ["Unavailable"])),
        (
            "/info",
            "get",
            _get(
                "info",
                "The model, the limits, and what each speed-up is worth.",
                {"description": "What is served.", "content": {JSON: {"schema": ref("Info")}}},
                secured,
                [*failures, "Unavailable"],
            ),
        ),
        (
            "/metrics",
            "get",
            _get(
                "metrics",
                "Metrics for Prometheus.",
                {"description": "Prometheus text.", "content": {"text/plain": {"schema": TEXT}}},
                secured,
                failures,
            ),
        ),
        (
            "/openapi.json",
            "get",
            _get(
                "openapi",
                "This document.",
                {"description": "OpenAPI 3.1.", "content": {JSON: {"schema": {"type": "object"}}}},
                secured,
                [*failures, "Unavailable"],
            ),
        ),
        (
            "/docs",
            "get",
            _get(
                "docs",
                "This document, to be read.",
                {"description": "A page.", "content": {"text/html": {"schema": TEXT}}},
                [],
                [],
            ),
        ),
    ]


def _get(name: str, summary: str, answer: dict[str, Any], secured: list[Any], failures: list[str]) -> dict[str, Any]:
    return {
        "operationId": name,
        "tags": ["operation"],
        "summary": summary,
        "parameters": REQUEST_HEADERS[:1],
        "security": secured,
        "responses": _responses(answer, failures),
    }


def _responses(answer: dict[str, Any], failures: list[str], errors: str = "") -> dict[str, Any]:
    headers = {"X-Request-ID": ref("X-Request-ID", "headers")} | answer.pop("headers", {})
    answered = {"200": {**answer, "headers": headers}}
    return answered | {str(FAILURES[name][0]): ref(errors + name, "responses") for name in failures}


def _inference(facts: Facts, secured: list[Any], failures: list[str]) -> dict[str, Any]:
    raw = BINARY if facts.task.takes_file else text_schema(facts)
    must_have = parameter_schemas(facts)["Parameters"].get("required")
    # A task with parameters that must be given has no raw form. JSON has no examples of bytes.
    raw_types = () if must_have else MEDIA_TYPES[facts.task.takes]
    raw_example = {} if facts.task.takes_file else {"example": facts.example}
    content: dict[str, Any] = {kind: {"schema": raw, **raw_example} for kind in raw_types}
    example = {"inputs": facts.example, **({"parameters": LABELS} if must_have else {})}
    content[JSON] = {"schema": ref("Request"), "example": example}
    return {
        "operationId": "infer",
        "tags": ["inference"],
        "summary": f"Run {facts.name}.",
        "description": "A body that is no JSON is the input itself, and is answered with what the pipeline returns; a "
        "type that says nothing, as curl's default does, is taken, too. A list of inputs has a list of answers.",
        "parameters": REQUEST_HEADERS,
        "security": secured,
        "requestBody": {"required": not facts.takes_nothing, "content": content},
        "responses": _responses(_answered(ref("Answer")), [*failures, *RUNS_THE_MODEL]),
    }


def _embeddings(secured: list[Any], failures: list[str]) -> dict[str, Any]:
    """Every server has the route; one without embeddings answers it with 404, as it does what is not here at all."""
    return {
        "operationId": "embed",
        "tags": ["inference"],
        "summary": "Embeddings in OpenAI's form.",
        "description": "`model` and `user` mean nothing. Tokens are the model's own, from its own tokenizer.",
        "parameters": REQUEST_HEADERS,
        "security": secured,
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": ref("EmbeddingsRequest"), "example": {"input": "a text", "model": "any"}}},
        },
        "responses": _responses(_answered(ref("Embeddings")), [*failures, *RUNS_THE_MODEL], "OpenAI"),
    }


def _answered(schema: Schema) -> dict[str, Any]:
    return {
        "description": "The answer.",
        "headers": {"Server-Timing": ref("Server-Timing", "headers")},
        "content": {JSON: {"schema": schema}},
    }


def _components(facts: Facts) -> dict[str, Any]:
    names = [name for name in FAILURES if facts.has_key or name != "Unauthorized"]
    openai = _failures("OpenAI", "OpenAIError", names) if facts.has_embeddings else {}
    components: dict[str, Any] = {
        "schemas": _schemas(facts),
        "headers": {name: header for name, header in HEADERS.items() if facts.has_key or name != "WWW-Authenticate"},
        "responses": _failures("", "Error", names) | openai,
    }
    if facts.has_key:
        components["securitySchemes"] = {"apiKey": {"type": "http", "scheme": "bearer"}}
    return components


def _schemas(facts: Facts) -> dict[str, Schema]:
    name, item = ITEMS[facts.name]
    return {
        "Request": _request(facts),
        "Input": input_schema(facts),
        **parameter_schemas(facts),
        "Answer": {"anyOf": answers(facts.name)},
        name: item,
        **(_embeddings_schemas(facts) if facts.has_embeddings else {}),
        "Error": structure({"error": TEXT, "error_type": TEXT}),
        "State": structure({"status": {"const": "ok"}}),
        "Info": INFO,
        "SpeedUp": SPEED_UP,
    }


def _request(facts: Facts) -> Schema:
    """What clients of the hosted API send besides, and what means nothing here, is taken, too."""
    one, parameters = ref("Input"), ref("Parameters")
    known = parameter_schemas(facts)["Parameters"]
    must_have = bool(known.get("required"))
    properties = {
        "inputs": {"anyOf": [one, {**array(one), "minItems": 1, "maxItems": facts.max_inputs}]},
        "parameters": parameters if must_have else nullable(parameters),
        "options": {"description": "Of the hosted API; it means nothing here."},
        "stream": {"enum": [False, None], "description": "The whole answer comes at once."},
    }
    optional = ("options", "stream") if must_have else ("parameters", "options", "stream")
    request = structure(properties, *optional)
    if facts.task.at_root:
        request["properties"] |= known["properties"]
    return {**request, "additionalProperties": False}


def _embeddings_schemas(facts: Facts) -> dict[str, Schema]:
    base64_or_numbers = {"anyOf": [NUMBERS, {**TEXT, "contentEncoding": "base64"}]}
    item = structure({"object": {"const": "embedding"}, "index": WHOLE, "embedding": base64_or_numbers})
    usage = structure({"prompt_tokens": WHOLE, "total_tokens": WHOLE})
    openai = structure({"message": TEXT, "type": TEXT, "param": {"type": "null"}, "code": {"type": "null"}})
    return {
        "EmbeddingsRequest": _embeddings_request(facts),
        "Embeddings": structure({"object": {"const": "list"}, "data": array(item), "model": TEXT, "usage": usage}),
        "OpenAIError": structure({"error": openai, "error_type": TEXT}),
    }


def _embeddings_request(facts: Facts) -> Schema:
    """Tokens are the model's own, no more than it takes, and there is no empty input."""
    token = {**WHOLE, "minimum": 0, "exclusiveMaximum": facts.described.get("vocabulary", 2**31)}
    text, tokens = SOME, {**array(token), "minItems": 1, "maxItems": facts.described.get("max_tokens") or 2**31}
    several = {"minItems": 1, "maxItems": facts.max_inputs}
    schema = EmbeddingsRequest.model_json_schema()
    schema["properties"] = {name: nullable(_bare(part)) for name, part in schema["properties"].items()}
    schema["properties"]["input"] = {"anyOf": [text, tokens, array(text) | several, array(tokens) | several]}
    return _bare(schema)


def _bare(schema: Schema) -> Schema:
    """Without what only pydantic says."""
    return {name: value for name, value in schema.items() if name not in {"title", "description", "default"}}


def _failures(prefix: str, schema: str, names: list[str]) -> dict[str, Any]:
    responses = {}
    for name in names:
        status, kinds, when = FAILURES[name]
        told = {"allOf": [ref(schema), {"properties": {"error_type": {"enum": kinds}}}]}
        headers = {"X-Request-ID": ref("X-Request-ID", "headers")}
        headers |= {"Retry-After": ref("Retry-After", "headers")} if status == 503 else {}
        headers |= {"WWW-Authenticate": ref("WWW-Authenticate", "headers")} if status == 401 else {}
        responses[prefix + name] = {"description": when, "headers": headers, "content": {JSON: {"schema": told}}}
    return responses
