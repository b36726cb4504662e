"""What a body is: each row of the documents' table, and what is beside it."""

import json
from typing import Any

import pytest

from pipeline_webserver.api.bodies import FORM, Body, read_body
from pipeline_webserver.api.inference_api import parse
from pipeline_webserver.api.tasks import TASKS
from pipeline_webserver.errors import Malformed, PipelineServerError, UnsupportedMediaType
from tests.support.documents import table

TEXT, IMAGE = TASKS["text-classification"], TASKS["image-classification"]
ENVELOPE = json.dumps({"inputs": "I love it"}).encode()
BOUNDARY = "multipart/form-data; boundary=X"


def part(content: bytes, name: str = "inputs", more: str = "") -> bytes:
    return f'--X\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + content + b"\r\n"


def file(content: bytes, media_type: str) -> bytes:
    return part(content, more=f'; filename="a"\r\nContent-Type: {media_type}')


BOM = b"\xef\xbb\xbf"
UTF_16 = "\r\nContent-Type: text/plain; charset=utf-16"
ONE_FIELD = part(b"I love it") + b"--X--\r\n"


# The table of docs/call/http.md: the types, what the body is, and for each part of that a body with what is read of it.
BODIES: dict[str, tuple[str, list[tuple[str, bytes, object]]]] = {
    "`application/json`, `text/json`, `*+json`": (
        "the JSON form",
        [(kind, ENVELOPE, "I love it") for kind in ("application/json", "text/json", "application/ld+json")],
    ),
    "none, or `application/x-www-form-urlencoded` (curl's default)": (
        "the JSON form if it is a JSON object with `inputs`; the field of a form if it has `inputs=`, with other "
        "fields 415; else the input itself",
        [
            ("", ENVELOPE, "I love it"),
            (FORM, ENVELOPE, "I love it"),
            (FORM, b"inputs=I+love+it", "I love it"),
            (FORM, b"inputs=I+love+it&top_k=1", UnsupportedMediaType),
            (FORM, b"top_k=1&inputs=I+love+it", UnsupportedMediaType),
            (FORM, b"I+love+it", "I+love+it"),
            ("", b"inputs=I+love+it", "inputs=I+love+it"),
        ],
    ),
    "`multipart/form-data`": (
        "its one field or file; with several, 415",
        [
            (BOUNDARY, ONE_FIELD, "I love it"),
            (BOUNDARY, file(b"I love it", "text/plain") + b"--X--\r\n", "I love it"),
            (BOUNDARY, part(b"a") + ONE_FIELD, UnsupportedMediaType),
        ],
    ),
    "`text/plain` and any other": (
        "the input itself, in the `charset` of the type or UTF-8",
        [
            ("text/plain", ENVELOPE, ENVELOPE.decode()),
            ("text/plain", "é".encode(), "é"),
            ("text/plain; charset=latin-1", b"\xe9", "é"),
            ("application/x-any", b"I love it", "I love it"),
        ],
    ),
    "`image/*`, `audio/*`, `video/*`, `text/*` of another kind than the task's": (
        "415",
        [(kind, b"a", UnsupportedMediaType) for kind in ("image/png", "audio/wav", "video/mp4")],
    ),
}


def test_the_table_of_bodies_is_this_one() -> None:
    assert table("docs/call/http.md", "Bodies") == [[types, meaning] for types, (meaning, _) in BODIES.items()]


@pytest.mark.parametrize(
    ("content_type", "body", "wanted"), [example for _, examples in BODIES.values() for example in examples]
)
def test_each_cell_of_the_table_is_what_happens(content_type: str, body: bytes, wanted: Any) -> None:
    if isinstance(wanted, str):
        assert parse(body, content_type, TEXT, 1).inputs == [wanted]
    else:
        with pytest.raises(wanted):
            parse(body, content_type, TEXT, 1)


