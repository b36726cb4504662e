"""Any file that claims to be audio is read under limits, or is an error with a reason."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
import transformers

from pipeline_webserver.errors import Rejected, TooLarge
from pipeline_webserver.inference.model_inputs import Limits, PreparedInput
from pipeline_webserver.inference.pipeline_runner import PipelineRunner
from pipeline_webserver.inference.preprocessing.audio import decode_audio
from tests.support import media_models
from tests.support.compare import assert_same
from tests.support.media import RATE_HZ, noise, recording
from tests.support.pipelines import Parameters, load_pipeline, run, runner_of


def test_samples_at_the_models_rate_come_as_they_were_recorded() -> None:
    assert decode_audio(recording(noise(1)), RATE_HZ, 1).tolist() == noise(1).tolist()


@pytest.mark.parametrize(("kind", "subtype"), [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", None)])
def test_the_usual_files_are_read(kind: str, subtype: str | None) -> None:
    samples = decode_audio(recording(noise(1), kind=kind, subtype=subtype), RATE_HZ, 1)
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx(8_000, rel=0.3)  # mp3 has frames of its own
    if kind in {"WAV", "FLAC"}:
        assert np.abs(samples - noise(1)).max() < 2**-15


def test_channels_are_mixed() -> None:
    both = np.stack([noise(1), noise(2)], axis=1)
    assert decode_audio(recording(both), RATE_HZ, 1) == pytest.approx(both.mean(axis=1), abs=1e-7)


def test_another_rate_is_brought_to_the_models() -> None:
    samples = decode_audio(recording(noise(1, rate_hz=8_000), rate_hz=8_000), RATE_HZ, 1)
    assert samples.tolist() == soxr.resample(noise(1, rate_hz=8_000), 8_000, RATE_HZ).tolist()


def test_what_is_longer_than_the_server_takes_is_an_error() -> None:
    assert len(decode_audio(recording(noise(1, 0.5)), RATE_HZ, 0.5)) == 8_000
    with pytest.raises(TooLarge, match=r"^The audio is longer than 0\.5 s, which is what the server takes\.$"):
        decode_audio(recording(noise(1, 0.501)), RATE_HZ, 0.5)


def test_hours_of_silence_in_a_small_file_are_an_error_before_they_are_decoded() -> None:
    data = recording(np.zeros(RATE_HZ * 3_600, dtype=np.float32), kind="FLAC", subtype="PCM_16")
    assert len(data) < 2**20
    with pytest.raises(TooLarge):
        decode_audio(data, RATE_HZ, 60)


def test_what_the_head_says_of_its_length_need_not_be_true() -> None:
    data = bytearray(recording(noise(1), subtype="PCM_16"))
    data[40:44] = struct.pack("<I", 2**31 - 1)
    assert len(decode_audio(bytes(data), RATE_HZ, 1)) == 8_000


@pytest.mark.parametrize("data", [b"", b"a text", recording(noise(1))[:20], b"RIFF" + bytes(100)])
def test_what_is_no_audio_is_an_error_and_what_is_read_is_named(data: bytes) -> None:
    with pytest.raises(Rejected) as rejection:
        decode_audio(data, RATE_HZ, 1)
    assert str(rejection.value).startswith("The audio cannot be read (")
    assert str(rejection.value).endswith("); the server reads WAV, FLAC, OGG and MP3.")


def test_samples_that_are_no_numbers_are_an_error() -> None:
    with pytest.raises(Rejected, match=r"^The audio has samples that are no numbers\.$"):
        decode_audio(recording(np.array([0.5, np.nan, 0.5], dtype=np.float32)), RATE_HZ, 1)


def test_a_file_without_a_sample_is_an_error() -> None:
    with pytest.raises(Rejected, match=r"^The audio is empty\.$"):
        decode_audio(recording(noise(1, 0)), RATE_HZ, 1)


def test_more_channels_than_a_recording_has_are_an_error() -> None:
    with pytest.raises(Rejected, match=r"^The audio has 33 channels at 16000 Hz; the server takes 32 at 768000 Hz\.$"):
        decode_audio(recording(np.zeros((10, 33), dtype=np.float32)), RATE_HZ, 1)


def test_audio_that_is_too_short_for_the_model_is_an_error_with_what_it_needs(
    pipeline_of: Callable[[str], PipelineRunner],
) -> None:
    runner = pipeline_of("audio-classification")
    few, just, enough = run(runner, [(recording(noise(1)[:samples]), {}) for samples in (16, 60, 1_000)])
    assert str(few) == "The audio has 0.001 s; this model needs at least 0.00375 s."
    assert len(just) == len(enough) == 4


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "ULAW"])
@pytest.mark.parametrize("size", [0, 2**32 - 1])
@pytest.mark.parametrize("extra", [b"", b"LIST\x05\0\0\0abcde\0"])
def test_a_wav_file_that_was_written_to_a_stream_is_read_to_its_end(extra: bytes, size: int, subtype: str) -> None:
    data = recording(noise(1), subtype=subtype)
    start = data.index(b"data")
    head = data[:4] + struct.pack("<I", size) + data[8:start] + extra
    streamed = head + b"data" + struct.pack("<I", size) + data[start + 8 :]
    assert decode_audio(streamed, RATE_HZ, 1).tolist() == decode_audio(data, RATE_HZ, 1).tolist()


def test_a_wav_file_without_a_sample_is_empty_whatever_its_sizes() -> None:
    data = recording(noise(1, 0))
    with pytest.raises(Rejected, match=r"^The audio is empty\.$"):
        decode_audio(data[:4] + bytes(4) + data[8:], RATE_HZ, 1)


def spectrograms(folder: Path, limits: Limits) -> PipelineRunner:
    """An audio spectrogram transformer that hears 0.64 s."""
    transformers.ASTFeatureExtractor(num_mel_bins=16, max_length=64).save_pretrained(folder)
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.ASTConfig(**sizes, intermediate_size=64, max_length=64, num_mel_bins=16, num_labels=3)
    transformers.ASTForAudioClassification(config).save_pretrained(folder)
    return runner_of(load_pipeline(folder, "audio-classification"), limits)


def test_what_a_model_does_not_hear_is_an_error_with_how_much_it_hears(tmp_path: Path) -> None:
    runner = spectrograms(tmp_path, Limits(max_audio_s=5))
    assert runner.describe(threads=1).max_heard_s == 0.66  # its last frame looks a little further
    heard, longer, short = run(runner, [(recording(noise(1, seconds)), {}) for seconds in (0.66, 2, 0.01)])
    assert_same(heard, runner.pipe(noise(1, 0.66)))
    assert str(longer) == "The audio has 2 s; this model hears the first 0.66 s: send them alone."
    assert str(short) == "The audio has 0.01 s; this model needs at least 0.015 s."


def test_with_truncate_what_a_model_does_not_hear_is_cut(tmp_path: Path) -> None:
    runner = spectrograms(tmp_path, Limits(truncate=True, max_audio_s=5))
    (result,) = run(runner, [(recording(noise(1, 2)), {})])
    assert_same(result, runner.pipe(noise(1, 2)))


def test_a_model_that_hears_to_the_end_says_no_limit(pipeline_of: Callable[[str], PipelineRunner]) -> None:
    assert pipeline_of("audio-classification").describe(threads=1).max_heard_s is None


# Speech


def speech(maker: Callable[..., None], folder: Path, limits: Limits) -> PipelineRunner:
    return runner_of(load_pipeline(media_models.make(maker, folder)), limits)


def test_a_ctc_model_takes_no_parameters_of_generation(tmp_path: Path) -> None:
    runner = speech(media_models.wav2vec2, tmp_path, Limits())
    (result,) = runner.preprocess([(recording(noise(1)), {"generate_kwargs": {"num_beams": 2}})])
    assert str(result) == ("Parameter 'generation_parameters': this is a CTC model, which does not generate.")


def test_a_ctc_model_takes_a_request_for_no_timestamps(tmp_path: Path) -> None:
    runner = speech(media_models.wav2vec2, tmp_path, Limits())
    (prepared,) = runner.preprocess([(recording(noise(1)), {"return_timestamps": False})])
    assert isinstance(prepared, PreparedInput)
    assert "return_timestamps" not in prepared.postprocess_parameters
    info = runner.describe(threads=1)
    assert (info.generates, info.timestamps) == (False, True)


def test_a_ctc_model_gives_the_timestamps_of_words(tmp_path: Path) -> None:
    runner = speech(media_models.wav2vec2, tmp_path, Limits())
    (prepared,) = runner.preprocess([(recording(noise(1)), {"return_timestamps": True})])
    assert isinstance(prepared, PreparedInput)
    assert prepared.postprocess_parameters["return_timestamps"] == "word"


def test_no_request_makes_a_model_generate_more_than_the_server_allows(tmp_path: Path) -> None:
    runner = speech(media_models.whisper, tmp_path, Limits(max_new_tokens=7))
    few, many, usual = runner.preprocess(
        [(recording(noise(1)), some) for some in ({"generate_kwargs": {"max_new_tokens": n}} for n in (7, 8))]
        + [(recording(noise(1)), {})]
    )
    assert str(many) == "Parameter 'generation_parameters.max_new_tokens' is over the limit, 7."
    assert isinstance(few, PreparedInput)
    assert isinstance(usual, PreparedInput)
    assert few.model_inputs[0].forward_parameters["max_new_tokens"] == 7
    assert usual.model_inputs[0].forward_parameters["max_length"] == 7


def whisper(folder: Path, **generation: object) -> PipelineRunner:
    """Two seconds at once, with timestamps unless `generation` says otherwise."""
    media_models.make(media_models.whisper, folder)
    pipe = load_pipeline(folder)
    for name, value in {"no_timestamps_token_id": 200, **generation}.items():
        setattr(pipe.model.generation_config, name, value)
    return runner_of(pipe)


@pytest.mark.parametrize("timestamps", [{}, {"return_timestamps": None}, {"return_timestamps": True}])
def test_a_long_recording_is_transcribed_unless_the_model_is_configured_without_timestamps(
    timestamps: dict[str, object], tmp_path: Path
) -> None:
    runner = whisper(tmp_path, **timestamps)
    samples = [noise(seed, 5) for seed in (1, 2)]
    expected = [runner.pipe({"raw": item, "sampling_rate": RATE_HZ}) for item in [*samples, noise(3, 2)]]
    results = run(runner, [(recording(item), {}) for item in [*samples, noise(3, 2)]])
    assert results == expected


@pytest.mark.parametrize(
    ("generation", "parameters", "words"),
    [
        (
            {"return_timestamps": False},
            {},
            "The audio is over 2 s: this model takes that with 'return_timestamps' only.",
        ),
        ({"return_timestamps": False}, {"return_timestamps": True}, None),
        (
            {"no_timestamps_token_id": None},
            {},
            "The audio is over 2 s, which is all that this model takes: it has no timestamps.",
        ),
    ],
)
def test_a_long_recording_that_a_model_cannot_take_is_an_error(
    generation: dict[str, object], parameters: Parameters, words: str | None, tmp_path: Path
) -> None:
    runner = whisper(tmp_path, **generation)
    if "no_timestamps_token_id" in generation:
        del runner.pipe.model.generation_config.no_timestamps_token_id
    fitting, long = runner.preprocess([(recording(noise(1, 2)), parameters), (recording(noise(1, 2.1)), parameters)])
    assert isinstance(fitting, PreparedInput)
    assert isinstance(long, PreparedInput) if words is None else str(long) == words
