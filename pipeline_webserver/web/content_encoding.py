"""Compressed bodies, decoded within the limit that bodies have. It must never know routes, or what a body means."""

import gzip
import io
import zlib
from collections.abc import Callable, Mapping

from pipeline_webserver.errors import Malformed, TooLarge, UnsupportedMediaType

ACCEPTED = "gzip, deflate"
# A client that encodes twice gains nothing; one that does so a hundred times wants us to work.
MAX_ENCODINGS = 2
# Of gzip: parallel compressors write a member for every 64 KiB or so. Each takes microseconds, even an empty one.
MAX_MEMBERS = 1024
MEMBER = b"\x1f\x8b\x08"


def decode_body(body: bytes, content_encoding: str, max_bytes: int) -> bytes:
    """The body without the encodings of its header. Raises `Malformed`, `TooLarge` or `UnsupportedMediaType`."""
    names = [name for part in content_encoding.split(",") if (name := part.strip().lower()) not in {"", "identity"}]
    unknown = [name for name in names if name not in DECODERS]
    if unknown or len(names) > MAX_ENCODINGS:
        what = f"The Content-Encoding {unknown[0]!r} is not known" if unknown else "The body has too many encodings"
        raise UnsupportedMediaType(f"{what}; send it plain, or as {ACCEPTED}.", ACCEPTED)
    for name in reversed(names):
        body = _decode(body, name, max_bytes)
    return body


def _decode(body: bytes, name: str, max_bytes: int) -> bytes:
    try:
        decoded = DECODERS[name](body, max_bytes + 1)
    except EOFError:
        raise Malformed(f"The body ends in the middle of its {name} data.") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise Malformed(f"The body is not {name}: {error}.") from None
    if len(decoded) > max_bytes:
        raise TooLarge(f"The body has over {max_bytes} bytes once it is decompressed; the limit is {max_bytes}.")
    return decoded


def _gunzip(body: bytes, max_bytes: int) -> bytes:
    """Of all members, the first `max_bytes`."""
    if body.count(MEMBER) > MAX_MEMBERS:
        raise Malformed(f"The body has over {MAX_MEMBERS} gzip members.")
    return gzip.GzipFile(fileobj=io.BytesIO(body)).read(max_bytes)


def _inflate(body: bytes, max_bytes: int) -> bytes:
    """Many clients send `deflate` without the header of zlib."""
    try:
        return _inflate_window(body, max_bytes, zlib.MAX_WBITS)
    except zlib.error:
        return _inflate_window(body, max_bytes, -zlib.MAX_WBITS)


def _inflate_window(body: bytes, max_bytes: int, window: int) -> bytes:
    decoder = zlib.decompressobj(window)
    decoded = decoder.decompress(body, max_bytes)
    if len(decoded) < max_bytes and not decoder.eof:
        raise EOFError
    if decoder.unused_data:
        raise zlib.error(f"{len(decoder.unused_data)} bytes are behind its end")
    return decoded


DECODERS: Mapping[str, Callable[[bytes, int], bytes]] = {"gzip": _gunzip, "x-gzip": _gunzip, "deflate": _inflate}
