"""Compressed bodies: decoded within the limit, or an error that names what is taken."""

import gzip
import zlib

import pytest
from starlette.testclient import TestClient

from pipeline_webserver.errors import Malformed, PipelineServerError, TooLarge, UnsupportedMediaType
from pipeline_webserver.web.content_encoding import MAX_MEMBERS, decode_body

TEXT = b"a text " * 10


def gzipped(body: bytes) -> bytes:
    """Without the time, so that the names of the tests are the same in each worker."""
    return gzip.compress(body, mtime=0)


def raw_deflate(body: bytes) -> bytes:
    encoder = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return encoder.compress(body) + encoder.flush()


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (TEXT, ""),
        (TEXT, "identity"),
        (gzipped(TEXT), "gzip"),
        (gzipped(TEXT), "X-GZIP"),
        (zlib.compress(TEXT), "deflate"),
        (raw_deflate(TEXT), "deflate"),
        (gzipped(zlib.compress(TEXT)), "deflate, gzip"),
        (gzipped(TEXT), "identity, gzip"),
        (gzipped(TEXT[:9]) + gzipped(TEXT[9:]), "gzip"),
        (gzipped(TEXT[:9]) + gzipped(b"") + gzipped(TEXT[9:]) + bytes(512), "gzip"),
        (gzipped(b"") * (MAX_MEMBERS - 1) + gzipped(TEXT), "gzip"),
    ],
)
def test_what_is_compressed_is_decompressed(body: bytes, encoding: str) -> None:
    assert decode_body(body, encoding, len(TEXT)) == TEXT


@pytest.mark.parametrize(
    ("body", "encoding", "error", "words"),
    [
        (gzipped(b"a" * 71), "gzip", TooLarge, "over 70 bytes once it is decompressed; the limit is 70."),
        (gzipped(bytes(10_000_000)), "gzip", TooLarge, "has over 70 bytes"),
        (gzipped(TEXT)[:-9], "gzip", Malformed, "The body ends in the middle of its gzip data."),
        (gzipped(TEXT) + gzipped(b"")[:15], "gzip", Malformed, "ends in the middle of its gzip data."),
        (gzipped(TEXT) + b"more", "gzip", Malformed, "The body is not gzip: Not a gzipped file (b'mo')."),
        (gzipped(b"a" * 40) * 2, "gzip", TooLarge, "has over 70 bytes once it is decompressed"),
        (gzipped(b"") * (MAX_MEMBERS + 1), "gzip", Malformed, "The body has over 1024 gzip members."),
        (zlib.compress(TEXT) + b"more", "deflate", Malformed, "The body is not deflate: "),
        (raw_deflate(TEXT) + b"more", "deflate", Malformed, "is not deflate: 4 bytes are behind its end."),
        (zlib.compress(TEXT)[:-9], "deflate", Malformed, "The body ends in the middle of its deflate data."),
        (b"", "deflate", Malformed, "The body ends in the middle of its deflate data."),
        (TEXT, "gzip", Malformed, "The body is not gzip: Not a gzipped file (b'a ')."),
        (TEXT, "deflate", Malformed, "The body is not deflate: "),
        (TEXT, "br", UnsupportedMediaType, "'br' is not known; send it plain, or as gzip, deflate."),
        (TEXT, "gzip, zstd", UnsupportedMediaType, "The Content-Encoding 'zstd' is not known"),
        (TEXT, "gzip, gzip, gzip", UnsupportedMediaType, "The body has too many encodings"),
    ],
)  # fmt: skip
def test_what_cannot_be_decompressed_within_the_limit_is_an_error(
    body: bytes, encoding: str, error: type[PipelineServerError], words: str
) -> None:
    with pytest.raises(error) as raised:
        decode_body(body, encoding, len(TEXT))
    assert words in str(raised.value)


def test_a_server_answers_compressed_bodies_as_plain_ones(client: TestClient) -> None:
    response = client.post("/", content=gzipped(b"some text"), headers={"Content-Encoding": "gzip"})
    assert (response.status_code, response.json()) == (200, "SOME TEXT")


def test_an_encoding_that_is_not_known_is_a_415_that_names_the_others(client: TestClient) -> None:
    response = client.post("/", content=b"a", headers={"Content-Encoding": "br"})
    assert (response.status_code, response.headers["accept-encoding"]) == (415, "gzip, deflate")


def test_a_bomb_is_a_413_and_never_held_in_memory(client: TestClient) -> None:
    response = client.post("/", content=gzipped(bytes(50_000))[:100], headers={"Content-Encoding": "gzip"})
    assert (response.status_code, response.json()["error_type"]) == (413, "too_large")


def test_nothing_under_an_encoding_is_an_empty_body(client: TestClient) -> None:
    response = client.post("/", content=b"", headers={"Content-Encoding": "gzip"})
    assert (response.status_code, response.json()["error"][:18]) == (400, "The body is empty:")
