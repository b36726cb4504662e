"""Compressed bodies, decoded within the limit that bodies have. It must never know routes, or what a body means."""

import zlib

from pipeline_webserver.errors import Malformed, TooLarge, UnsupportedMediaType

# What is decoded, and the window sizes by which zlib tells them apart; many clients send `deflate` without its header.
WINDOWS = {
    "gzip": (16 + zlib.MAX_WBITS,),
    "x-gzip": (16 + zlib.MAX_WBITS,),
    "deflate": (zlib.MAX_WBITS, -zlib.MAX_WBITS),
}
ACCEPTED = "gzip, deflate"
# A client that encodes twice gains nothing; one that does so a hundred times wants us to work.
MAX_ENCODINGS = 2


def decode_body(body: bytes, content_encoding: str, max_bytes: int) -> bytes:
    """The body without the encodings of its header. Raises `Malformed`, `TooLarge` or `UnsupportedMediaType`."""
    names = [name for part in content_encoding.split(",") if (name := part.strip().lower()) not in {"", "identity"}]
    unknown = [name for name in names if name not in WINDOWS]
    if unknown or len(names) > MAX_ENCODINGS:
        what = f"The Content-Encoding {unknown[0]!r} is not known" if unknown else "The body has too many encodings"
        raise UnsupportedMediaType(f"{what}; send it plain, or as {ACCEPTED}.", ACCEPTED)
    for name in reversed(names):
        body = _decompress(body, name, max_bytes)
    return body


def _decompress(body: bytes, name: str, max_bytes: int) -> bytes:
    error: Exception | None = None
    for window in WINDOWS[name]:
        decoder = zlib.decompressobj(window)
        try:
            decoded = decoder.decompress(body, max_bytes + 1)
        except zlib.error as found:
            error = found
            continue
        if len(decoded) > max_bytes:
            raise TooLarge(f"The body has over {max_bytes} bytes once it is decompressed; the limit is {max_bytes}.")
        if not decoder.eof:
            raise Malformed(f"The body ends in the middle of its {name} data.")
        return decoded
    raise Malformed(f"The body is not {name}: {error}.")
