"""What a body is, by its header and its content: JSON, or an input itself, a text or a file.

It is decided here and nowhere else. Most clients name no type, or one that means nothing: curl's default is a form's.
It must never know Starlette, what JSON means, nor any one task.
"""

import codecs
from dataclasses import dataclass, replace
from email.message import Message
from typing import Any
from urllib.parse import parse_qsl

import orjson
from python_multipart import FormParser, create_form_parser
from python_multipart.exceptions import FormParserError

from pipeline_webserver.api.codec import BYTE_ORDER_MARK, JSON
from pipeline_webserver.errors import Malformed, UnsupportedMediaType

FORM, MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data"
# The field of a form, and of the JSON form, that has the input.
INPUTS = "inputs"
# Of Python's codecs, those that are no charset: some are slow, or mean something else than the bytes say.
NO_CHARSETS = {"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape"}


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes of a body and what they are: JSON, or an input of a media type, which may be empty.

    `is_field`: the text of a form's field, where a file is in base64, as in JSON.
    """

    content: bytes
    is_json: bool
    media_type: str = ""
    charset: str = "utf-8"
    is_field: bool = False

    def text(self) -> str:
        """The input as a text. Raises `Malformed` or `UnsupportedMediaType`."""
        try:
            text = self.content.decode(_codec(self.charset))
        except LookupError:
            raise UnsupportedMediaType(f"The charset {self.charset[:40]!r} is not known; UTF-8 is.") from None
        except UnicodeDecodeError as error:
            name = "UTF-8" if self.charset == "utf-8" else self.charset
            raise Malformed(f"The body is not {name}: {error.reason} at byte {error.start}.") from None
        return text.removeprefix("\ufeff")


def _codec(charset: str) -> str:
    """Raises `LookupError`."""
    try:
        name = codecs.lookup(charset).name
    except ValueError:  # a NUL in it
        raise LookupError from None
    if name in NO_CHARSETS:
        raise LookupError
    return name


def read_body(content: bytes, content_type: str) -> Body:
    """Raises `Malformed` for an empty body or a broken form, `UnsupportedMediaType` for a form of several fields."""
    if not content:
        raise Malformed(f'The body is empty: send the input itself, or {{"{INPUTS}": ...}} as {JSON}.')
    media_type, charset = _parse_type(content_type)
    if media_type in {JSON, "text/json"} or media_type.endswith("+json"):
        return Body(content, is_json=True)
    if media_type == MULTIPART:
        return _only_part(content, content_type)
    if media_type in {FORM, ""} and _is_json_form(content):
        return Body(content, is_json=True)
    if media_type == FORM and _is_form(content):
        return _field(_only_field(content), "")
    return Body(content, is_json=False, media_type=media_type, charset=charset)


def _parse_type(content_type: str) -> tuple[str, str]:
    """The media type in lower case, empty without one, and the charset."""
    header = Message()
    header["Content-Type"] = content_type
    media_type = content_type.partition(";")[0].strip().lower()
    charset = header.get_param("charset", "utf-8")
    return media_type, str(charset).strip().lower()


def _is_json_form(content: bytes) -> bool:
    """Whether it is a JSON object with inputs, and not a text that merely begins with a brace."""
    content = content.removeprefix(BYTE_ORDER_MARK)
    if not content.lstrip().startswith(b"{"):
        return False
    try:
        value: Any = orjson.loads(content)
    except orjson.JSONDecodeError:
        return False
    return isinstance(value, dict) and INPUTS in value


def _is_form(content: bytes) -> bool:
    """Whether it has the field for the input, and is not a text with that in it: encoded forms have no white space."""
    name = f"{INPUTS}=".encode()
    return content.startswith(name) or (b"&" + name in content and len(content.split(None, 1)) == 1)


def _only_field(content: bytes) -> bytes:
    """The value of `inputs` in a form that has no other field."""
    try:
        fields = parse_qsl(content.decode(), keep_blank_values=True, errors="strict", max_num_fields=2)
    except UnicodeDecodeError as error:
        raise Malformed(f"The form is not UTF-8: {error.reason}.") from None
    except ValueError:  # more fields
        fields = []
    if len(fields) != 1:
        raise UnsupportedMediaType(
            f"A form has one field, {INPUTS!r}, with %26 for each & in it; send parameters as {JSON}."
        )
    return fields[0][1].encode()


def _field(value: bytes, content_type: str) -> Body:
    """What a form's field is; it seldom has a type."""
    return replace(read_body(value, content_type), is_field=True)


def _only_part(content: bytes, content_type: str) -> Body:
    """The one field or file of a multipart body."""
    parts: list[Body] = []

    def add(part: Any) -> None:
        if parts:
            raise UnsupportedMediaType(f"A multipart body has one field or file; send parameters as {JSON}.")
        parts.append(part)

    try:
        _parse_multipart(content, content_type, add)
    except FormParserError as error:
        raise Malformed(f"The multipart body is broken: {error}") from None
    if not parts:
        raise Malformed("The multipart body has no field and no file, or is cut off.")
    return parts[0]


def _parse_multipart(content: bytes, content_type: str, add: Any) -> None:
    def on_field(field: Any) -> None:
        add(_field(field.value or b"", field.content_type or ""))

    def on_file(file: Any) -> None:
        file.file_object.seek(0)
        add(read_body(file.file_object.read(), file.content_type or ""))

    headers = {"Content-Type": content_type.encode("latin-1", "replace")}
    in_memory = {"MAX_MEMORY_FILE_SIZE": len(content) + 1}
    parser: FormParser = create_form_parser(headers, on_field, on_file, config=in_memory)
    parser.write(content)
    parser.finalize()
