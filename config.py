"""The settings: every knob with its default, its unit and what breaks when it is set badly.

Owns `Settings`, how it is read from the environment and how it is explained. It must never know anything else of ours.
"""

import difflib
import os
import textwrap
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX = "PIPELINE_"
CLUSTER_PREFIX = "PIPELINE_CLUSTER_"  # of settings that are not the app's


def _split(value: object) -> object:
    return value.replace(",", " ").split() if isinstance(value, str) else value


def _split_keys(value: object) -> object:
    """Separated by commas; an empty one would be no key at all."""
    if not isinstance(value, str):
        return value
    keys = [key.strip() for key in value.split(",")]
    if not all(keys):
        raise ValueError("a key is empty")
    return keys


def _name(text: str) -> str:
    """A name goes into headings, titles and answers."""
    name = text.strip()
    if not name or not name.isprintable():
        raise ValueError("a name has letters or digits, and no line breaks or other characters that cannot be seen")
    return name


def auto(value: object) -> object:
    """`auto` is None: it is decided where more is known."""
    return None if value == "auto" else value


class Settings(BaseSettings):
    """The operator's choices. Frozen: read once at the start, passed down as plain arguments."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    model: str | None = Field(default=None, description="Hub id (`bert-base-uncased`) or local folder.")
    task: str | None = Field(
        default=None,
        description="Pipeline task; by default read off the model's files. One that the model has no trained weights "
        "for stops the start.",
    )
    revision: str | None = Field(
        default=None, description="Hub branch, tag or commit. Without one, the model may change at the next start."
    )
    name: Annotated[str, Field(max_length=100), AfterValidator(_name)] | None = Field(
        default=None,
        description="What the web UI, `/info`, the OpenAPI document and `/v1/embeddings` call the model, in at most "
        "100 characters. Clients may tell models apart by it.",
    )
    device: str = Field(
        default="auto", description="`auto`, `cpu`, `cuda:0`, `mps`. A device that is not there stops the start."
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None,
        description="`float32`, `bfloat16` or `float16`; default `float32` on a CPU, the checkpoint's elsewhere. "
        "The 16-bit types change the outputs a little, and are slow on CPUs without instructions for them.",
    )
    threads: Annotated[int | None, BeforeValidator(auto)] = Field(
        default=None,
        ge=1,
        description="Threads in one forward pass; `auto`: the cores this process may use, by affinity and quota, "
        "divided among the workers of uvicorn or gunicorn. More threads than cores makes every answer slower.",
    )
    accelerate: bool = Field(
        default=True,
        description="Apply the exact optimizations that the start measures to be faster. Off, the model runs as it was "
        "loaded.",
    )
    allow_untrained: bool = Field(
        default=False,
        description="Serve a model although weights that its answers depend on are in none of its files. They are "
        "random: the answers are noise, and others after each start.",
    )
    max_batch_size: int = Field(
        default=32,
        ge=1,
        description="Inputs in one batch, and texts that are generated at the same time. Higher makes the first of a "
        "batch wait for the last, and each token take longer.",
    )
    max_batch_tokens: Annotated[int | None, BeforeValidator(auto)] = Field(
        default=None,
        ge=1,
        description="Tokens in one forward pass, with the padding where it is computed; `auto`: the fewest that reach "
        "95 % of the best throughput, by the costs measured at warm-up, 16384 at most. Higher costs memory and "
        "waiting; a longer input runs alone.",
    )
    batch_wait_ms: float = Field(
        default=1,
        ge=0,
        le=10_000,
        allow_inf_nan=False,
        description="Milliseconds that the oldest input of a batch waits for more, from its arrival; 0 never waits. "
        "Higher makes the first of a batch slower by as much.",
    )
    max_requests: int = Field(
        default=512,
        ge=1,
        description="Inputs in flight before 503; a list counts each of its inputs. Higher means longer queues instead "
        "of quick rejections.",
    )
    max_inputs: int = Field(
        default=32, ge=1, description="Inputs in one request. Higher lets one client take a larger share of the server."
    )
    max_body_bytes: Annotated[int | None, BeforeValidator(auto)] = Field(
        default=None,
        ge=1,
        description="Bytes in one request's body; `auto`: 1 MiB, for images and audio 16 MiB. Higher lets a few "
        "clients fill the memory.",
    )
    max_new_tokens: int = Field(
        default=256,
        ge=1,
        description="Tokens generated for one input. Higher lets one request take a place among those that are "
        "generated for longer.",
    )
    max_cache_tokens: Annotated[int | None, BeforeValidator(auto)] = Field(
        default=None,
        ge=1,
        description="Tokens that there is room for in the keys and values of all texts that are generated at the same "
        "time; `auto`: half of the memory that is free at the start. Higher may run out of memory; a longer text is "
        "generated alone.",
    )
    max_image_pixels: int = Field(
        default=25_000_000,
        ge=1,
        description="Pixels of one image. Higher lets a small file fill the memory: a pixel takes up to 16 bytes.",
    )
    max_audio_s: float = Field(
        default=60,
        gt=0,
        le=86_400,
        description="Seconds of one recording. Higher lets one request hold up all others for longer.",
    )
    request_timeout_s: float = Field(
        default=30,
        gt=0,
        le=86_400,
        description="Seconds before 504. Higher keeps clients waiting on a server that cannot keep up.",
    )
    drain_timeout_s: float = Field(
        default=25,
        ge=0,
        le=86_400,
        description="Seconds that a shutdown waits for inputs in flight. Higher than the grace period of the "
        "supervisor, it loses them.",
    )
    truncate: bool = Field(
        default=False,
        description="Cut long inputs to the model's length instead of 413. The end of the text is then ignored.",
    )
    exit_on_failure: bool = Field(
        default=False,
        description="Exit with status 1 when the model is broken or stuck, for a supervisor to restart the server. "
        "Without a supervisor it stays down.",
    )
    api_key: Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_split_keys)] = Field(
        default=(),
        description="Requires `Authorization: Bearer ...` on every route but `/health`, `/ready` and the pages. Of "
        "several keys, separated by commas, each is valid, so that they can be rotated without a gap.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        default=(),
        description="Browser origins that may call, separated by commas. `*` lets every page on the web call.",
    )
    show_errors: bool = Field(
        default=False,
        description="Internal error details to clients. They can give away paths and code: for development.",
    )
    log_format: Literal["text", "json"] = Field(default="text", description="`text`, or `json`: one object a line.")

    @model_validator(mode="after")
    def _a_full_list_must_fit(self) -> Self:
        if self.max_inputs > self.max_requests:
            raise ValueError(
                f"max_inputs ({self.max_inputs}) must not be over max_requests ({self.max_requests}): "
                "such a request could never be admitted"
            )
        return self


# Defaults that are decided at the start, in words.
DEFAULTS = {
    "model": "the bundled model",
    "task": "from the model",
    "name": "from the model card",
    "dtype": "by the device",
}


def variable(name: str, kind: type[BaseSettings] = Settings) -> str:
    """The environment variable of a setting."""
    return kind.model_config["env_prefix"] + name.upper()


def default_text(name: str) -> str:
    """The default of one of the `Settings`, as its variable would be set, or in words."""
    field = Settings.model_fields[name]
    if name in DEFAULTS:
        return DEFAULTS[name]
    if field.default is None:
        return "auto" if BeforeValidator(auto) in field.metadata else "none"
    if isinstance(field.default, bool):
        return str(field.default).lower()
    return "none" if field.default == () else str(field.default)


def settings_help() -> str:
    """Every one of the `Settings` in two or more lines: its variable, its default and its description."""
    parts = []
    for name, field in Settings.model_fields.items():
        description = textwrap.fill(field.description or "", 100, initial_indent="    ", subsequent_indent="    ")
        parts.append(f"  {variable(name)} (default: {default_text(name)})\n{description}")
    return "\n".join(parts)


def misspelt(environment: Mapping[str, str], kind: type[BaseSettings] = Settings) -> str | None:
    """A line about the first variable with the prefix that is no setting of this kind, or None."""
    known, prefix = list(kind.model_fields), kind.model_config["env_prefix"]
    for name in sorted(environment):
        setting = name.upper().removeprefix(prefix).lower()
        ours = name.upper().startswith(prefix) and (kind is not Settings or not name.upper().startswith(CLUSTER_PREFIX))
        if ours and setting not in known:
            close = difflib.get_close_matches(setting, known, n=1)
            every = ", ".join(variable(name, kind) for name in known)
            hint = f"did you mean {variable(close[0], kind)}?" if close else f"the settings are {every}"
            return f"{name} is not a setting; {hint}"
    return None


def explain(error: ValidationError, kind: type[BaseSettings] = Settings) -> str:
    """A pydantic error as one line that names the variables, without their values: one may be a secret."""
    parts = []
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        where = variable(str(item["loc"][0]), kind) if item["loc"] else "settings"
        parts.append(f"{where}: {item['msg'].removeprefix('Value error, ')}")
    return "; ".join(parts)


AnySettings = TypeVar("AnySettings", bound=BaseSettings)


def read(kind: type[AnySettings], **overrides: Any) -> AnySettings:
    """Settings from the environment; `overrides` replace those of the environment.

    A wrong or unknown one exits the process, with one line and status 1.
    """
    if line := misspelt(os.environ, kind):
        raise SystemExit(f"pipeline-webserver: {line}")
    try:
        return kind(**overrides)
    except ValidationError as error:
        raise SystemExit(f"pipeline-webserver: {explain(error, kind)}") from None


def from_environment(**overrides: Any) -> Settings:
    """The settings of the app."""
    return read(Settings, **overrides)
