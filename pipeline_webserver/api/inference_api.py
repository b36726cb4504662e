"""The wire contract, pure: request bytes to inputs and parameters, outputs to JSON bytes.

A body of any type but JSON is the input itself, a text or a file, and is answered with what `pipe(input)` returns. JSON
is the form of the Hugging Face Inference API, answered in the shape that `huggingface_hub.InferenceClient` parses. It
must never know Starlette, the queue or the model.
"""

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from pipeline_webserver.api.tasks import Kind, Task, check
from pipeline_webserver.errors import Malformed, Rejected, TooLarge, UnsupportedMediaType

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Work:
    """What a request asks for: its inputs, the pipeline's parameters, and the form that the answer takes.

    An input is a text, a pair `{"text", "text_pair"}`, the bytes of a file, a table `{"table", "query"}`, or tokens.
    """

    inputs: list[Any]
    parameters: dict[str, object]
    is_json: bool
    is_list: bool


# Requests


def parse(body: bytes, content_type: str, task: Task, max_inputs: int) -> Work:
    """Raises `Malformed`, `Rejected`, `TooLarge` or `UnsupportedMediaType`."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == JSON:
        return _parse_json(body, task, max_inputs)
    return Work([_raw(body, media_type, task.takes)], check({}, task), is_json=False, is_list=False)


def _raw(body: bytes, media_type: str, takes: Kind) -> object:
    """The body as the input. Most types say nothing: curl's default is a form's."""
    kind = media_type.partition("/")[0]
    if takes == "table":
        raise UnsupportedMediaType(f"This pipeline takes a table with a question, as {JSON}.")
    if kind in {"image", "audio", "video", "text"} - {takes}:
        takes_what = "text" if takes == "text" else f"{takes}/*"
        raise UnsupportedMediaType(f"This pipeline takes {takes_what}, not {media_type}.")
    if takes != "text":
        return body
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"The body is not UTF-8: {error.reason} at byte {error.start}.") from None


def _parse_json(body: bytes, task: Task, max_inputs: int) -> Work:
    form = read_json(body)
    if not isinstance(form, dict) or "inputs" not in form:
        raise Malformed('The JSON form is {"inputs": one input or a list of them, "parameters": {...}}.')
    inputs = form.pop("inputs")
    is_list = isinstance(inputs, list)
    values = inputs if is_list else [inputs]
    if len(values) > max_inputs:
        raise TooLarge(f"The request has {len(values)} inputs; the limit is {max_inputs}.")
    read = READERS[task.takes]
    items = [read(value, task) for value in values]
    if not items:
        raise _wrong(task)
    parameters = _parameters(form, task) | ({"pooled": True} if task.pooled else {})
    return Work(items, parameters, is_json=True, is_list=is_list)


def read_json(body: bytes) -> Any:
    """Raises `Malformed`."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"The body is not JSON: {error}.") from None


def _parameters(form: dict[str, Any], task: Task) -> dict[str, object]:
    """The checked parameters of a form without its inputs; what stands twice is checked twice.

    `options` is the hosted API's own, and means nothing here.
    """
    form.pop("options", None)
    stream = form.pop("stream", None)
    if stream is not None and stream is not False:  # 0 equals False, and is none of the form
        raise Rejected("'stream' must be false: this server answers when the whole answer is there.")
    parameters = form.pop("parameters", None)
    if parameters is not None and not isinstance(parameters, dict):
        raise Malformed("'parameters' must be an object.")
    if form and not task.at_root:
        raise Malformed(f"Unknown field {next(iter(form))!r}; the fields are 'inputs' and 'parameters'.")
    return (check(form, task) if form else {}) | check(parameters or {}, task)


# Inputs of the JSON form


def _wrong(task: Task) -> Malformed:
    wanted = WANTED[task.takes] + (' or a pair {"text": ..., "text_pair": ...}' if task.takes_pairs else "")
    return Malformed(f"'inputs' must be {wanted}, or a list of such.")


def _text(value: object, task: Task) -> object:
    if isinstance(value, str) or (task.takes_pairs and _has_texts(value, {"text", "text_pair"})):
        return value
    raise _wrong(task)


def _has_texts(value: object, names: set[str]) -> bool:
    return isinstance(value, dict) and value.keys() == names and all(isinstance(text, str) for text in value.values())


def _file(value: object, task: Task) -> bytes:
    if not isinstance(value, str):
        raise _wrong(task)
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise Malformed(f"'inputs' is not base64: it must be {WANTED[task.takes]}.") from None


def _table(value: object, task: Task) -> dict[str, object]:
    """A question by the specification's name or by the client's: `question` or `query`."""
    if not isinstance(value, dict) or not isinstance(value.get("table"), dict):
        raise _wrong(task)
    query = value.get("question", value.get("query"))
    if len(value) != 2 or not isinstance(query, str) or not all(map(_is_column, value["table"].values())):
        raise _wrong(task)
    return {"table": value["table"], "query": query}


def _is_column(cells: object) -> bool:
    return isinstance(cells, list) and all(isinstance(cell, str) for cell in cells)


READERS: Mapping[Kind, Callable[[object, Task], object]] = {
    "text": _text,
    "image": _file,
    "audio": _file,
    "table": _table,
}
WANTED: Mapping[Kind, str] = {
    "text": "a text",
    "image": "the base64 of an image file",
    "audio": "the base64 of an audio file",
    "table": '{"question": a text, "table": {column: [texts]}}',
}


# Answers


def render(work: Work, outputs: list[Any], task: Task) -> bytes:
    """The outputs, one for each input, as JSON."""
    answer: Any = outputs[0]
    if work.is_json:
        shaped = [task.shape(output) for output in outputs]
        answer = shaped if work.is_list or task.answers_list(outputs[0]) else shaped[0]
    return to_json(answer)


def to_json(value: object) -> bytes:
    """Plain values, and numpy's, as JSON."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
