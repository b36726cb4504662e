"""What the server says: its counts on `/metrics`, and its log.

Owns the reading of both, and where they disagree with the account. It must never know the server's insides: what it
knows of those, it reads as an operator would.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from tests.chaos.account import Account

INJECTED = "an injected"  # what the exceptions of the app's faults begin with
# What the server may have counted for the requests of clients that disconnected.
DISCONNECTED = {200, 408, 499, 503, 504}


@dataclass(frozen=True, slots=True)
class Counts:
    """What `/metrics` says."""

    requests: Counter[tuple[str, int]]
    inputs: dict[str, int]
    in_flight: int
    deduplicated: int
    faults: dict[str, int]


def counts_of(text: str) -> Counts:
    samples = [one for family in text_string_to_metric_families(text) for one in family.samples]

    def total(name: str) -> int:
        return round(sum(one.value for one in samples if one.name == name))

    def by(label: str, name: str) -> dict[str, int]:
        return {one.labels[label]: round(one.value) for one in samples if one.name == name}

    requests: Counter[tuple[str, int]] = Counter()
    for one in samples:
        if one.name == "pipeline_requests_total":
            requests[one.labels["route"], int(one.labels["status"])] += round(one.value)
    return Counts(
        requests,
        by("outcome", "pipeline_inputs_total"),
        total("pipeline_inputs_in_flight"),
        total("pipeline_deduplicated_total"),
        by("kind", "chaos_faults_total"),
    )


def disagreements(account: Account, came: Counter[tuple[str, int]], counts: Counts) -> list[str]:
    """Where the server has not counted what came to the clients. Of disconnected ones it may not know."""
    broken = []
    extra = {key: counts.requests[key] - came[key] for key in counts.requests | came}
    for (route, status), more in sorted(extra.items()):
        if more < 0 or (more > 0 and not (route == "/" and status in DISCONNECTED)):
            broken.append(
                f"{route} {status}: {came[route, status]} came, the server counts {came[route, status] + more}"
            )
    if (more := sum(extra.values())) > account.vanished.total():
        broken.append(f"the server counts {more} requests more than came, but {account.vanished.total()} vanished")
    maximum = account.inputs_in + account.inputs_vanished
    if not account.inputs_in <= (out := sum(counts.inputs.values())) <= maximum:
        broken.append(f"{account.inputs_in} to {maximum} inputs went in, {out} came out")
    if counts.in_flight:
        broken.append(f"{counts.in_flight} inputs are left in flight")
    return broken


@dataclass(slots=True)
class Log:
    """What the log says: the numbers of the requests in it, stalls, and tracebacks that were not injected."""

    numbers: set[int] = field(default_factory=set)
    stalls: int = 0
    recoveries: int = 0
    foreign: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, lines: Iterable[str]) -> "Log":
        log, in_traceback = cls(), False
        for line in lines:
            if in_traceback and line.strip() and not line[0].isspace():  # it ends with the exception
                in_traceback = False
                if INJECTED not in line:
                    log.foreign.append(line.rstrip())
            if "Traceback (most recent call last)" in line:
                in_traceback = True
            elif found := re.search(r" request_id=(\d+) ", line):
                log.numbers.add(int(found[1]))
            log.stalls += "Stalled: " in line
            log.recoveries += "The stalled call goes on." in line
        return log

    def broken(self, hangs: int | None) -> list[str]:
        broken = [f"not injected: {line}" for line in self.foreign[:5]]
        if self.stalls != self.recoveries:
            broken.append(f"{self.stalls} stalls, {self.recoveries} recoveries")
        if hangs is not None and (self.stalls > hangs or (hangs and not self.stalls)):
            broken.append(f"{hangs} passes hung, but {self.stalls} stalls")
        return broken
