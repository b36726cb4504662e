"""Audio: from the bytes of a file to a model input, under limits.

A small file may decode to hours, and a file may hold anything: nothing is decoded beyond the limits, and what cannot be
read is the client's error. Nothing is opened by a name or an address. It must never know requests or HTTP.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import soundfile
import soxr
from transformers.pipelines.base import Pipeline

from pipeline_webserver.errors import Rejected, TooLarge
from pipeline_webserver.inference import internals
from pipeline_webserver.inference.model_inputs import Limits, RawInput
from pipeline_webserver.inference.preprocessing.base import CheckedInput
from pipeline_webserver.inference.preprocessing.generation import WARMUP_TOKENS, check_new_tokens
from pipeline_webserver.inference.preprocessing.media import MediaPreprocessor
from pipeline_webserver.model_info import ModelInfo

# No recording has more than these.
MAX_CHANNELS, MAX_RATE_HZ = 32, 768_000
# Frames that are decoded at once, so that a file of many channels takes no more memory than one of few.
BLOCK_FRAMES = 2**16
WARMUP_SECONDS = 2
# The size of a chunk whose end is not known.
UNKNOWN = b"\xff\xff\xff\xff"
# How much of a clip a model needs is looked for up to here; how much it hears, up to there.
ENOUGH_S, LONGEST_S = 1.0, 120.0


def decode_audio(data: bytes, rate_hz: int, max_seconds: float) -> np.ndarray:
    """The audio of a file as float32 samples `[samples]` in [-1, 1] at this rate, its channels mixed.

    Raises `Rejected` or `TooLarge`.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(complete_wav(data))) as file:
            if not (0 < file.channels <= MAX_CHANNELS and 0 < file.samplerate <= MAX_RATE_HZ):
                channels = f"{file.channels} channels at {file.samplerate} Hz"
                raise Rejected(f"The audio has {channels}; the server takes {MAX_CHANNELS} at {MAX_RATE_HZ} Hz.")
            samples = _mix_channels(file, int(max_seconds * file.samplerate), max_seconds)
            recorded_hz = file.samplerate
    except soundfile.LibsndfileError as error:
        raise Rejected(
            f"The audio cannot be read ({error.error_string.rstrip('.')}); the server reads WAV, FLAC, OGG and MP3."
        ) from None
    if not samples.size:
        raise Rejected("The audio is empty.")
    if not np.isfinite(samples).all():
        raise Rejected("The audio has samples that are no numbers.")
    return samples if recorded_hz == rate_hz else soxr.resample(samples, recorded_hz, rate_hz)


def complete_wav(data: bytes) -> bytes:
    """A WAV file that was written to a stream has no sizes: its samples then go on to its end, as ffmpeg has it."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return data
    position = 12
    while position + 8 <= len(data):
        kind, size = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        if kind == b"data":
            is_streamed = size == 0 and len(data) > position + 8
            return data[:4] + UNKNOWN + data[8 : position + 4] + UNKNOWN + data[position + 8 :] if is_streamed else data
        position += 8 + size + size % 2
    return data


def _mix_channels(file: soundfile.SoundFile, max_frames: int, max_seconds: float) -> np.ndarray:
    """The mean of the channels of each frame. The number of frames in a file's header need not be true."""
    blocks: list[np.ndarray] = []
    left = max_frames
    while left >= 0:
        block = file.read(min(BLOCK_FRAMES, left + 1), dtype="float32", always_2d=True)
        if not len(block):
            return np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32)
        blocks.append(block.mean(axis=1))
        left -= len(block)
    raise TooLarge(f"The audio is longer than {max_seconds:g} s, which is what the server takes.")


