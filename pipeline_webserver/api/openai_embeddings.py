"""The wire contract of `POST /v1/embeddings`, OpenAI's, pure: request bytes to inputs, embeddings to JSON bytes.

It must never know Starlette, the queue or the model.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from pipeline_webserver.api.codec import read_json, to_json
from pipeline_webserver.api.inference_api import InferenceRequest
from pipeline_webserver.api.parameters import integral_float_to_int
from pipeline_webserver.errors import Malformed, Rejected, TooLarge
from pipeline_webserver.model_info import ModelInfo

Token = Annotated[int, BeforeValidator(integral_float_to_int)]
EncodingFormat = Literal["float", "base64"]


class EmbeddingsBody(BaseModel):
    """`input` is a text, tokens of the model's own vocabulary, or a list of either. `model` and `user` are ignored."""

    model_config = ConfigDict(extra="forbid", strict=True)

    input: str | list[str] | list[Token] | list[list[Token]]
    model: str | None = None
    encoding_format: EncodingFormat = "float"
    user: str | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingsRequest(InferenceRequest):
    """An inference request for embeddings, and how the answer writes them."""

    encoding_format: EncodingFormat = "float"


def parse(body: bytes, max_inputs: int) -> EmbeddingsRequest:
    """Raises `Malformed`, `Rejected` or `TooLarge`."""
    checked = _checked(read_json(body))
    is_one = isinstance(checked.input, str) or isinstance(next(iter(checked.input), None), int)
    inputs: list[Any] = [checked.input] if is_one else list(checked.input)
    if len(inputs) > max_inputs:
        raise TooLarge(f"The request has {len(inputs)} inputs; the limit is {max_inputs}.")
    if not inputs or not all(inputs):
        raise Rejected("'input' has an empty text or no tokens.")
    return EmbeddingsRequest(
        inputs, {"pooled": True}, is_json=True, is_list=True, encoding_format=checked.encoding_format
    )


def _checked(form: object) -> EmbeddingsBody:
    if not isinstance(form, dict):
        raise Malformed('The JSON form is {"input": a text, tokens, or a list of either, "model": ...}.')
    try:
        return EmbeddingsBody.model_validate({name: value for name, value in form.items() if value is not None})
    except ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: ValidationError) -> Malformed | Rejected:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        return Rejected(f"Unknown parameter {name!r}; there are {', '.join(EmbeddingsBody.model_fields)}.")
    if name == "input" and first["type"] not in {"missing", "too_short"}:
        return Malformed("'input' must be a text, a list of texts, tokens (whole numbers), or a list of such lists.")
    kind = Malformed if first["type"].endswith("_type") or first["type"] == "missing" else Rejected
    return kind(f"Parameter {name!r}: {first['msg']}.")


def render(request: EmbeddingsRequest, embeddings: Sequence[np.ndarray], prompt_tokens: int, model: str) -> bytes:
    """The answer as JSON; `embeddings` are float32 `[dimensions]`, `prompt_tokens` is the sum over the inputs."""
    encoded = [_base64(one) if request.encoding_format == "base64" else one for one in embeddings]
    data = [{"object": "embedding", "index": index, "embedding": one} for index, one in enumerate(encoded)]
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return to_json({"object": "list", "data": data, "model": model, "usage": usage})


def _base64(embedding: np.ndarray) -> str:
    """Its float32 numbers, little-endian."""
    return base64.b64encode(embedding.astype("<f4").tobytes()).decode()


def why_not_served(info: ModelInfo) -> str:
    """Why there are no embeddings, and what an operator can set."""
    needed = "Embeddings are for the task feature-extraction and models with a sentence-transformers configuration"
    runs = f"this server runs {info.model} for {info.task}"
    if info.no_embedding:
        return f"{needed}; {runs}, and {info.no_embedding}."
    if info.task != "feature-extraction":
        source = f" (by {info.task_source})" if info.task_source else ""
        return f"{needed}; {runs}{source}: PIPELINE_TASK=feature-extraction serves a model that has them."
    return f"{needed}; {runs}, which has no modules.json."
