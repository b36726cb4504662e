"""The workloads and their order: the number of clients, the arrivals, the rotation of the subjects.

Owns what is decided before anything runs; pure. It must never know HTTP, processes or models.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")

ALONE = "one caller"
BATCH_SIZES = (1, 4, 8, 16, 32)
START_S = 12.0  # about what it takes to start a process and load its model


@dataclass(frozen=True, slots=True)
class Closed:
    """So many clients, each of which sends its next request when the last is answered."""

    clients: int

    @property
    def name(self) -> str:
        return f"{self.clients} client{'s' * (self.clients > 1)}"


@dataclass(frozen=True, slots=True)
class Open:
    """Poisson arrivals at a share of a capacity: that of the server itself, or of the naive one."""

    share: float
    of_naive: bool

    @property
    def name(self) -> str:
        return f"{self.share:.0%} of {'the naive' if self.of_naive else 'its own'} capacity"


CLOSED = (Closed(1), Closed(8), Closed(32))
FULL = CLOSED[-1]  # its throughput is the server's capacity
OPEN = (Open(0.5, of_naive=False), Open(0.8, of_naive=False), Open(0.5, of_naive=True), Open(0.8, of_naive=True))


def batches_of(size: int) -> str:
    return f"batches of {size}"


def poisson_arrivals(rate_per_s: float, seconds: float, seed: int) -> list[float]:
    """When requests are due, in seconds from the start. A seed gives a pattern, scaled to the rate."""
    generator = random.Random(seed)  # noqa: S311 - repeatable, not secret
    due: list[float] = []
    now = generator.expovariate(rate_per_s)
    while now < seconds:
        due.append(now)
        now += generator.expovariate(rate_per_s)
    return due


def rotated(items: Sequence[Item], turn: int) -> list[Item]:
    """The same items, each turn with another one first."""
    first = turn % len(items) if items else 0
    return [*items[first:], *items[:first]]


def estimate_s(models: int, servers: int, rounds: int, seconds: float) -> float:
    """About how long a run takes, with two processes more than servers."""
    closed = servers * len(CLOSED)
    opened = servers * len(OPEN) - 2  # the naive server's own capacity is the naive one
    offline = 1 + 2  # one caller, and all batch sizes together
    measured = (closed + opened) * (seconds + 1) + offline * seconds
    return models * ((servers + 2) * START_S + rounds * measured)
