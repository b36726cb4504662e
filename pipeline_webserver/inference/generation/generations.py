"""An input that is generated from, and its sequences. It must never know how steps are computed, requests or HTTP."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline_webserver.errors import PipelineServerError
from pipeline_webserver.inference.generation.decoding import Decoding
from pipeline_webserver.inference.generation.kv_cache import Slot
from pipeline_webserver.inference.model_inputs import PreparedInput


@dataclass(slots=True, eq=False)
class GeneratedSequence:
    """A sequence of tokens that grows: those of the prompt, then those that were chosen."""

    generation: "Generation"
    tokens: list[int]
    prompt_tokens: int
    computed: int = 0  # tokens whose keys and values are in its slot
    slot: Slot | None = None
    is_ended: bool = False

    @property
    def pending_tokens(self) -> int:
        return len(self.tokens) - self.computed

    @property
    def new_tokens(self) -> int:
        return len(self.tokens) - self.prompt_tokens


@dataclass(slots=True, eq=False)
class Generation:
    """An input that is ready to be generated from; without `sequences` where that is not done step by step.

    `outputs` is what the pipeline's forward pass gives besides the tokens. `cache_tokens` is the room that its keys and
    values take. `result` is its output or its error, once every sequence has ended.
    """

    prepared: PreparedInput
    decoding: Decoding | None = None
    outputs: Mapping[str, Any] = field(default_factory=dict)
    sequences: list[GeneratedSequence] = field(default_factory=list)
    cache_tokens: int = 0
    result: object | PipelineServerError | None = None

    @property
    def prompt_tokens(self) -> int:
        return sum(model_input.num_tokens for model_input in self.prepared.model_inputs)

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + max(1, len(self.sequences)) * self.prepared.new_tokens
