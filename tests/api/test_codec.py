"""JSON as bytes, both ways."""

import numpy as np
import pytest

from pipeline_webserver.api.codec import JSON, read_json, to_json
from pipeline_webserver.errors import Malformed


def test_the_media_type_is_that_of_json() -> None:
    assert JSON == "application/json"


def test_what_is_written_reads_the_same() -> None:
    value = {"text": "tést", "numbers": [1, 2.5, None, True]}
    assert read_json(to_json(value)) == value


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'"\\ud800"', b"[" * 100_000, b"NaN"])
def test_a_body_that_is_not_json_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed, match=r"^The body is not JSON: .*\.$"):
        read_json(body)


def test_scalars_and_arrays_of_numpy_are_written_as_numbers() -> None:
    value = [{"score": np.float32(0.5), "index": np.int64(3)}, np.ones((1, 2), np.float32)]
    assert to_json(value) == b'[{"score":0.5,"index":3},[[1.0,1.0]]]'
