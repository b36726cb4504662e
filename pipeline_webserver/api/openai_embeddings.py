"""OpenAI's form of embeddings, pure: request bytes to inputs, embeddings to JSON bytes.

It must never know Starlette, the queue or the model.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from pipeline_webserver.api.inference_api import Work, read_json, to_json
from pipeline_webserver.api.tasks import whole
from pipeline_webserver.errors import Malformed, Rejected, TooLarge

Token = Annotated[int, BeforeValidator(whole)]


class EmbeddingsRequest(BaseModel):
    """`input` is a text, tokens of the model's own vocabulary, or a list of either. `model` and `user` mean nothing."""

    model_config = ConfigDict(extra="forbid", strict=True)

    input: str | list[str] | list[Token] | list[list[Token]]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingsWork(Work):
    """The same, and the encoding that is asked for."""

    encoding: str = "float"


def parse(body: bytes, max_inputs: int) -> EmbeddingsWork:
    """Raises `Malformed`, `Rejected` or `TooLarge`."""
    form = read_json(body)
    if not isinstance(form, dict):
        raise Malformed('The JSON form is {"input": a text, tokens, or a list of either, "model": ...}.')
    try:
        asked = EmbeddingsRequest.model_validate({name: value for name, value in form.items() if value is not None})
    except ValidationError as error:
        raise _told(error) from None
    is_one = isinstance(asked.input, str) or isinstance(next(iter(asked.input), None), int)
    inputs: list[Any] = [asked.input] if is_one else list(asked.input)
    if len(inputs) > max_inputs:
        raise TooLarge(f"The request has {len(inputs)} inputs; the limit is {max_inputs}.")
    if not inputs or not all(inputs):
        raise Rejected("'input' has an empty text or no tokens.")
    return EmbeddingsWork(inputs, {"pooled": True}, is_json=True, is_list=True, encoding=asked.encoding_format)


def _told(error: ValidationError) -> Malformed | Rejected:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        return Rejected(f"Unknown parameter {name!r}; there are {', '.join(EmbeddingsRequest.model_fields)}.")
    if name == "input" and first["type"] not in {"missing", "too_short"}:
        return Malformed("'input' must be a text, a list of texts, tokens (whole numbers), or a list of such lists.")
    kind = Malformed if first["type"].endswith("_type") or first["type"] == "missing" else Rejected
    return kind(f"Parameter {name!r}: {first['msg']}.")


def render(work: EmbeddingsWork, embeddings: Sequence[np.ndarray], tokens: int, model: str) -> bytes:
    """`embeddings` are float32 `[dimensions]`; `tokens` is how many the inputs have in all."""
    encoded = [_base64(one) if work.encoding == "base64" else one for one in embeddings]
    data = [{"object": "embedding", "index": index, "embedding": one} for index, one in enumerate(encoded)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return to_json({"object": "list", "data": data, "model": model, "usage": usage})


def _base64(embedding: np.ndarray) -> str:
    """Its float32 numbers, little-endian."""
    return base64.b64encode(embedding.astype("<f4").tobytes()).decode()
