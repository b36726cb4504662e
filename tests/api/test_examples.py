"""The files that stand for examples."""

import base64
import io
import itertools
import wave

import PIL.Image

from pipeline_webserver.api.examples import PICTURE, tone


def test_the_picture_is_a_png_of_16_by_16_red_pixels() -> None:
    image = PIL.Image.open(io.BytesIO(base64.b64decode(PICTURE)))
    assert (image.format, image.size) == ("PNG", (16, 16))
    assert image.convert("RGB").getextrema() == ((220, 220), (40, 40), (40, 40))


def test_the_tone_is_a_tenth_of_a_second_of_200_hz_as_wav() -> None:
    with wave.open(io.BytesIO(base64.b64decode(tone()))) as recording:
        assert (recording.getframerate(), recording.getnframes()) == (8_000, 800)
        samples = recording.readframes(800)
    rises = sum(before < after for before, after in itertools.pairwise(samples))
    assert rises == 19  # of 20 waves, the first begins high
