"""Images and audio as bytes, made in memory, always the same."""

import io
from typing import Any

import numpy as np
import PIL.Image
import soundfile

RATE_HZ = 16_000


def pixels(seed: int, height: int = 40, width: int = 60) -> PIL.Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return PIL.Image.fromarray(noise)


def file_of(image: PIL.Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def picture(seed: int, height: int = 40, width: int = 60) -> bytes:
    """A PNG file."""
    return file_of(pixels(seed, height, width))


def noise(seed: int, seconds: float = 0.5, rate_hz: int = RATE_HZ) -> np.ndarray:
    """Float32 samples `[samples]`."""
    return np.random.default_rng(seed).normal(scale=0.1, size=int(seconds * rate_hz)).astype(np.float32)


def recording(samples: np.ndarray, rate_hz: int = RATE_HZ, kind: str = "WAV", subtype: str | None = "FLOAT") -> bytes:
    """An audio file."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=kind, subtype=subtype)
    return file.getvalue()
