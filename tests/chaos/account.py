"""What becomes of it: the account of how each request ended.

Owns what the clients counted, the promises that were broken to them, and the table of it. It must never know what the
server counts, nor how anything is sent.
"""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.connection import Reply
from tests.chaos.mix import WEIGHTS
from tests.chaos.plans import Plan

ADMITTED = {200, 422, 500, 504}  # the statuses of requests whose inputs were in flight, if they had any


@dataclass(slots=True)
class Account:
    """What became of each request. `silent` are those without an answer, by number, whose clients stayed."""

    sent: Counter[str] = field(default_factory=Counter)
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    vanished: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    silent: dict[int, tuple[str, str]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    by_route: Counter[tuple[str, int]] = field(default_factory=Counter)
    answered: set[int] = field(default_factory=set)  # those with a line in the log, by number
    inputs_in: int = 0
    inputs_vanished: int = 0
    texts_answered: int = 0
    held_back: int = 0

    def begin(self, plan: Plan) -> None:
        self.sent[plan.kind] += 1

    def end(self, plan: Plan, reply: Reply | None) -> None:
        """With an answer, or with none because the client has left."""
        if reply is None:
            self.vanished[plan.kind] += 1
            self.inputs_vanished += plan.inputs
            return
        self.answers[plan.kind, reply.status] += 1
        self.by_route[plan.route, reply.status] += 1
        if plan.route == "/":
            self.answered.add(plan.number)
        self.inputs_in += plan.inputs if reply.status in ADMITTED else 0
        self.texts_answered += len(plan.texts) if reply.status == 200 and plan.kind != "plain" else 0
        if (fault := plan.fault_of(reply)) is not None:
            self.wrong.append(fault)

    def fail(self, plan: Plan, error: Exception) -> None:
        """There was no answer, although the client stayed."""
        if isinstance(error, ConnectionRefusedError):
            self.refused[plan.kind] += 1
        else:
            self.silent[plan.number] = (plan.kind, f"{type(error).__name__}: {error}")

    def forgive(self, accepted: set[int]) -> None:
        """Of the silent, those that the server never had: the listener was closed with their connection in it."""
        for number in [number for number in self.silent if number not in accepted]:
            self.refused[self.silent.pop(number)[0]] += 1

    @property
    def lost(self) -> Counter[str]:
        return Counter(kind for kind, _ in self.silent.values())

    def broken(self, *, may_be_refused: bool) -> list[str]:
        """The promises that were broken."""
        ended = self.answers.total() + self.vanished.total() + self.refused.total() + len(self.silent)
        broken = [f"wrong: {fault}" for fault in self.wrong[:5]]
        broken += [f"lost: {kind} {number}: {why}" for number, (kind, why) in itertools.islice(self.silent.items(), 5)]
        if len(self.wrong) + len(self.silent) > len(broken):
            broken.append(f"in all {len(self.wrong)} wrong and {len(self.silent)} lost")
        if self.refused and not may_be_refused:
            broken.append(f"{self.refused.total()} connections refused")
        if ended != self.sent.total():
            broken.append(f"{self.sent.total()} sent, but {ended} ended")
        return broken

    def table(self) -> list[str]:
        """By kind: how many were sent, and what became of them."""
        statuses = sorted({status for _, status in self.answers})
        ways = [name for name, counts in self._other_ways() if counts]
        rows = [["kind", "sent", *map(str, statuses), *ways]]
        for kind in [kind for kind in (*WEIGHTS, "plain") if self.sent[kind]]:
            others = dict(self._other_ways())
            counts = [self.answers[kind, status] for status in statuses] + [others[way][kind] for way in ways]
            rows.append([kind, str(self.sent[kind]), *(str(count or "") for count in counts)])
        sums = [sum(int(row[column] or 0) for row in rows[1:]) for column in range(1, len(rows[0]))]
        return columns([*rows, ["all", *map(str, sums)]])

    def _other_ways(self) -> list[tuple[str, Counter[str]]]:
        return [("vanished", self.vanished), ("refused connection", self.refused), ("lost", self.lost)]


def listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
