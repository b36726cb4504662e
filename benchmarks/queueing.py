"""A simulated server with dynamic batching: what a batch costs, and the latency of requests under a load.

Owns the simulation, which has two parameters and one rule of the server: all that waits when the model becomes free
goes into the next batch, up to the largest. Pure. It must never know what was measured, nor how.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

SEED = 1


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a batch: a fixed time, and a time for each text of average length, in seconds."""

    fixed_s: float
    text_s: float


def fit(alone_per_s: float, together_per_s: float, together: float) -> Cost:
    """The cost, from the throughput of two closed loops: one client, and `together` clients that share batches."""
    text_s = (together / together_per_s - 1 / alone_per_s) / (together - 1)
    return Cost(1 / alone_per_s - text_s, text_s)


def simulate(
    cost: Cost, rate_per_s: float, lengths: Sequence[float], max_batch_size: int, requests: int = 20_000
) -> list[float]:
    """The latencies of so many Poisson arrivals, in seconds and in the order of arrival.

    `lengths` are those of the texts, in any unit, repeated; a text costs in proportion to its length.
    """
    generator = random.Random(SEED)  # noqa: S311 - repeatable, not secret
    mean = sum(lengths) / len(lengths)
    costs_s = [cost.text_s * length / mean for length in lengths]
    arrivals_s, now_s = [], 0.0
    for _ in range(requests):
        now_s += generator.expovariate(rate_per_s)
        arrivals_s.append(now_s)
    latencies_s: list[float] = []
    free_s = 0.0
    while (first := len(latencies_s)) < requests:
        begins_s = max(free_s, arrivals_s[first])
        after = first + 1
        while after < min(requests, first + max_batch_size) and arrivals_s[after] <= begins_s:
            after += 1
        free_s = begins_s + cost.fixed_s + sum(costs_s[index % len(costs_s)] for index in range(first, after))
        latencies_s += [free_s - arrived_s for arrived_s in arrivals_s[first:after]]
    return latencies_s
