"""The ordeal: the server under twice its capacity, with a model that fails at random and clients of every kind.

    python -m tests.ordeal --minutes 10

It starts `tests.ordeal_app` in a process of its own, and measures what it can. Then requests arrive at random, twice as
many as it can answer: good ones, bad ones, slow ones, some that hang up. At the end the process is told to end under
the same load. Each request ends in exactly one way, and what the server counts has to be what the clients counted. The
report has the figures and each promise that was broken; with one broken, the exit status is 1.

Owns the clients, and the account of what became of each request. It must never know the server's insides: what it knows
of those, it reads from `/metrics` and from the log, as an operator would.
"""

import argparse
import asyncio
import itertools
import json
import math
import random
import re
import signal
import socket
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.connection import Address, Connection, NotHttp, Reply
from benchmarks.figures import slope
from benchmarks.processes import Failed, Server
from benchmarks.soak import Samples, sample
from benchmarks.texts import whole_words
from config import BUNDLED_MODEL
from connections import allow_many_connections

MASK, MARK = "[MASK]", "fault"
INJECTED = "an injected"  # what the exceptions of the app's faults begin with
MOST_CONNECTIONS = 2_000
MEASURING_CLIENTS, ROUNDS = 32, 3
LEAST_PER_S = 10.0  # that arrive, however slow the machine
LOAD = 2.0  # by the capacity
PATIENCE_S = 30.0  # of a client: ten times what the server promises
WARM_UP_S = 60.0
MOST_BODY_BYTES = 2**16
SETTINGS = {
    "PIPELINE_REQUEST_TIMEOUT_S": "3",
    "PIPELINE_MAX_BODY_BYTES": str(MOST_BODY_BYTES),
    "ORDEAL_WORD": MARK,
    "ORDEAL_HANG_S": "4",
    "ORDEAL_MOST_ROWS": "8",
}
# Shares of the passes that have a marked text in them.
RATES = {"ORDEAL_RAISE": "0.5", "ORDEAL_OUT_OF_MEMORY": "0.05", "ORDEAL_HANG": "0.003"}
WEIGHTS = {
    "good": 60.0,
    "list": 5.0,
    "parameters": 8.0,
    "equal": 8.0,
    "short_deadline": 4.0,
    "slow_body": 1.5,
    "unfinished_body": 0.5,
    "no_mask": 1.0,
    "not_utf8": 1.0,
    "broken_json": 1.0,
    "unknown_parameter": 1.0,
    "too_many": 1.0,
    "too_large": 0.5,
    "too_large_chunked": 0.5,
    "unknown_path": 1.0,
    "leaves_in_head": 1.0,
    "leaves_in_body": 1.0,
    "leaves_at_once": 1.0,
    "leaves_waiting": 1.0,
    "health": 0.5,
    "ready": 0.5,
    "metrics": 0.5,
    "info": 0.5,
}
BUSY = {503, 504}
ERROR_TYPES = {
    400: {"malformed"},
    404: {"not_found"},
    408: {"too_slow"},
    413: {"too_large"},
    422: {"rejected"},
    500: {"inference_failed"},
    503: {"overloaded", "unavailable", "draining"},
    504: {"deadline_exceeded"},
}
ADMITTED = {200, 422, 500, 504}  # the statuses of those whose inputs were in the house, if they had any that could be
LEFT = {200, 408, 499, 503, 504}  # what the server may have counted for those who hung up


# What is sent


