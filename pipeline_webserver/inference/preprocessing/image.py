"""Images: from the bytes of a file to a model input, under limits, and from a mask to a file.

A small file may decode to gigabytes, and a file may hold anything: nothing is decoded beyond the limits, and what
cannot be read is the client's error. Nothing is opened by a name or an address. It must never know requests or HTTP.
"""

import base64
import io
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from PIL.Image import Image
from transformers.pipelines.base import Pipeline

from pipeline_webserver.errors import Rejected, TooLarge, first_line
from pipeline_webserver.inference.model_inputs import ModelInput, RawInput
from pipeline_webserver.inference.preprocessing.base import CheckedInput, Postprocess
from pipeline_webserver.inference.preprocessing.media import MediaPreprocessor
from pipeline_webserver.model_info import ModelInfo

# Of what Pillow reads: what browsers and cameras make. Other decoders run programs (EPS) or are seldom maintained.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
# Some models resize the shorter side to their size: a line of pixels would become gigabytes.
MAX_ASPECT_RATIO = 50
WARMUP_SHAPE = (240, 320, 3)


def decode_image(data: bytes, max_pixels: int) -> Image:
    """The image of a file; of an animation the first. Raises `Rejected` or `TooLarge`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own limit is higher or lower, and ours holds
            image = PIL.Image.open(io.BytesIO(data), formats=FORMATS)
            check_size(image, max_pixels)
            image.load()
    except TooLarge:
        raise
    except PIL.Image.DecompressionBombError:
        raise TooLarge(f"The image has too many pixels; the server takes {max_pixels}.") from None
    except PIL.UnidentifiedImageError:
        formats = ", ".join(FORMATS)
        raise Rejected(f"The file is no image that can be read; the server reads {formats}.") from None
    except Exception as error:  # each decoder has errors of its own
        raise Rejected(f"The image cannot be read: {first_line(error)}.") from error
    return to_8_bits(image)


def to_8_bits(image: Image) -> Image:
    """Grey of more bits than the pipeline keeps, which it would clip to white, scaled to 8 of them.

    16 bits by their range; of whole numbers and fractions, which name none, the range is the least of 1 (fractions),
    255, 65535 and 2^31 - 1 that has all values. Raises `Rejected`.
    """
    if not (image.mode.startswith("I") or image.mode == "F"):
        return image
    values = np.asarray(PIL.ImageOps.exif_transpose(image), dtype=np.float64)
    if not np.isfinite(values).all():
        raise Rejected("The image has values that are no numbers.")
    ranges = [65_535] if image.mode.startswith("I;16") else [255, 65_535, 2**31 - 1]
    ranges = [1, *ranges] if image.mode == "F" else ranges
    highest = next((top for top in ranges if values.max() <= top), values.max())
    return PIL.Image.fromarray((values.clip(min=0) * (255 / highest)).round().astype(np.uint8))


def check_size(image: Image, max_pixels: int) -> None:
    """Raises `TooLarge`."""
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise TooLarge(f"The image has {pixels} pixels; the server takes {max_pixels}.")
    if max(image.size) > MAX_ASPECT_RATIO * min(image.size):
        sides = f"{image.width} by {image.height}"
        raise TooLarge(f"The image is {sides}; one side may be {MAX_ASPECT_RATIO} times the other.")


def encode_png(image: Image) -> str:
    """The image as the base64 of a PNG file."""
    file = io.BytesIO()
    image.save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


class ImagePreprocessor(MediaPreprocessor):
    """Images."""

    def decode(self, data: bytes) -> Any:
        return decode_image(data, self.limits.max_image_pixels)

    def warmup_input(self, words: int) -> RawInput:
        noise = np.random.default_rng(words).integers(0, 256, WARMUP_SHAPE, dtype=np.uint8)
        file = io.BytesIO()
        PIL.Image.fromarray(noise).save(file, format="PNG")
        return file.getvalue(), {}


class ZeroShotImageClassificationPreprocessor(ImagePreprocessor):
    """Images, with labels of which one fits."""

    def check_tensors(self, tensors: Mapping[str, Any], checked: CheckedInput) -> None:
        tokens, limit = tensors["text_inputs"][0]["input_ids"].shape[1], self.pipe.tokenizer.model_max_length
        if tokens > limit:
            raise TooLarge(f"A label has {tokens} tokens in its template; the model takes at most {limit}.")

    def warmup_input(self, words: int) -> RawInput:
        return super().warmup_input(words)[0], {"candidate_labels": ["a cat", "a dog"]}


class ImageSegmentationPreprocessor(ImagePreprocessor):
    """Images, with a mask for each segment."""

    def describe(self, info: ModelInfo) -> ModelInfo:
        processor = self.pipe.image_processor
        kinds = ("panoptic", "instance", "semantic")
        return replace(
            info, subtasks=[kind for kind in kinds if hasattr(processor, f"post_process_{kind}_segmentation")]
        )

    def make_postprocess(self, pipe: Pipeline) -> Postprocess:
        def segments(*args: Any, **parameters: Any) -> list[dict[str, Any]]:
            return [
                {**segment, "mask": encode_png(segment["mask"])} for segment in pipe.postprocess(*args, **parameters)
            ]

        return segments


class ImageFeatureExtractionPreprocessor(ImagePreprocessor):
    """Images, with what a model makes of each patch."""

    def pipeline_parameters(self, value: Any, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        if parameters.get("pool") and getattr(self.pipe, "untrained", ()):  # the patches do not depend on those
            raise Rejected("Parameter 'pool': the weights of the pooled output are in none of this model's files.")
        return super().pipeline_parameters(value, parameters)

    def numbers_read(self, model_input: ModelInput, outputs: Any) -> torch.Tensor:
        patches: torch.Tensor = outputs[0]
        return patches.flatten()

    def make_postprocess(self, pipe: Pipeline) -> Postprocess:
        return image_features


def image_features(outputs: Any, pool: bool = False, **parameters: Any) -> np.ndarray:
    """The pipeline's result, float64 `[1, patches, hidden]`, or the pooled output, `[1, hidden]`.

    Raises `ValueError`.
    """
    if pool and "pooler_output" not in outputs:
        raise ValueError("Parameter 'pool': this model has no pooled output.")
    numbers: np.ndarray = (outputs["pooler_output"] if pool else outputs[0]).double().numpy()
    return numbers
