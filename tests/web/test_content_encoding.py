"""Compressed bodies: decoded within the limit, or an error that names what is taken."""

import gzip
import zlib

import pytest
from starlette.testclient import TestClient

from pipeline_webserver.errors import Malformed, PipelineServerError, TooLarge, UnsupportedMediaType
from pipeline_webserver.web.content_encoding import decode_body

TEXT = b"a text " * 10


def raw_deflate(body: bytes) -> bytes:
    encoder = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return encoder.compress(body) + encoder.flush()


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (TEXT, ""),
        (TEXT, "identity"),
        (gzip.compress(TEXT), "gzip"),
        (gzip.compress(TEXT), "X-GZIP"),
        (zlib.compress(TEXT), "deflate"),
        (raw_deflate(TEXT), "deflate"),
        (gzip.compress(zlib.compress(TEXT)), "deflate, gzip"),
        (gzip.compress(TEXT), "identity, gzip"),
    ],
)
def test_what_is_compressed_is_decompressed(body: bytes, encoding: str) -> None:
    assert decode_body(body, encoding, len(TEXT)) == TEXT


@pytest.mark.parametrize(
    ("body", "encoding", "error", "words"),
    [
        (gzip.compress(b"a" * 71), "gzip", TooLarge, "over 70 bytes once it is decompressed; the limit is 70."),
        (gzip.compress(bytes(10_000_000)), "gzip", TooLarge, "has over 70 bytes"),
        (gzip.compress(TEXT)[:-9], "gzip", Malformed, "The body ends in the middle of its gzip data."),
        (b"", "gzip", Malformed, "The body ends in the middle of its gzip data."),
        (TEXT, "gzip", Malformed, "The body is not gzip: Error -3 while decompressing data: incorrect header check."),
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
    response = client.post("/", content=gzip.compress(b"some text"), headers={"Content-Encoding": "gzip"})
    assert (response.status_code, response.json()) == (200, "SOME TEXT")


def test_an_encoding_that_is_not_known_is_a_415_that_names_the_others(client: TestClient) -> None:
    response = client.post("/", content=b"a", headers={"Content-Encoding": "br"})
    assert (response.status_code, response.headers["accept-encoding"]) == (415, "gzip, deflate")


def test_a_bomb_is_a_413_and_never_held_in_memory(client: TestClient) -> None:
    response = client.post("/", content=gzip.compress(bytes(50_000))[:100], headers={"Content-Encoding": "gzip"})
    assert (response.status_code, response.json()["error_type"]) == (413, "too_large")