@dataclass(frozen=True, slots=True)
class Text:
    """What stands before the mask and after it. Drawn from thousands of words: no two are alike."""

    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.before} {MASK} {self.after}"

    def is_answered_by(self, guesses: Any, count: int) -> bool:
        """Whether these are so many guesses at the mask of this text, and of no other."""
        sequences = [guess["sequence"] for guess in guesses]
        return len(sequences) == count and all(
            sequence.startswith(self.before) and sequence.endswith(self.after) for sequence in sequences
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """One request, and what may come of it.

    The parts are sent with pauses of `pause_s` between them; a client that leaves does so after one more, if there is
    no answer by then, some with a reset. `inputs` are how many could enter the house, `texts` what a 200 answers.
    """

    kind: str
    number: int
    parts: tuple[bytes, ...]
    allowed: frozenset[int]
    texts: tuple[Text, ...] = ()
    guesses: int = 5
    inputs: int = 0
    is_list: bool = False
    route: str = "/"
    pause_s: float = 0.0
    leaves: bool = False
    resets: bool = False

    def fault_of(self, reply: Reply) -> str | None:
        """What is wrong with this answer to it, or None."""
        told = f"{self.kind} {self.number}: {reply.status} {reply.body[:200].decode(errors='replace')}"
        try:
            return None if self._is_right(reply) else told
        except (orjson.JSONDecodeError, LookupError, TypeError):
            return told

    def _is_right(self, reply: Reply) -> bool:
        if reply.status not in self.allowed:
            return False
        if reply.status != 200:
            return orjson.loads(reply.body)["error_type"] in ERROR_TYPES[reply.status]
        if not self.texts:
            return True
        answer = orjson.loads(reply.body)
        answers = answer if self.is_list else [answer]
        return len(answers) == len(self.texts) and all(
            text.is_answered_by(guesses, self.guesses) for text, guesses in zip(self.texts, answers, strict=True)
        )


def request(number: int, body: bytes, *headers: str, method: str = "POST", path: str = "/") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: ordeal", f"X-Request-ID: {number}", *headers]
    if not any(line.startswith("Transfer-Encoding") for line in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


class Mix:
    """Ever new requests, the same with the same seed."""

    def __init__(self, seed: int, words: Sequence[str], marked: float) -> None:
        self.chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._marked = marked  # share of the texts
        self._words = [word for word in words if word != MARK]
        self._numbers = itertools.count(1)
        self._equal = self._text()
        self._makers: dict[str, Callable[[str, int], Plan]] = {
            "plain": self._plain,
            "good": self._good,
            "list": self._list,
            "parameters": self._parameters,
            "equal": self._one_of_all,
            "short_deadline": self._short_deadline,
            "slow_body": self._dripped,
            "unfinished_body": self._dripped,
            "unknown_path": self._unknown_path,
            "leaves_in_head": self._leaving,
            "leaves_in_body": self._leaving,
            "leaves_at_once": self._leaving,
            "leaves_waiting": self._leaving,
            **dict.fromkeys(("health", "ready", "metrics", "info"), self._probe),
            **dict.fromkeys(BAD, self._bad),
        }

    def next(self) -> Plan:
        (kind,) = self.chance.choices(list(WEIGHTS), list(WEIGHTS.values()))
        return self.make(kind)

    def make(self, kind: str) -> Plan:
        return self._makers[kind](kind, next(self._numbers))

    def pause_s(self, per_second: float) -> float:
        return self.chance.expovariate(per_second)

    def _text(self, *, marked: bool = False) -> Text:
        before = self.chance.choices(self._words, k=self.chance.randint(4, 20))
        after = self.chance.choices(self._words, k=self.chance.randint(1, 3))
        return Text(" ".join([*before, MARK] if marked else before), " ".join(after))

    def _is_marked(self) -> bool:
        return self.chance.random() < self._marked

    def _answered(self, kind: str, number: int, whole: bytes, *texts: Text, **options: Any) -> Plan:
        may_fail = any(MARK in text.before.split() for text in texts)
        allowed = frozenset({200, 500, *BUSY} if may_fail else {200, *BUSY})
        return Plan(kind, number, (whole,), allowed, texts, inputs=len(texts), **options)

    def _plain(self, kind: str, number: int) -> Plan:
        text = self._text()
        return self._answered(kind, number, request(number, str(text).encode()), text)

    def _good(self, kind: str, number: int) -> Plan:
        text = self._text(marked=self._is_marked())
        return self._answered(kind, number, request(number, str(text).encode()), text)

    def _list(self, kind: str, number: int) -> Plan:
        texts = [self._text(marked=self._is_marked()) for _ in range(self.chance.randint(1, 8))]
        body = json.dumps({"inputs": list(map(str, texts))}).encode()
        return self._answered(kind, number, request(number, body, JSON), *texts, is_list=True)

    def _parameters(self, kind: str, number: int) -> Plan:
        text, guesses = self._text(marked=self._is_marked()), self.chance.randint(1, 20)
        body = json.dumps({"inputs": str(text), "parameters": {"top_k": guesses}}).encode()
        return self._answered(kind, number, request(number, body, JSON), text, guesses=guesses)

    def _one_of_all(self, kind: str, number: int) -> Plan:
        return self._answered(kind, number, request(number, str(self._equal).encode()), self._equal)

    def _short_deadline(self, kind: str, number: int) -> Plan:
        text = self._text()
        return self._answered(kind, number, request(number, str(text).encode(), "X-Request-Timeout: 0.5"), text)

    def _dripped(self, kind: str, number: int) -> Plan:
        """The head, then the body in six parts; of some, never the last."""
        text = self._text()
        body = str(text).encode()
        size = math.ceil(len(body) / 6)
        head = request(number, body).removesuffix(body)
        parts = (head, *(body[start : start + size] for start in range(0, len(body), size)))
        pause_s = self.chance.uniform(0.02, 0.4)
        if kind == "unfinished_body":
            return Plan(kind, number, parts[:-1], frozenset({408, 503}), pause_s=pause_s)
        return Plan(kind, number, parts, frozenset({200, 408, *BUSY}), (text,), inputs=1, pause_s=pause_s)

    def _unknown_path(self, kind: str, number: int) -> Plan:
        whole = request(number, b"a [MASK]", path=f"/{self._text().before.split()[0]}/{number}")
        return Plan(kind, number, (whole,), frozenset({404}), route="unknown")

    def _probe(self, kind: str, number: int) -> Plan:
        allowed = frozenset({200, 503} if kind in {"health", "ready"} else {200})
        whole = request(number, b"", method="GET", path=f"/{kind}")
        return Plan(kind, number, (whole,), allowed, route=f"/{kind}")

    def _bad(self, kind: str, number: int) -> Plan:
        bad = BAD[kind]
        whole = request(number, bad.body, *bad.headers)
        allowed = frozenset({bad.status, *BUSY} if bad.inputs else {bad.status})
        return Plan(kind, number, (whole,), allowed, inputs=bad.inputs)

    def _leaving(self, kind: str, number: int) -> Plan:
        text = self._text()
        whole = request(number, str(text).encode())
        head = whole.index(b"\r\n\r\n") + 4
        cut = {"leaves_in_head": self.chance.randrange(1, head - 2), "leaves_in_body": head + 2}.get(kind, len(whole))
        wait_s = 0.0 if kind == "leaves_at_once" else self.chance.uniform(0.0, 1.0)
        resets = self.chance.random() < 0.5
        all_sent = cut == len(whole)
        allowed = frozenset({200, *BUSY} if all_sent else {408, 503})
        texts = (text,) if all_sent else ()
        return Plan(
            kind, number, (whole[:cut],), allowed, texts, inputs=len(texts), pause_s=wait_s, leaves=True, resets=resets
        )


@dataclass(frozen=True, slots=True)
class Bad:
    """A request that is refused; if it has inputs, only after they were let in."""

    status: int
    body: bytes
    headers: tuple[str, ...] = ()
    inputs: int = 0


JSON = "Content-Type: application/json"
LARGE = b"a" * (MOST_BODY_BYTES + 1)
BAD = {
    "no_mask": Bad(422, b"nothing is left out here", inputs=1),
    "not_utf8": Bad(400, b"caf\xe9 [MASK]"),
    "broken_json": Bad(400, b'{"inputs": "a [MASK]"', (JSON,)),
    "unknown_parameter": Bad(422, b'{"inputs": "a [MASK]", "parameters": {"magic": 1}}', (JSON,)),
    "too_many": Bad(413, json.dumps({"inputs": ["a [MASK]"] * 33}).encode(), (JSON,)),
    "too_large": Bad(413, LARGE),
    "too_large_chunked": Bad(413, b"%x\r\n%b\r\n0\r\n\r\n" % (len(LARGE), LARGE), ("Transfer-Encoding: chunked",)),
}


# What becomes of it


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

    def broken(self, *, may_refuse: bool) -> list[str]:
        """The promises that were broken."""
        ended = self.answers.total() + self.vanished.total() + self.refused.total() + len(self.silent)
        broken = [f"wrong: {fault}" for fault in self.wrong[:5]]
        broken += [f"lost: {kind} {number}: {why}" for number, (kind, why) in itertools.islice(self.silent.items(), 5)]
        if len(self.wrong) + len(self.silent) > len(broken):
            broken.append(f"in all {len(self.wrong)} wrong and {len(self.silent)} lost")
        if self.refused and not may_refuse:
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


# The clients


class Client(Connection):
    """A connection whose client may send in parts, and leave with a reset."""

    def send(self, part: bytes) -> None:
        if self._transport is not None and self.usable:
            self._transport.write(part)

    def reset(self) -> None:
        if self._transport is not None and self.usable:  # it may be closed already: by the server, or by a late answer
            opened = self._transport.get_extra_info("socket")
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()


async def carry_out(plan: Plan, client: Client) -> Reply | None:
    """The answer, or None if the client left before it. Raises `OSError`, `NotHttp`."""
    reply = asyncio.ensure_future(client.exchange(plan.parts[0]))
    try:
        for part in plan.parts[1:]:
            await asyncio.wait({reply}, timeout=plan.pause_s)
            client.send(part)
        if plan.leaves:
            await asyncio.wait({reply}, timeout=plan.pause_s)
            if not reply.done():
                return None
        async with asyncio.timeout(PATIENCE_S):
            return await reply
    finally:
        reply.cancel()
        await asyncio.wait({reply})


class Clients:
    """All clients. With `keep`, connections are used again after an answer to a request that was sent whole."""

    def __init__(self, address: Address, account: Account, *, keep: bool) -> None:
        self.address = address
        self.account = account
        self.keep = keep
        self._idle: list[Client] = []
        self._open = 0

    @property
    def full(self) -> bool:
        return self._open >= MOST_CONNECTIONS

    async def ask(self, plan: Plan) -> Reply | None:
        self.account.begin(plan)
        self._open += 1
        try:
            client = await self._take()
            reply = await self._ask(plan, client)
        except (OSError, NotHttp) as error:
            self.account.fail(plan, error)
            return None
        finally:
            self._open -= 1
        self.account.end(plan, reply)
        return reply

    async def _ask(self, plan: Plan, client: Client) -> Reply | None:
        reply = None
        try:
            reply = await carry_out(plan, client)
        finally:
            if self.keep and reply is not None and len(plan.parts) == 1 and client.usable:
                self._idle.append(client)
            elif plan.resets:
                client.reset()
            else:
                client.close()
        return reply

    async def _take(self) -> Client:
        while self._idle:
            if (client := self._idle.pop()).usable:
                return client
        _, client = await asyncio.get_running_loop().create_connection(Client, *self.address)
        return client

    def close(self) -> None:
        for client in self._idle:
            client.close()


async def closed_loop(clients: Clients, mix: Mix, seconds: float) -> float:
    """The right answers in a second when clients that nothing is wrong with always have their next request at hand."""
    loop, answers = asyncio.get_running_loop(), clients.account.answers
    started, before = loop.time(), answers["plain", 200]

    async def ask_on() -> None:
        while loop.time() < started + seconds:
            await clients.ask(mix.make("plain"))

    await asyncio.gather(*(ask_on() for _ in range(MEASURING_CLIENTS)))
    return (answers["plain", 200] - before) / (loop.time() - started)


async def open_loop(clients: Clients, mix: Mix, per_second: float, seconds: float) -> None:
    """Arrivals at random, however many are unanswered, up to the most connections."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    end = due + seconds
    async with asyncio.TaskGroup() as group:
        while (due := due + mix.pause_s(per_second)) < end:
            plan = mix.next()
            await asyncio.sleep(due - loop.time())
            if clients.full:
                clients.account.held_back += 1
            else:
                group.create_task(clients.ask(plan))


# What the server says


@dataclass(frozen=True, slots=True)
class Counts:
    """What `/metrics` says."""

    requests: Counter[tuple[str, int]]
    inputs: dict[str, int]
    in_house: int
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
        total("pipeline_in_house"),
        total("pipeline_deduplicated_total"),
        by("kind", "ordeal_faults_total"),
    )


def disagreements(account: Account, came: Counter[tuple[str, int]], counts: Counts) -> list[str]:
    """Where the server has not counted what came to the clients. Of those who hung up, it may or may not know."""
    broken = []
    extra = {key: counts.requests[key] - came[key] for key in counts.requests | came}
    for (route, status), more in sorted(extra.items()):
        if more < 0 or (more > 0 and not (route == "/" and status in LEFT)):
            broken.append(
                f"{route} {status}: {came[route, status]} came, the server counts {came[route, status] + more}"
            )
    if (more := sum(extra.values())) > account.vanished.total():
        broken.append(f"the server counts {more} requests more than came, but {account.vanished.total()} vanished")
    most = account.inputs_in + account.inputs_vanished
    if not account.inputs_in <= (out := sum(counts.inputs.values())) <= most:
        broken.append(f"{account.inputs_in} to {most} inputs went in, {out} came out")
    if counts.in_house:
        broken.append(f"{counts.in_house} inputs are left in the house")
    return broken


@dataclass(slots=True)
class Log:
    """What the log says: the numbers of the requests in it, alarms, and tracebacks that were not injected."""

    numbers: set[int] = field(default_factory=set)
    stuck: int = 0
    back: int = 0
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
            log.stuck += "The model is stuck" in line
            log.back += "The model is back" in line
        return log

    def broken(self, hangs: int | None) -> list[str]:
        broken = [f"not injected: {line}" for line in self.foreign[:5]]
        if self.stuck != self.back:
            broken.append(f"stuck {self.stuck} times, back {self.back} times")
        if hangs is not None and (self.stuck > hangs or (hangs and not self.stuck)):
            broken.append(f"{hangs} passes hung, but {self.stuck} alarms")
        return broken


# The run


@dataclass(frozen=True, slots=True)
class Options:
    """How long each part takes, and what the app is told."""

    seconds: float
    capacity_s: float = 6.0
    drain_s: float = 6.0
    seed: int = 1
    marked: float = 0.03
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Report:
    """The figures, and the promises that were broken."""

    options: Options
    capacity_per_s: float = 0.0
    main: Account = field(default_factory=Account)
    drain: Account = field(default_factory=Account)
    counts: Counts | None = None
    samples: Samples = field(default_factory=list)
    stuck: int = 0
    exit_status: int | None = None
    broken: list[str] = field(default_factory=list)

    @property
    def offered_per_s(self) -> float:
        return max(LEAST_PER_S, LOAD * self.capacity_per_s)

    def lines(self) -> list[str]:
        account, seconds = self.main, self.options.seconds
        sent = account.sent.total() - account.sent["plain"]
        lines = [
            f"seed {self.options.seed}, {seconds:g} s at {LOAD:g} times its {self.capacity_per_s:.0f} texts/s",
            f"offered: {sent / seconds:.0f} requests/s, held back for want of connections: {account.held_back}",
            f"answered with 200: {account.texts_answered / seconds:.0f} texts/s",
        ]
        if self.counts is not None:
            lines += [
                f"faults: {listed(self.counts.faults)}; stuck and back {self.stuck} times",
                f"texts that were in the house: {listed(self.counts.inputs)}; as another: {self.counts.deduplicated}",
                f"computed in vain, because too late or for nobody: {self._in_vain(self.counts)} texts",
            ]
        lines += [self._memory(), "", *account.table(), "", "ended under load", *self.drain.table()]
        lines += [f"exit status {self.exit_status}", ""]
        return [*lines, "broken promises:" if self.broken else "no promise was broken", *self.broken]

    def _in_vain(self, counts: Counts) -> int:
        return counts.inputs.get("answered", 0) - self.main.texts_answered - self.main.answers["plain", 200]

    def _memory(self) -> str:
        if not self.samples:
            return "memory: unknown"
        warm = [(at / 60, mb) for at, mb in self.samples if at >= WARM_UP_S]
        values = [mb for _, mb in self.samples]
        told = f"memory: start {values[0]:.0f} MB, end {values[-1]:.0f} MB, max {max(values):.0f} MB"
        late = f", after a minute {warm[0][1]:.0f} MB, from then on {slope(warm):+.2f} MB/min" if warm else ""
        return told + late


async def ordeal(options: Options, folder: Path) -> Report:
    """Raises `Failed` if the server does not start."""
    log = folder / "server.log"
    environment = {**SETTINGS, **RATES, "ORDEAL_SEED": str(options.seed), **options.environment}
    server = Server("tests.ordeal_app:app", environment, log)
    mix = Mix(options.seed, whole_words(Path(BUNDLED_MODEL)), options.marked)
    report = Report(options)
    try:
        await server.start()
        await under_load(server, mix, report)
        with log.open(errors="replace") as lines:
            in_main = Log.of(lines)
            await until_the_end(server, mix, report)
            in_drain = Log.of(lines)
    finally:
        await server.end()
    report.stuck = in_main.stuck
    report.drain.forgive(in_drain.numbers)
    if missing := report.drain.answered - in_drain.numbers:
        report.broken.append(f"{len(missing)} requests at the end were answered, but are not in the log")
    report.broken += in_main.broken(report.counts.faults["hang"] if report.counts else None)
    report.broken += report.drain.broken(may_refuse=True) + in_drain.broken(None)
    return report


async def under_load(server: Server, mix: Mix, report: Report) -> None:
    options, account = report.options, report.main
    clients = Clients(server.address, account, keep=True)
    # The best of a few rounds: what else the machine does can only make them slower.
    rounds = [await closed_loop(clients, mix, options.capacity_s / ROUNDS) for _ in range(ROUNDS)]
    report.capacity_per_s = max(rounds)
    sampling = asyncio.create_task(sample(server, min(5.0, options.seconds / 20), report.samples))
    await open_loop(clients, mix, report.offered_per_s, options.seconds)
    await compare(clients, mix, report)
    sampling.cancel()
    await asyncio.wait({sampling})
    clients.close()
    report.broken += account.broken(may_refuse=False)


async def compare(clients: Clients, mix: Mix, report: Report) -> None:
    """After the load: all is as if nothing had been, and nobody is forgotten."""
    account = clients.account
    for _ in range(100):  # those who hung up are dropped when their turn comes
        came = account.by_route.copy()  # an answer with metrics does not count itself
        reply = await clients.ask(mix.make("metrics"))
        if reply is None:
            report.broken.append("there are no metrics")
            return
        counts = report.counts = counts_of(reply.body.decode())
        if counts.in_house == 0:
            break
        await asyncio.sleep(0.1)
    report.broken += disagreements(account, came, counts)
    for kind in ("equal", "health"):
        reply = await clients.ask(mix.make(kind))
        if reply is None or reply.status != 200:
            report.broken.append(f"after the load, {kind} is answered with {reply and reply.status}")


async def until_the_end(server: Server, mix: Mix, report: Report) -> None:
    """SIGTERM in the middle of the same load, a connection for each request."""
    clients = Clients(server.address, report.drain, keep=False)
    seconds = report.options.drain_s
    load = asyncio.create_task(open_loop(clients, mix, report.offered_per_s, seconds))
    await asyncio.sleep(seconds / 2)
    with suppress(ProcessLookupError):
        server.process.send_signal(signal.SIGTERM)
    await load
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            report.exit_status = await server.process.wait()
    if report.exit_status != 0:
        report.broken.append(f"the exit status is {report.exit_status}")


async def until_terminated(options: Options, folder: Path) -> Report:
    """The same, but the server ends also when this process is told to."""
    task = asyncio.current_task()
    assert task is not None
    with suppress(NotImplementedError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await ordeal(options, folder)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.ordeal", description="What the server withstands.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if not arguments.minutes > 0:
        parser.error("--minutes is a number over 0")
    options = Options(60 * arguments.minutes, seed=arguments.seed)
    sys.stdout.write(f"This takes about {arguments.minutes + 0.5:g} minutes, and wants the machine to itself.\n")
    sys.stdout.flush()
    allow_many_connections()
    with tempfile.TemporaryDirectory(prefix="ordeal-") as folder:
        try:
            report = asyncio.run(until_terminated(options, Path(folder)))
        except Failed as error:
            raise SystemExit(str(error)) from None
        except (KeyboardInterrupt, asyncio.CancelledError):
            raise SystemExit("Stopped; the server has ended.") from None
    sys.stdout.write("\n".join([*report.lines(), ""]))
    raise SystemExit(bool(report.broken))


if __name__ == "__main__":
    main()
