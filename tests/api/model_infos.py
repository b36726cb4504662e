"""What is known of a model, made up."""

from typing import Any

from pipeline_webserver.model_info import EmbeddingInfo, ModelInfo


def model_info(**known: Any) -> ModelInfo:
    """Of a model with 128 tokens, with these fields besides."""
    always: dict[str, Any] = {"model": "m", "name": "a name", "task": "t", "device": "cpu", "dtype": "float32"}
    return ModelInfo(**{**always, "threads": 1, "max_tokens": 128, **known})


def embedding_info(*prompts: str) -> EmbeddingInfo:
    return EmbeddingInfo(
        dim=3, pooling=["mean"], normalize=True, max_tokens=None, prompts=list(prompts), default_prompt=None
    )
