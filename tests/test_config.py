"""Settings come from the environment; a wrong one stops the start with one line."""

from typing import Any

import pytest
from pydantic import ValidationError

from config import Settings, default_text, from_environment, misspelt, settings_help, variable


def read(monkeypatch: pytest.MonkeyPatch, **environment: str) -> Settings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return from_environment()


def error_line(monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    with pytest.raises(SystemExit) as stop:
        read(monkeypatch, **environment)
    line = str(stop.value.code)
    assert "\n" not in line
    return line


def test_each_variable_sets_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    values: dict[str, tuple[str, Any]] = {
        "model": ("bert-base-uncased", "bert-base-uncased"),
        "task": ("fill-mask", "fill-mask"),
        "revision": ("main", "main"),
        "name": (" Our model ", "Our model"),
        "device": ("cuda:0", "cuda:0"),
        "dtype": ("bfloat16", "bfloat16"),
        "threads": ("3", 3),
        "accelerate": ("false", False),
        "allow_untrained": ("true", True),
        "max_batch_size": ("8", 8),
        "max_batch_tokens": ("auto", None),
        "batch_wait_ms": ("0.5", 0.5),
        "max_requests": ("64", 64),
        "max_inputs": ("7", 7),
        "max_body_bytes": ("1000", 1000),
        "max_new_tokens": ("20", 20),
        "max_cache_tokens": ("auto", None),
        "max_image_pixels": ("1000000", 1_000_000),
        "max_audio_s": ("7.5", 7.5),
        "request_timeout_s": ("2.5", 2.5),
        "drain_timeout_s": ("0", 0.0),
        "truncate": ("true", True),
        "cors_origins": ("https://a.example, https://b.example", ("https://a.example", "https://b.example")),
        "show_errors": ("1", True),
        "exit_on_failure": ("true", True),
        "log_format": ("json", "json"),
    }
    settings = read(
        monkeypatch, PIPELINE_API_KEY="new key, old", **{variable(name): text for name, (text, _) in values.items()}
    )
    for name, (_, value) in values.items():
        assert getattr(settings, name) == value
    assert [key.get_secret_value() for key in settings.api_key] == ["new key", "old"]
    assert "new key" not in repr(settings)
    assert {*values, "api_key"} == set(Settings.model_fields)


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(monkeypatch, PIPELINE_API_KEY="", PIPELINE_THREADS="").api_key == ()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PIPELINE_MAX_BATCH_SIZE", "many", "PIPELINE_MAX_BATCH_SIZE: Input should be a valid integer"),
        ("PIPELINE_MAX_BATCH_SIZE", "0", "PIPELINE_MAX_BATCH_SIZE: Input should be greater than or equal to 1"),
        ("PIPELINE_MAX_BATCH_TOKENS", "some", "PIPELINE_MAX_BATCH_TOKENS: Input should be a valid integer"),
        ("PIPELINE_BATCH_WAIT_MS", "-1", "PIPELINE_BATCH_WAIT_MS: Input should be greater than or equal to 0"),
        ("PIPELINE_BATCH_WAIT_MS", "nan", "PIPELINE_BATCH_WAIT_MS: Input should be a finite number"),
        ("PIPELINE_REQUEST_TIMEOUT_S", "inf", "PIPELINE_REQUEST_TIMEOUT_S: Input should be less than or equal to"),
        ("PIPELINE_DTYPE", "int8", "PIPELINE_DTYPE: Input should be 'float32', 'bfloat16' or 'float16'"),
        ("PIPELINE_LOG_FORMAT", "xml", "PIPELINE_LOG_FORMAT: Input should be 'text' or 'json'"),
        ("PIPELINE_NAME", "a" * 101, "PIPELINE_NAME: String should have at most 100 characters"),
        ("PIPELINE_NAME", "two\nlines", "PIPELINE_NAME: a name has letters or digits, and no line breaks"),
        (
            "PIPELINE_NAME",
            "\N{RIGHT-TO-LEFT OVERRIDE}ledom",
            "PIPELINE_NAME: a name has letters or digits, and no line breaks",
        ),
        ("PIPELINE_NAME", "  ", "PIPELINE_NAME: a name has letters or digits"),
        ("PIPELINE_TRUNCATE", "maybe", "PIPELINE_TRUNCATE: Input should be a valid boolean"),
        ("PIPELINE_MAX_INPUTS", "513", "max_inputs (513) must not be over max_requests (512)"),
        (
            "PIPELINE_MAX_BATCHSIZE",
            "8",
            "PIPELINE_MAX_BATCHSIZE is not a setting; did you mean PIPELINE_MAX_BATCH_SIZE?",
        ),
        ("PIPELINE_X", "8", "PIPELINE_X is not a setting; the settings are PIPELINE_MODEL,"),
    ],
)
def test_a_wrong_or_unknown_variable_stops_the_start_with_one_line(
    name: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = error_line(monkeypatch, **{name: value})
    assert line.startswith("pipeline-webserver: ")
    assert words in line


def test_every_wrong_variable_is_in_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    line = error_line(monkeypatch, PIPELINE_THREADS="x", PIPELINE_MAX_INPUTS="y")
    assert "PIPELINE_THREADS" in line
    assert "PIPELINE_MAX_INPUTS" in line


def test_the_key_shows_neither_in_the_settings_nor_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "hush" not in repr(read(monkeypatch, PIPELINE_API_KEY="hush"))
    assert "hush" not in error_line(monkeypatch, PIPELINE_THREADS="hush")


def test_variables_of_other_programs_are_not_ours() -> None:
    assert misspelt({"PATH": "/bin", "MY_PIPELINE_MODEL": "x", "pipeline_model": "fine on any case"}) is None


def test_settings_are_frozen_and_take_no_unknown_name() -> None:
    with pytest.raises(ValidationError):
        Settings().model = "another"
    with pytest.raises(ValidationError):
        Settings(modle="x")  # type: ignore[call-arg]


@pytest.mark.parametrize("keys", [" ", ",", "a,,b", "a, "])
def test_an_empty_key_among_the_keys_stops_the_start(keys: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="PIPELINE_API_KEY: a key is empty"):
        read(monkeypatch, PIPELINE_API_KEY=keys)


def test_an_override_replaces_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_MODEL", "of/the-environment")
    monkeypatch.setenv("PIPELINE_TASK", "fill-mask")
    settings = from_environment(model="a/b")
    assert (settings.model, settings.task) == ("a/b", "fill-mask")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("model", "the bundled model"),
        ("revision", "none"),
        ("threads", "auto"),
        ("accelerate", "true"),
        ("batch_wait_ms", "1"),
        ("api_key", "none"),
        ("log_format", "text"),
    ],
)
def test_a_default_is_as_its_variable_would_be_set_or_in_words(name: str, text: str) -> None:
    assert default_text(name) == text


def test_the_help_of_the_settings_has_each_variable_with_its_default_and_its_description() -> None:
    text = settings_help()
    assert max(map(len, text.splitlines())) <= 100
    words = " ".join(text.split())
    for name, field in Settings.model_fields.items():
        assert f"{variable(name)} (default: {default_text(name)}) {field.description}" in words
