"""Audio: from the bytes of a file to a model input, under limits.

A small file may decode to hours, and a file may hold anything: nothing is decoded beyond the limits, and what cannot be
read is the client's error. Nothing is opened by a name or an address. It must never know requests or HTTP.
"""

import io
from collections.abc import Mapping
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


def decode_audio(data: bytes, rate_hz: int, max_seconds: float) -> np.ndarray:
    """The audio of a file as float32 samples `[samples]` in [-1, 1] at this rate, its channels mixed.

    Raises `Rejected` or `TooLarge`.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
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


class AudioPreprocessor(MediaPreprocessor):
    """Audio, at the rate that the model was trained for."""

    def decode(self, data: bytes) -> Any:
        return decode_audio(data, self.pipe.feature_extractor.sampling_rate, self.limits.max_audio_s)

    def check_tensors(self, tensors: Mapping[str, Any], checked: CheckedInput) -> None:
        """Models of the raw wave need a few hundred samples for their first frame."""
        wave = tensors.get("input_values")
        if wave is None:
            return
        frames = internals.audio_frames(self.pipe.model, wave.shape[1])
        if frames is not None and frames < 1:
            raise Rejected("The audio is too short for this model.")

    def warmup_input(self, words: int) -> RawInput:
        rate_hz = self.pipe.feature_extractor.sampling_rate
        noise = np.random.default_rng(words).normal(scale=0.1, size=WARMUP_SECONDS * rate_hz)
        file = io.BytesIO()
        soundfile.write(file, noise.astype(np.float32), rate_hz, format="WAV", subtype="FLOAT")
        return file.getvalue(), {}


class SpeechPreprocessor(AudioPreprocessor):
    """Speech to text: by CTC models, which output a letter for each frame, and by generative models."""

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
