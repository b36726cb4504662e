"""The wire contract of `POST /v1/embeddings`, OpenAI's, pure: request bytes to inputs, embeddings to JSON bytes.

It must never know Starlette, the queue or the model.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from pipeline_webserver.api.codec import read_json, to_json
from pipeline_webserver.api.inference_api import InferenceRequest
from pipeline_webserver.api.parameters import integral_float_to_int
from pipeline_webserver.api.tasks import TASKS
from pipeline_webserver.errors import Malformed, Rejected, TooLarge
from pipeline_webserver.model_info import ModelInfo

# Ids of another tokenizer cannot be told from the model's own, and would get another text's embedding.
NO_TOKENS = "Token ids are not taken; LangChain's OpenAIEmbeddings sends texts with check_embedding_ctx_length=False."
EncodingFormat = Literal["float", "base64"]


class EmbeddingsBody(BaseModel):
    """`input` is a text or a list of texts; what is not here is ignored, as other servers of this form do."""

    model_config = ConfigDict(extra="ignore", strict=True)

    input: str | list[str]
    model: str | None = None
    encoding_format: EncodingFormat = "float"
    dimensions: Annotated[int, BeforeValidator(integral_float_to_int), Field(ge=1)] | None = None
    user: str | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingsRequest(InferenceRequest):
    """An inference request for embeddings, and how the answer writes them."""

    encoding_format: EncodingFormat = "float"


def parse(body: bytes, max_inputs: int) -> EmbeddingsRequest:
    """Raises `Malformed`, `Rejected` or `TooLarge`."""
    checked = _checked(read_json(body))
    inputs: list[Any] = [checked.input] if isinstance(checked.input, str) else list(checked.input)
    if len(inputs) > max_inputs:
        raise TooLarge(f"The request has {len(inputs)} inputs; the limit is {max_inputs}.")
    if not inputs or not all(inputs):
        raise Rejected("'input' has an empty text or none.")
    parameters: dict[str, object] = {"pooled": True}
    if checked.dimensions is not None:
        parameters["dimensions"] = checked.dimensions
    return EmbeddingsRequest(inputs, parameters, is_json=True, is_list=True, encoding_format=checked.encoding_format)


def _checked(form: object) -> EmbeddingsBody:
    if not isinstance(form, dict):
        raise Malformed('The JSON form is {"input": a text or a list of texts, "model": ...}.')
    try:
        return EmbeddingsBody.model_validate({name: value for name, value in form.items() if value is not None})
    except ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: ValidationError) -> Malformed | Rejected:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    name = str(first["loc"][0])
    if name == "input" and first["type"] != "missing":
        return Malformed(f"'input' must be a text or a list of texts. {NO_TOKENS}")
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
    task = next(name for name, served in TASKS.items() if served.pooled)
    needed = f"Embeddings are for the task {task} and models with a sentence-transformers configuration"
    runs = f"this server runs {info.model} for {info.task}"
    if info.no_embedding:
        return f"{needed}; {runs}, and {info.no_embedding}."
    if info.task != task:
        source = f" (by {info.task_source})" if info.task_source else ""
        return f"{needed}; {runs}{source}: PIPELINE_TASK={task} serves a model that has them."
    return f"{needed}; {runs}, which has no modules.json."