def test_a_text_is_not_of_the_kind_that_a_task_on_files_takes() -> None:
    with pytest.raises(UnsupportedMediaType, match=r"^This pipeline takes image/\*, not text/plain\.$"):
        parse(b"a", "text/plain", IMAGE, 1)


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
        (FORM, BOM + ENVELOPE),
        ("application/json", BOM + ENVELOPE),
        ("application/json; charset=undefined", ENVELOPE),
        (FORM, b"inputs=I+love%20it"),
        (FORM, b"inputs=I love it"),
        (FORM, b"inputs=%7B%22inputs%22%3A+%22I+love+it%22%7D"),
        ("application/x-www-form-urlencoded; charset=utf-8", b"inputs=I%20love%20it"),
        (BOUNDARY, ONE_FIELD),
        (BOUNDARY, file(b"I love it", "text/plain") + b"--X--\r\n"),
        (BOUNDARY, file(ENVELOPE, "application/json") + b"--X--\r\n"),
        (BOUNDARY, part(ENVELOPE, more="\r\nContent-Type: application/json") + b"--X--\r\n"),
        (BOUNDARY, part(ENVELOPE, "data") + b"--X--\r\n"),
        (BOUNDARY, part("I love it".encode("utf-16"), more=UTF_16) + b"--X--\r\n"),
        (BOUNDARY, part(b"I love it", more="\r\nContent-Type: text/plain") + b"--X--\r\n"),
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
        (FORM, b"a&inputs=b is a query"),
        (FORM, b"a=1&b=2"),
        ("text/plain", b"inputs=1"),
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
        ("application/json", b'{"inputs": "DATA:image/png;name=a.png;BASE64,iVBO\\nRw=="}'),
        (FORM, b"inputs=iVBORw%3D%3D"),
        (FORM, b"inputs=data%3Aimage%2Fpng%3Bbase64%2CiVBORw%3D%3D"),
        (BOUNDARY, part(b"iVBO\r\nRw==\r\n") + b"--X--\r\n"),
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
        (
            FORM,
            b"inputs=a&b=1",
            UnsupportedMediaType,
            "A form has one field, 'inputs', with %26 for each & in it; send parameters as",
        ),
        (FORM, b"inputs=a&b=1&c=2", UnsupportedMediaType, "A form has one field"),
        (FORM, b"top_k=2&inputs=I+love+it", UnsupportedMediaType, "A form has one field"),
        (FORM, b"inputs=AT&T is great", UnsupportedMediaType, "with %26 for each & in it"),
        (FORM, b"inputs=caf%E9", Malformed, "The form is not UTF-8: unexpected end of data."),
        (FORM, b"inputs=caf\xe9", Malformed, "The form is not UTF-8: unexpected end of data."),
        (FORM, b"inputs=", Malformed, "The body is empty"),
        (BOUNDARY, part(b"a") + part(b"1", "top_k") + b"--X--\r\n", UnsupportedMediaType, "has one field or file"),
        (BOUNDARY, part(b"a") * 100 + b"--X--\r\n", UnsupportedMediaType, "has one field or file"),
        (BOUNDARY, ONE_FIELD[:40], Malformed, "has no field and no file, or is cut off."),
        (BOUNDARY, b"nothing of it", Malformed, "The multipart body is broken: "),
        ("multipart/form-data", ONE_FIELD, Malformed, "The multipart body is broken: "),
        (BOUNDARY, file(b"\x89PNG", "image/png") + b"--X--\r\n", UnsupportedMediaType, "takes text, not image/png."),
        (BOUNDARY, file(b"", "text/plain") + b"--X--\r\n", Malformed, "The body is empty"),
        *[
            (f"text/plain; charset={name}", b"a", UnsupportedMediaType, f"The charset '{name}' is not known; UTF-8 is.")
            for name in ("klingon", "undefined", "hex", "rot13", "idna", "punycode", "unicode_escape", "\u00e9")
        ],
        ("text/plain; charset=a\0b", b"a", UnsupportedMediaType, "is not known; UTF-8 is."),
        ("text/plain; charset=" + "x" * 999, b"a", UnsupportedMediaType, f"The charset {'x' * 40!r} is not known"),
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


def test_a_form_of_utf_8_without_percent_signs_is_read() -> None:
    assert parse("inputs=café".encode(), FORM, TEXT, 1).inputs == ["café"]


def test_base64_in_a_field_is_checked_as_in_json_and_a_table_is_no_field() -> None:
    with pytest.raises(Malformed, match="'inputs' is not base64: it must be the base64 of an image file"):
        parse(b"inputs=a!cat", FORM, IMAGE, 1)
    with pytest.raises(UnsupportedMediaType, match="takes a table with a question, as application/json"):
        parse(b"inputs=a", FORM, TASKS["table-question-answering"], 1)
