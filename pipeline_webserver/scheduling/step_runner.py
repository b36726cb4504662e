"""What the continuous batcher needs of the thing that computes steps. It must never know what that computes."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pipeline_webserver.errors import PipelineServerError
from pipeline_webserver.scheduling.runner import Heartbeat


class RunningSequence(Protocol):
    """A sequence of tokens, of which a step computes some: at first those of its prompt, then each that follows."""

    @property
    def pending_tokens(self) -> int:
        """Tokens that are known and not computed yet."""

    @property
    def new_tokens(self) -> int:
        """Tokens that followed its prompt so far."""

    @property
    def is_ended(self) -> bool:
        """Whether it has its last token, or failed."""


class PreparedGeneration(Protocol):
    """An input that is ready to be generated from. `result` is its output or its error, once it has one."""

    @property
    def sequences(self) -> Sequence[Any]: ...
    @property
    def result(self) -> object | PipelineServerError | None: ...
    @property
    def tokens(self) -> int:
        """Of its prompt, and as many as may follow, of all its sequences."""

    @property
    def prompt_tokens(self) -> int: ...
    @property
    def cache_tokens(self) -> int:
        """The room that its keys and values take."""


class StepRunner(Protocol):
    """Preprocesses inputs, and computes steps: one call of each at a time, the two side by side."""

    @property
    def fixed_cost_tokens(self) -> float:
        """What a step costs besides its tokens, in tokens."""

    @property
    def max_cache_tokens(self) -> int:
        """The room for keys and values, in tokens."""

    async def preprocess(
        self, inputs: Sequence[tuple[object, Mapping[str, object]]], heartbeat: Heartbeat
    ) -> Sequence[PreparedGeneration | PipelineServerError]:
        """Check inputs, each with its parameters, and make them ready."""

    async def step(self, work: Sequence[tuple[Any, int]], released: Sequence[Any], heartbeat: Heartbeat) -> None:
        """Compute so many pending tokens of each sequence, and the token that follows where none is left.

        Before that, forget those that are `released`, which have been cancelled or are too late. Those of which every
        sequence has ended have their `result` then. Raises `Unavailable` when the model no longer works for any input.
        """

    async def run(self, batch: Sequence[Any], heartbeat: Heartbeat) -> Sequence[object | PipelineServerError]:
        """Generate for inputs without sequences, which cannot be generated from step by step."""
