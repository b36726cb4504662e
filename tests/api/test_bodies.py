"""What a body is: each row of the README's table, and what is beside it."""

import json

import pytest

from pipeline_webserver.api.bodies import FORM, Body, read_body
from pipeline_webserver.api.inference_api import parse
from pipeline_webserver.api.tasks import TASKS
from pipeline_webserver.errors import Malformed, PipelineServerError, UnsupportedMediaType

TEXT, IMAGE = TASKS["text-classification"], TASKS["image-classification"]
ENVELOPE = json.dumps({"inputs": "I love it"}).encode()
BOUNDARY = "multipart/form-data; boundary=X"


def part(content: bytes, name: str = "inputs", more: str = "") -> bytes:
    return f'--X\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + content + b"\r\n"


def file(content: bytes, media_type: str) -> bytes:
    return part(content, more=f'; filename="a"\r\nContent-Type: {media_type}')


ONE_FIELD = part(b"I love it") + b"--X--\r\n"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", ENVELOPE),
        ("Application/JSON; charset=utf-8", ENVELOPE),
        ("text/json", ENVELOPE),
        ("application/vnd.api+json", ENVELOPE),
        ("", ENVELOPE),
        (FORM, ENVELOPE),
        (FORM, b"\n " + ENVELOPE),
        (FORM, b"inputs=I+love%20it"),
        ("application/x-www-form-urlencoded; charset=utf-8", b"inputs=I%20love%20it"),
        (BOUNDARY, ONE_FIELD),
        (BOUNDARY, file(b"I love it", "text/plain") + b"--X--\r\n"),
        (BOUNDARY, file(ENVELOPE, "application/json") + b"--X--\r\n"),
        ("", b"I love it"),
        (FORM, b"I love it"),
        ("text/plain", b"I love it"),
        ("text/plain; charset=utf-16", "I love it".encode("utf-16")),
        ("text/plain", b"\xef\xbb\xbfI love it"),
        ("application/octet-stream", b"I love it"),
        ("nonsense", b"I love it"),
    ],
)
def test_one_text_is_read_from_every_form_that_clients_send(content_type: str, body: bytes) -> None:
    assert parse(body, content_type, TEXT, 1).inputs == ["I love it"]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (FORM, b'{"a": 1} is an object'),
        (FORM, b'{"input": "I love it"}'),
        (FORM, b'["inputs"]'),
        (FORM, b"{curly"),
        (FORM, b"my inputs=1"),
        ("text/plain", ENVELOPE),
        ("application/octet-stream", ENVELOPE),
    ],
)
def test_what_merely_looks_like_a_form_is_a_text(content_type: str, body: bytes) -> None:
    assert parse(body, content_type, TEXT, 1).inputs == [body.decode()]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("image/png", b"\x89PNG"),
        ("", b"\x89PNG"),
        (FORM, b"\x89PNG"),
        ("application/octet-stream", b"\x89PNG"),
        (BOUNDARY, file(b"\x89PNG", "image/png") + b"--X--\r\n"),
        (BOUNDARY, file(b"\x89PNG", "application/octet-stream") + b"--X--\r\n"),
        ("application/json", b'{"inputs": "iVBORw=="}'),
        ("", b'{"inputs": "iVBORw=="}'),
        ("application/json", b'{"inputs": "iVBO\\nRw==\\n"}'),
        ("application/json", b'{"inputs": "iVBO\\r\\nRw=="}'),
        ("application/json", b'{"inputs": "data:image/png;base64,iVBORw=="}'),
        ("application/json", b'{"inputs": {"image": "iVBORw=="}}'),
    ],
)
def test_one_file_is_read_from_every_form_that_clients_send(content_type: str, body: bytes) -> None:
    assert parse(body, content_type, IMAGE, 1).inputs == [b"\x89PNG"]


@pytest.mark.parametrize(
    ("content_type", "body", "error", "words"),
    [
        ("", b"", Malformed, "The body is empty: send the input itself, or"),
        ("application/json", b"", Malformed, "The body is empty"),
        (BOUNDARY, part(b"") + b"--X--\r\n", Malformed, "The body is empty"),
        (FORM, b"inputs=a&b=1", UnsupportedMediaType, "A form has one field, 'inputs'; send parameters as"),
        (FORM, b"inputs=a&b=1&c=2", UnsupportedMediaType, "A form has one field"),
        (BOUNDARY, part(b"a") + part(b"1", "top_k") + b"--X--\r\n", UnsupportedMediaType, "has one field or file"),
        (BOUNDARY, part(b"a") * 100 + b"--X--\r\n", UnsupportedMediaType, "has one field or file"),
        (BOUNDARY, ONE_FIELD[:40], Malformed, "has no field and no file, or is cut off."),
        (BOUNDARY, b"nothing of it", Malformed, "The multipart body is broken: "),
        ("multipart/form-data", ONE_FIELD, Malformed, "The multipart body is broken: "),
        (BOUNDARY, file(b"\x89PNG", "image/png") + b"--X--\r\n", UnsupportedMediaType, "takes text, not image/png."),
        (BOUNDARY, file(b"", "text/plain") + b"--X--\r\n", Malformed, "The body is empty"),
        ("text/plain; charset=klingon", b"a", UnsupportedMediaType, "The charset 'klingon' is not known; UTF-8 is."),
        (
            "text/plain; charset=ascii",
            b"\xe9",
            Malformed,
            "The body is not ascii: ",
        ),
        ("text/plain", b"\xe9", Malformed, "The body is not UTF-8: unexpected end of data at byte 0."),
    ],
)
def test_what_cannot_be_told_is_an_error_that_says_what_to_send(
    content_type: str, body: bytes, error: type[PipelineServerError], words: str
) -> None:
    with pytest.raises(error) as raised:
        parse(body, content_type, TEXT, 1)
    assert words in str(raised.value)


def test_the_charset_of_a_text_is_that_of_its_type() -> None:
    latin = "text/plain; charset=ISO-8859-1"
    assert read_body(b"\xe9", latin) == Body(b"\xe9", is_json=False, media_type="text/plain", charset="iso-8859-1")
    assert parse(b"caf\xe9", latin, TEXT, 1).inputs == ["café"]
