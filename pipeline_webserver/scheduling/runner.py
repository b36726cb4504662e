"""What the serving loop needs of the thing that runs batches. It must never know what that computes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from pipeline_webserver.errors import PipelineServerError

Heartbeat = Callable[[], None]


class Prepared(Protocol):
    """An input that is ready for the model."""

    @property
    def tokens(self) -> int: ...


class Runner(Protocol):
    """Preprocesses inputs and runs batches of them: one call of each at a time, the two side by side.

    Each result is an output, or the error that this one input failed with. Both call `heartbeat` in the event loop when
    a long call has done a part of its work.
    """

    @property
    def fixed_cost_tokens(self) -> float:
        """What a batch costs besides its tokens, in tokens."""

    async def preprocess(
        self, inputs: Sequence[tuple[object, Mapping[str, object]]], heartbeat: Heartbeat
    ) -> Sequence[Prepared | PipelineServerError]:
        """Check inputs, each with its parameters, and make them ready for the model."""

    async def run(self, batch: Sequence[Any], heartbeat: Heartbeat) -> Sequence[object | PipelineServerError]:
        """Raises `Unavailable` when the model no longer works for any input."""
