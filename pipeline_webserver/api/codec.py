"""JSON as bytes, both ways, and the form of a time-out: what all routes share. It must never know what values mean."""

import codecs
from typing import Any

import orjson

from pipeline_webserver.errors import Malformed

# The media type.
JSON = "application/json"
# Some editors and shells begin UTF-8 with it.
BYTE_ORDER_MARK = codecs.BOM_UTF8
# Seconds over 0, as the header `X-Request-Timeout` has them; ECMA-262 and Python read it alike.
TIMEOUT_PATTERN = r"^(?=[0-9.]*[1-9])[0-9]{1,9}(\.[0-9]{1,9})?$"


def read_json(body: bytes) -> Any:
    """The value of a UTF-8 body. Raises `Malformed`."""
    try:
        return orjson.loads(body.removeprefix(BYTE_ORDER_MARK))
    except orjson.JSONDecodeError as error:
        raise Malformed(f"The body is not JSON: {error}.") from None


def to_json(value: object) -> bytes:
    """UTF-8 JSON of plain values and of numpy's scalars and arrays."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
