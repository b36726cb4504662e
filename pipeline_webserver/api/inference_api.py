"""The wire contract of `POST /`, pure: request bytes to inputs and parameters, outputs to JSON bytes.

A body that is the input itself, a text or a file, is answered with what `pipe(input)` returns. JSON is the form of the
Hugging Face Inference API, answered in the shape that `huggingface_hub.InferenceClient` parses. It must never know
Starlette, the queue or the model, nor any one task.
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline_webserver.api.bodies import Body, read_body
from pipeline_webserver.api.codec import JSON, read_json, to_json
from pipeline_webserver.api.parameters import check_parameters
from pipeline_webserver.api.tasks import InputKind, Task
from pipeline_webserver.errors import Malformed, Rejected, TooLarge, UnsupportedMediaType

DATA_URL = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """The inputs of a request, the pipeline's parameters for them, and the form of the answer.

    An input is a text, a pair `{"text", "text_pair"}`, the bytes of a file, or a table `{"table", "query"}`.
    `is_json`: the JSON form. `is_list`: a list of inputs, even of one.
    """

    inputs: list[Any]
    parameters: dict[str, object]
    is_json: bool
    is_list: bool


# Requests


def parse(body: bytes, content_type: str, task: Task, max_inputs: int) -> InferenceRequest:
    """Raises `Malformed`, `Rejected`, `TooLarge` or `UnsupportedMediaType`."""
    given = read_body(body, content_type)
    if given.is_json:
        return _parse_json(given.content, task, max_inputs)
    inputs = [_raw(given, task)]
    return InferenceRequest(inputs, _checked({}, task), is_json=False, is_list=False)


def _raw(body: Body, task: Task) -> object:
    """The body as the input. Most media types mean nothing."""
    input_kind = task.input_kind
    kind = body.media_type.partition("/")[0]
    if input_kind == "table":
        raise UnsupportedMediaType(f"This pipeline takes a table with a question, as {JSON}.")
    if kind in {"image", "audio", "video", "text"} - {input_kind}:
        wanted = "text" if input_kind == "text" else f"{input_kind}/*"
        raise UnsupportedMediaType(f"This pipeline takes {wanted}, not {body.media_type}.")
    if body.is_field or input_kind == "text":
        return READERS[input_kind](body.text(), task)
    return body.content


def _parse_json(body: bytes, task: Task, max_inputs: int) -> InferenceRequest:
    form = read_json(body)
    if not isinstance(form, dict) or "inputs" not in form:
        raise Malformed('The JSON form is {"inputs": one input or a list of them, "parameters": {...}}.')
    inputs = form.pop("inputs")
    is_list = isinstance(inputs, list)
    values = inputs if is_list else [inputs]
    if len(values) > max_inputs:
        raise TooLarge(f"The request has {len(values)} inputs; the limit is {max_inputs}.")
    read = READERS[task.input_kind]
    items = [read(value, task) for value in values]
    if not items:
        raise _wrong_type(task)
    parameters = _parameters(form, task) | ({"pooled": True} if task.pooled else {})
    return InferenceRequest(items, parameters, is_json=True, is_list=is_list)


def _parameters(form: dict[str, Any], task: Task) -> dict[str, object]:
    """The checked parameters of a form without its inputs. One that is given at both places is checked at both.

    `options` is the hosted API's own, and is ignored.
    """
    form.pop("options", None)
    stream = form.pop("stream", None)
    if stream is not None and stream is not False:  # 0 equals False, and is not of the form
        raise Rejected("'stream' must be false: this server answers when the whole answer is there.")
    parameters = form.pop("parameters", None)
    if parameters is not None and not isinstance(parameters, dict):
        raise Malformed("'parameters' must be an object.")
    if form and not task.parameters_at_root:
        raise Malformed(f"Unknown field {next(iter(form))!r}; the fields are 'inputs' and 'parameters'.")
    return (_checked(form, task) if form else {}) | _checked(parameters or {}, task)


def _checked(given: Mapping[str, Any], task: Task) -> dict[str, object]:
    return check_parameters(given, task.parameters, task.parameters_model)


# Inputs of the JSON form


def _wrong_type(task: Task) -> Malformed:
    wanted = WANTED[task.input_kind] + (' or a pair {"text": ..., "text_pair": ...}' if task.accepts_pairs else "")
    return Malformed(f"'inputs' must be {wanted}, or a list of such.")


def _text(value: object, task: Task) -> object:
    if isinstance(value, str) or (task.accepts_pairs and _has_texts(value, {"text", "text_pair"})):
        return value
    raise _wrong_type(task)


def _has_texts(value: object, names: set[str]) -> bool:
    return isinstance(value, dict) and value.keys() == names and all(isinstance(text, str) for text in value.values())


def _file(value: object, task: Task) -> bytes:
    """Base64, also in lines, as a data URL, or as the one field of an object, as clients send it."""
    if isinstance(value, dict) and value.keys() == {task.input_kind}:
        value = value[task.input_kind]
    if not isinstance(value, str):
        raise _wrong_type(task)
    scheme = DATA_URL.match(value)
    encoded = value[scheme.end() :] if scheme else value
    try:
        return base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Malformed(f"'inputs' is not base64: it must be {WANTED[task.input_kind]}.") from None


def _table(value: object, task: Task) -> dict[str, object]:
    """The question has the specification's name or the client's: `question` or `query`."""
    if not isinstance(value, dict) or not isinstance(value.get("table"), dict):
        raise _wrong_type(task)
    query = value.get("question", value.get("query"))
    if len(value) != 2 or not isinstance(query, str) or not all(map(_is_column, value["table"].values())):
        raise _wrong_type(task)
    return {"table": value["table"], "query": query}


def _is_column(cells: object) -> bool:
    return isinstance(cells, list) and all(isinstance(cell, str) for cell in cells)


READERS: Mapping[InputKind, Callable[[object, Task], object]] = {
    "text": _text,
    "image": _file,
    "audio": _file,
    "table": _table,
}
WANTED: Mapping[InputKind, str] = {
    "text": "a text",
    "image": "the base64 of an image file",
    "audio": "the base64 of an audio file",
    "table": '{"question": a text, "table": {column: [texts]}}',
}


# What a client has.
SENT: Mapping[InputKind, str] = {
    "text": "your text",
    "image": "your image",
    "audio": "your recording",
    "table": "your table and question",
}


def how_to_send(task: Task, path: str) -> str:
    """In one sentence, what a client sends to the route of this path."""
    required = "".join(f" and {name}" for name in task.required_parameters)
    form = f" as {JSON}" if required or task.input_kind == "table" else ""
    return f"Send {SENT[task.input_kind]}{required}{form} with POST to {path}."


# Answers


def render(request: InferenceRequest, outputs: list[Any], task: Task) -> bytes:
    """The answer as JSON; `outputs` are the pipeline's, one for each input."""
    if not request.is_json:
        return to_json(outputs[0])
    reshaped = [task.reshape_output(output) for output in outputs]
    is_list = request.is_list and not (task.unwraps_one and len(outputs) == 1)
    return to_json(reshaped if is_list or task.always_list(outputs[0]) else reshaped[0])
