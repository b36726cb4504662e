"""Images: from the bytes of a file to a row for the model, under limits, and from a mask to a file.

A small file may stand for gigabytes, and a file may be anything: nothing is decoded beyond the limits, and what cannot
be read is the client's error. Nothing is opened by a name or an address. It must never know requests or HTTP.
"""

import base64
import io
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import PIL.Image
from PIL.Image import Image

from pipeline_webserver.errors import Rejected, TooLarge, first_line
from pipeline_webserver.inference.preprocessing.base import Draft, Work
from pipeline_webserver.inference.preprocessing.media import FilePreparation

# Of what Pillow reads: what browsers and cameras make. Others run programs (EPS) or are seldom looked after.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
# Some models bring the shorter side to their size: a line of pixels would become gigabytes.
MOST_TIMES_AS_LONG = 50
SAMPLE_SHAPE = (240, 320, 3)


def image_of(data: bytes, most_pixels: int) -> Image:
    """The image of a file, decoded; of an animation its first. Raises `Rejected` or `TooLarge`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own limit is higher or lower, and ours holds
            image = PIL.Image.open(io.BytesIO(data), formats=FORMATS)
            pixels = image.width * image.height
            if pixels > most_pixels:
                raise TooLarge(f"The image has {pixels} pixels; the server takes {most_pixels}.")
            if max(image.size) > MOST_TIMES_AS_LONG * min(image.size):
                sides = f"{image.width} by {image.height}"
                raise TooLarge(f"The image is {sides}; one side may be {MOST_TIMES_AS_LONG} times the other.")
            image.load()
    except TooLarge:
        raise
    except PIL.Image.DecompressionBombError:
        raise TooLarge(f"The image has too many pixels; the server takes {most_pixels}.") from None
    except PIL.UnidentifiedImageError:
        taken = ", ".join(FORMATS)
        raise Rejected(f"The file is no image that can be read; the server reads {taken}.") from None
    except Exception as error:  # each decoder has errors of its own
        raise Rejected(f"The image cannot be read: {first_line(error)}.") from error
    return image


def png_of(image: Image) -> str:
    """The image as the base64 of a PNG file."""
    file = io.BytesIO()
    image.save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


class ImagePreparation(FilePreparation):
    """Images, with labels where the task asks which of them fits."""

    def describe(self) -> dict[str, object]:
        if self.task != "image-segmentation":
            return {}
        kinds = ("panoptic", "instance", "semantic")
        known = [kind for kind in kinds if hasattr(self.pipe.image_processor, f"post_process_{kind}_segmentation")]
        return {"subtasks": known}

    def read(self, data: bytes) -> Any:
        return image_of(data, self.limits.max_image_pixels)

    def check(self, inputs: Mapping[str, Any], draft: Draft) -> None:
        if texts := inputs.get("text_inputs"):
            tokens, most = texts[0]["input_ids"].shape[1], self.pipe.tokenizer.model_max_length
            if tokens > most:
                raise TooLarge(f"A label has {tokens} tokens in its template; the model takes at most {most}.")

    def sample(self, words: int) -> Work:
        noise = np.random.default_rng(words).integers(0, 256, SAMPLE_SHAPE, dtype=np.uint8)
        file = io.BytesIO()
        PIL.Image.fromarray(noise).save(file, format="PNG")
        labels = {"candidate_labels": ["a cat", "a dog"]}
        return file.getvalue(), labels if self.task == "zero-shot-image-classification" else {}
