"""What is sent: good requests, bad ones, slow ones, and those of clients that leave.

Owns the kinds, how often each comes, and what each is promised. It must never know connections, nor the time.
"""

import itertools
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.chaos.plans import Plan, Text, request

MARK = "fault"
MAX_BODY_BYTES = 2**16
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
        text, top_k = self._text(marked=self._is_marked()), self.chance.randint(1, 20)
        body = json.dumps({"inputs": str(text), "parameters": {"top_k": top_k}}).encode()
        return self._answered(kind, number, request(number, body, JSON), text, predictions=top_k)

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
        # A full server refuses from the head, whatever the body is.
        allowed = frozenset({bad.status, *BUSY} if bad.inputs else {bad.status, 503})
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
    """A request that is rejected; if it has inputs, only after they were admitted."""

    status: int
    body: bytes
    headers: tuple[str, ...] = ()
    inputs: int = 0


JSON = "Content-Type: application/json"
LARGE = b"a" * (MAX_BODY_BYTES + 1)
BAD = {
    "no_mask": Bad(422, b"nothing is left out here", inputs=1),
    "not_utf8": Bad(400, b"caf\xe9 [MASK]"),
    "broken_json": Bad(400, b'{"inputs": "a [MASK]"', (JSON,)),
    "unknown_parameter": Bad(422, b'{"inputs": "a [MASK]", "parameters": {"magic": 1}}', (JSON,)),
    "too_many": Bad(413, json.dumps({"inputs": ["a [MASK]"] * 33}).encode(), (JSON,)),
    "too_large": Bad(413, LARGE),
    "too_large_chunked": Bad(413, b"%x\r\n%b\r\n0\r\n\r\n" % (len(LARGE), LARGE), ("Transfer-Encoding: chunked",)),
}