def first_true(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The least number from `low` on for which it holds, as it does for all that are higher; `high` if for none."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


class AudioPreprocessor(MediaPreprocessor):
    """Audio, at the rate that the model was trained for, if the model hears all of it."""

    hears_all = False  # whether a model hears more than its feature extractor takes at once

    def __init__(self, pipe: Pipeline, limits: Limits) -> None:
        super().__init__(pipe, limits)
        self._rate_hz: int = pipe.feature_extractor.sampling_rate
        self._longest_samples = int(min(LONGEST_S, max(ENOUGH_S, limits.max_audio_s)) * self._rate_hz)
        self._noise = np.random.default_rng(0).normal(scale=0.1, size=self._longest_samples).astype(np.float32)
        self.min_samples = first_true(self._is_enough, 1, int(ENOUGH_S * self._rate_hz))
        self.max_samples = self._find_max_samples()
        del self._noise

    def decode(self, data: bytes) -> Any:
        samples = decode_audio(data, self._rate_hz, self.limits.max_audio_s)
        seconds = len(samples) / self._rate_hz
        if len(samples) < self.min_samples:
            least = self.min_samples / self._rate_hz
            raise Rejected(f"The audio has {seconds:.3g} s; this model needs at least {least:.3g} s.")
        if self.max_samples is not None and len(samples) > self.max_samples and not self.limits.truncate:
            heard = self.max_samples / self._rate_hz
            raise TooLarge(f"The audio has {seconds:.4g} s; this model hears the first {heard:.4g} s: send them alone.")
        return samples

    def describe(self, info: ModelInfo) -> ModelInfo:
        heard = None if self.max_samples is None else self.max_samples / self._rate_hz
        return replace(info, max_heard_s=heard)

    def _features(self, samples: np.ndarray) -> Mapping[str, Any]:
        features: Mapping[str, Any] = self.pipe.feature_extractor(
            samples, sampling_rate=self._rate_hz, return_tensors="np"
        )
        return features

    def _is_enough(self, samples: int) -> bool:
        """Whether a clip of so many samples is long enough for a frame."""
        try:
            features = self._features(self._noise[:samples])
        except Exception:  # whatever the extractor does with too few
            return False
        wave = features.get("input_values")
        if wave is None or wave.ndim != 2:  # a spectrogram
            return True
        frames = internals.audio_frames(self.pipe.model, wave.shape[1])
        return frames is None or frames >= 1

    def _find_max_samples(self) -> int | None:
        """The longest clip whose end the model hears; None if it hears to the end of all that were tried."""
        if self.hears_all or self._hears_end(len(self._noise)):
            return None
        step = max(1, self._rate_hz // 100)
        shortest, longest = -(-self.min_samples // step), len(self._noise) // step
        heard = shortest
        while (more := min(2 * heard, longest)) < longest and self._hears_end(more * step):
            heard = more
        first_unheard = first_true(lambda steps: not self._hears_end(steps * step), heard, more)
        return (first_unheard - 1) * step

    def _hears_end(self, samples: int) -> bool:
        """Whether the features change with the last hundredth of a second, about a frame of spectrograms."""
        clip = self._noise[:samples]
        other = clip.copy()
        other[-max(1, self._rate_hz // 100) :] *= -3
        before, after = self._features(clip), self._features(other)
        return any(not np.array_equal(before[name], after[name]) for name in before)

    def warmup_input(self, words: int) -> RawInput:
        rate_hz = self._rate_hz
        noise = np.random.default_rng(words).normal(scale=0.1, size=WARMUP_SECONDS * rate_hz)
        file = io.BytesIO()
        soundfile.write(file, noise.astype(np.float32), rate_hz, format="WAV", subtype="FLOAT")
        return file.getvalue(), {}


class SpeechPreprocessor(AudioPreprocessor):
    """Speech to text: by CTC models, which output a letter for each frame, and by generative models."""

    hears_all = True  # Whisper goes on where its window ends

    def __init__(self, pipe: Pipeline, limits: Limits) -> None:
        super().__init__(pipe, limits)
        self.generates = pipe.type not in {"ctc", "ctc_with_lm"}

    def describe(self, info: ModelInfo) -> ModelInfo:
        return replace(info, generates=self.generates, timestamps=self._has_timestamps())

    def _has_timestamps(self) -> bool:
        """CTC models have them; of the generative ones, Whisper has if it is configured for it."""
        return not self.generates or hasattr(self.pipe.model.generation_config, "no_timestamps_token_id")

    def pipeline_parameters(self, value: Any, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        pipeline_parameters = dict(parameters)
        if pipeline_parameters.get("return_timestamps") is False:
            del pipeline_parameters["return_timestamps"]  # the default; CTC models reject the very parameter
        if self.generates:
            generation = pipeline_parameters.get("generate_kwargs", {})
            pipeline_parameters["generate_kwargs"] = self._generation_parameters(generation)
        elif "generate_kwargs" in pipeline_parameters:
            raise Rejected("Parameter 'generation_parameters': this is a CTC model, which does not generate.")
        elif pipeline_parameters.get("return_timestamps"):
            pipeline_parameters["return_timestamps"] = "word"  # the one kind that the form and these models share
        return pipeline_parameters

    def _generation_parameters(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters within the server's limit. Raises `Rejected`."""
        limit = self.limits.max_new_tokens
        check_new_tokens(parameters, limit, "generation_parameters.max_new_tokens")
        settings = internals.generation_settings(self.pipe, parameters)
        bound = "max_new_tokens" if settings.get("max_new_tokens") else "max_length"  # whichever the model is set by
        return {**parameters, bound: min(settings.get(bound) or limit, limit)}

    def warmup_input(self, words: int) -> RawInput:
        generation = {"min_new_tokens": WARMUP_TOKENS, "max_new_tokens": WARMUP_TOKENS}
        return super().warmup_input(words)[0], {"generate_kwargs": generation} if self.generates else {}

    def check_tensors(self, tensors: Mapping[str, Any], checked: CheckedInput) -> None:
        super().check_tensors(tensors, checked)
        features = tensors.get("input_features")
        if self.pipe.type != "seq2seq_whisper" or features is None:
            return
        if features.shape[-1] > self.pipe.feature_extractor.nb_max_frames:
            self._check_long_form(bool(checked.forward.get("return_timestamps")))

    def _check_long_form(self, has_timestamps: bool) -> None:
        """Raises `Rejected` for a recording of several segments if the model cannot find where each ends.

        It does so by its timestamps, requested or not, unless its configuration says that there are none.
        """
        seconds = self.pipe.feature_extractor.chunk_length
        if not self._has_timestamps():
            raise Rejected(f"The audio is over {seconds} s, which is all that this model takes: it has no timestamps.")
        if not has_timestamps and getattr(self.pipe.model.generation_config, "return_timestamps", None) is False:
            raise Rejected(f"The audio is over {seconds} s: this model takes that with 'return_timestamps' only.")
