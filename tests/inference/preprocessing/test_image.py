"""Any file that claims to be an image is read under limits, or is an error with a reason."""

import base64
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from pipeline_webserver.errors import Rejected, TooLarge
from pipeline_webserver.inference.pipeline_runner import PipelineRunner
from pipeline_webserver.inference.preprocessing.image import decode_image, encode_png, image_features
from tests.support.compare import assert_same
from tests.support.media import file_of, picture, pixels
from tests.support.pipelines import open_pipeline, run


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def bomb(side: int) -> bytes:
    """A PNG file of few bytes that says to have so many pixels in a row, and as many rows."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_a_file_is_read_to_the_pixels_that_were_written(kind: str) -> None:
    image = decode_image(file_of(pixels(1), kind), 10_000)
    assert image.convert("RGB").tobytes() == pixels(1).tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_files_of_the_kinds_that_lose_a_little_are_read_too(kind: str) -> None:
    assert decode_image(file_of(pixels(1), kind), 10_000).size == (60, 40)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_images_of_every_mode_are_classified(mode: str, model_of: Callable[[str], Path]) -> None:
    runner = open_pipeline(model_of("image-classification"))
    data = file_of(pixels(1).convert(mode), "TIFF" if mode == "CMYK" else "PNG")
    (result,) = run(runner, [(data, {})])
    assert_same(result, runner.pipe(PIL.Image.open(io.BytesIO(data))))


GREY = np.arange(2_400, dtype=np.uint16).reshape(40, 60) * 27  # 0 to 64,773


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (GREY, "PNG", GREY / 257),
        (GREY, "TIFF", GREY / 257),
        (np.full((4, 4), 30_000, dtype=np.uint16), "PNG", np.full((4, 4), 117)),
        (GREY // 257, "PNG", GREY // 257 / 257),  # dark, not bright: the range is that of the type
        (GREY.astype(np.int32), "TIFF", GREY / 257),
        ((GREY // 257).astype(np.int32), "TIFF", GREY // 257),
        (GREY.astype(np.int32) * 30_000, "TIFF", GREY * 30_000.0 * 255 / (2**31 - 1)),
        ((GREY / 65_535).astype(np.float32), "TIFF", GREY / 257),
        ((GREY / 257).astype(np.float32), "TIFF", GREY / 257),
        (GREY.astype(np.float32) - 100, "TIFF", (GREY - 100.0).clip(0) / 257),
    ],
)
def test_grey_of_more_bits_is_scaled_and_not_clipped_to_white(
    values: np.ndarray, kind: str, expected: np.ndarray
) -> None:
    image = decode_image(file_of(PIL.Image.fromarray(values), kind), 10_000)
    assert image.mode == "L"
    assert np.abs(np.asarray(image, dtype=np.float64) - expected).max() <= 0.51


def test_grey_that_is_no_number_is_an_error() -> None:
    values = np.full((4, 4), np.nan, dtype=np.float32)
    with pytest.raises(Rejected, match=r"^The image has values that are no numbers\.$"):
        decode_image(file_of(PIL.Image.fromarray(values), "TIFF"), 10_000)


def test_grey_of_16_bits_is_turned_as_its_camera_was_held() -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    assert decode_image(file_of(PIL.Image.fromarray(GREY), exif=exif), 10_000).size == (40, 60)


def test_an_image_is_turned_as_its_camera_was_held(model_of: Callable[[str], Path]) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # a quarter to the right
    runner = open_pipeline(model_of("image-classification"))
    turned, upright = run(
        runner, [(file_of(pixels(1), exif=exif), {}), (file_of(pixels(1).rotate(-90, expand=True)), {})]
    )
    assert_same(turned, upright)


def test_of_an_animation_the_first_image_counts() -> None:
    data = file_of(pixels(1), "TIFF", save_all=True, append_images=[pixels(2)])
    assert decode_image(data, 10_000).convert("RGB").tobytes() == pixels(1).tobytes()


def test_too_many_pixels_are_an_error_with_both_numbers() -> None:
    assert decode_image(picture(1), 2400).size == (60, 40)
    with pytest.raises(TooLarge, match=r"^The image has 2400 pixels; the server takes 2399\.$"):
        decode_image(picture(1), 2399)


def test_a_line_of_pixels_is_an_error() -> None:
    assert decode_image(picture(1, 1, 50), 10_000).size == (50, 1)
    with pytest.raises(TooLarge, match=r"^The image is 51 by 1; one side may be 50 times the other\.$"):
        decode_image(picture(1, 1, 51), 10_000)


@pytest.mark.parametrize("side", [10_000, 20_000, 60_000, 2**31 - 1])
def test_a_small_file_of_many_pixels_is_an_error_by_its_head(side: int) -> None:
    assert len(bomb(side)) < 100
    with pytest.raises((TooLarge, Rejected), match=r"pixels; the server takes 25000000|cannot be read"):
        decode_image(bomb(side), 25_000_000)


@pytest.mark.parametrize(
    "data", [b"", b"a text", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe-3.0 EPSF-3.0"]
)
def test_what_is_no_image_is_an_error_and_what_is_read_is_named(data: bytes) -> None:
    with pytest.raises(Rejected) as rejection:
        decode_image(data, 10_000)
    assert str(rejection.value) == (
        "The file is no image that can be read; the server reads PNG, JPEG, WEBP, GIF, BMP, TIFF."
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_file_that_breaks_off_is_an_error(kind: str) -> None:
    data = file_of(pixels(1), kind)
    with pytest.raises(Rejected, match=r"^The (image cannot be read: |file is no image)"):
        decode_image(data[: len(data) // 2], 10_000)


def test_a_mask_becomes_a_file_with_its_pixels() -> None:
    mask = PIL.Image.fromarray(np.eye(8, dtype=np.uint8) * 255)
    read = PIL.Image.open(io.BytesIO(base64.b64decode(encode_png(mask))))
    assert (read.format, read.tobytes()) == ("PNG", mask.tobytes())


def test_a_label_that_is_too_long_for_the_model_is_an_error(pipeline_of: Callable[[str], PipelineRunner]) -> None:
    labels = {"candidate_labels": ["a " * 40]}
    (result,) = pipeline_of("zero-shot-image-classification").preprocess([(picture(1), labels)])
    assert str(result) == "A label has 48 tokens in its template; the model takes at most 32."


def test_equal_files_are_computed_once_and_others_are_not(pipeline_of: Callable[[str], PipelineRunner]) -> None:
    preprocess = pipeline_of("image-classification").preprocess
    one, same, other, limited = preprocess(
        [(picture(1), {}), (picture(1), {}), (picture(2), {}), (picture(1), {"top_k": 1})]
    )
    assert one.dedup_key == same.dedup_key  # type: ignore[union-attr]
    assert len({item.dedup_key for item in (one, other, limited)}) == 3  # type: ignore[union-attr]


def test_the_kinds_of_segmentation_of_a_model_are_described(pipeline_of: Callable[[str], PipelineRunner]) -> None:
    assert pipeline_of("image-segmentation").describe(threads=1).subtasks == ["semantic"]
    assert pipeline_of("image-classification").describe(threads=1).subtasks is None


def test_a_model_without_a_pooled_output_does_not_pool() -> None:
    with pytest.raises(ValueError, match=r"^Parameter 'pool': this model has no pooled output\.$"):
        image_features({"last_hidden_state": None}, pool=True)
