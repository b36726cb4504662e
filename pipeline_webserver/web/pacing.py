"""Retry storms: a client that comes back at once after a refusal is held for a moment before its next one.

Else those who are refused would take the processor from the model: 128 clients that retry at once left a quarter of the
throughput. A client that waits as `Retry-After` says is never held. It must never know why a request is refused.
"""

import asyncio
from collections import OrderedDict

from starlette.datastructures import Address

from pipeline_webserver.telemetry import metrics

MAX_HOLD_S = 1.0
MAX_HELD = 1024  # requests at a time; each is a connection without a body
MAX_REMEMBERED = 8192  # connections that were refused


class RetryPacer:
    """Remembers which connections were refused, and until when they were asked to wait."""

    def __init__(self) -> None:
        self._retry_at: OrderedDict[Address, float] = OrderedDict()
        self._held = 0

    def remember(self, client: Address | None, retry_after_s: float) -> None:
        """This connection was refused, and asked to wait so long.

        Behind a proxy, and on a Unix socket, connections cannot be told apart, and none is remembered.
        """
        if client is None or not client.port:
            return
        self._retry_at.pop(client, None)
        self._retry_at[client] = asyncio.get_running_loop().time() + retry_after_s
        if len(self._retry_at) > MAX_REMEMBERED:
            self._retry_at.popitem(last=False)

    async def hold(self, client: Address | None, hold_s: float) -> None:
        """Hold a request for so long, a second at most, if its connection was refused and did not wait."""
        is_early = client is not None and self._retry_at.get(client, 0.0) > asyncio.get_running_loop().time()
        if not is_early or self._held >= MAX_HELD:
            return
        metrics.HELD.inc()
        self._held += 1
        try:
            await asyncio.sleep(min(hold_s, MAX_HOLD_S))
        finally:
            self._held -= 1
