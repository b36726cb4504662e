"""Sound: from the bytes of a file to a row for the model, under limits.

A small file may stand for hours, and a file may be anything: nothing is decoded beyond the limits, and what cannot be
read is the client's error. Nothing is opened by a name or an address. It must never know requests or HTTP.
"""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from transformers.pipelines.base import Pipeline

from pipeline_webserver.errors import Rejected, TooLarge
from pipeline_webserver.inference.preprocessing.base import Draft, Limits, Work
from pipeline_webserver.inference.preprocessing.media import FilePreparation

# Beyond these a file is none that people record.
MOST_CHANNELS, MOST_RATE_HZ = 32, 768_000
# Frames that are decoded at once, so that a file of many channels takes no more memory than one of few.
BLOCK_FRAMES = 2**16
SAMPLE_SECONDS, SAMPLED_TOKENS = 2, 8


def samples_of(data: bytes, rate_hz: int, most_seconds: float) -> np.ndarray:
    """The sound of a file as float32 samples `[samples]` in [-1, 1], its channels mixed, at this rate.

    Raises `Rejected` or `TooLarge`.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            if not (0 < file.channels <= MOST_CHANNELS and 0 < file.samplerate <= MOST_RATE_HZ):
                raise Rejected(f"The audio has {file.channels} channels at {file.samplerate} Hz; nobody records that.")
            samples = _mixed(file, int(most_seconds * file.samplerate), most_seconds)
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


def _mixed(file: soundfile.SoundFile, most_frames: int, most_seconds: float) -> np.ndarray:
    """Its frames, each the mean of its channels. What the head says of their number need not be true."""
    blocks: list[np.ndarray] = []
    left = most_frames
    while left >= 0:
        block = file.read(min(BLOCK_FRAMES, left + 1), dtype="float32", always_2d=True)
        if not len(block):
            return np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32)
        blocks.append(block.mean(axis=1))
        left -= len(block)
    raise TooLarge(f"The audio is longer than {most_seconds:g} s, which is what the server takes.")


class AudioPreparation(FilePreparation):
    """Audio, at the rate that the model was trained for."""

    def read(self, data: bytes) -> Any:
        return samples_of(data, self.pipe.feature_extractor.sampling_rate, self.limits.max_audio_s)

    def check(self, inputs: Mapping[str, Any], draft: Draft) -> None:
        """Models that hear the wave itself need a few hundred samples for their first frame."""
        frames_of = getattr(self.pipe.model, "_get_feat_extract_output_lengths", None)
        wave = inputs.get("input_values")
        if frames_of is not None and wave is not None and int(frames_of(torch.tensor(wave.shape[1]))) < 1:
            raise Rejected("The audio is too short for this model.")

    def sample(self, words: int) -> Work:
        rate_hz = self.pipe.feature_extractor.sampling_rate
        noise = np.random.default_rng(words).normal(scale=0.1, size=SAMPLE_SECONDS * rate_hz)
        file = io.BytesIO()
        soundfile.write(file, noise.astype(np.float32), rate_hz, format="WAV", subtype="FLOAT")
        return file.getvalue(), {}


class SpeechPreparation(AudioPreparation):
    """Speech to text: by models that say a letter for each moment, and by those that write."""

    def __init__(self, pipe: Pipeline, limits: Limits) -> None:
        super().__init__(pipe, limits)
        self.writes = pipe.type not in {"ctc", "ctc_with_lm"}

    def describe(self) -> dict[str, object]:
        return {"generates": self.writes, "timestamps": self._tells_times()}

    def _tells_times(self) -> bool:
        """Models that spell do; of those that write, Whisper does if it is configured for it."""
        return not self.writes or hasattr(self.pipe.model.generation_config, "no_timestamps_token_id")

    def given(self, value: Any, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        given = dict(parameters)
        if given.get("return_timestamps") is False:
            del given["return_timestamps"]  # as without it; models that spell refuse the very word
        if self.writes:
            given["generate_kwargs"] = self._generation(given.get("generate_kwargs", {}))
        elif "generate_kwargs" in given:
            raise Rejected("Parameter 'generation_parameters': this model does not generate, it spells what it hears.")
        elif given.get("return_timestamps"):
            given["return_timestamps"] = "word"  # the one kind that both the form and these models have
        return given

    def _generation(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Raises `Rejected`."""
        most = self.limits.max_new_tokens
        if asked.get("max_new_tokens", 0) > most:
            raise Rejected(f"Parameter 'generation_parameters.max_new_tokens' is over the limit, {most}.")
        settings = self.pipe._get_set_generation_params(self.pipe._prepare_generate_kwargs(dict(asked)))
        bound = "max_new_tokens" if settings.get("max_new_tokens") else "max_length"  # whichever the model goes by
        return {**asked, bound: min(settings.get(bound) or most, most)}

    def sample(self, words: int) -> Work:
        told = {"min_new_tokens": SAMPLED_TOKENS, "max_new_tokens": SAMPLED_TOKENS}
        return super().sample(words)[0], {"generate_kwargs": told} if self.writes else {}

    def check(self, inputs: Mapping[str, Any], draft: Draft) -> None:
        super().check(inputs, draft)
        features = inputs.get("input_features")
        if self.pipe.type != "seq2seq_whisper" or features is None or draft.forward.get("return_timestamps"):
            return
        seconds = self.pipe.feature_extractor.chunk_length
        if features.shape[-1] > self.pipe.feature_extractor.nb_max_frames:
            raise Rejected(f"The audio is over {seconds} s: this model takes that with 'return_timestamps' only.")
