"""One request, and what may come of it.

Owns what a right answer is, each status with its error types. It must never know how requests are drawn, nor how they
are sent.
"""

from dataclasses import dataclass
from typing import Any

import orjson

from benchmarks.connection import Reply

MASK = "[MASK]"
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


@dataclass(frozen=True, slots=True)
class Text:
    """What stands before the mask and after it. Drawn from thousands of words: no two are alike."""

    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.before} {MASK} {self.after}"

    def is_answered_by(self, predictions: Any, count: int) -> bool:
        """Whether these are so many predictions for the mask of this text, and of no other."""
        sequences = [prediction["sequence"] for prediction in predictions]
        return len(sequences) == count and all(
            sequence.startswith(self.before) and sequence.endswith(self.after) for sequence in sequences
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """One request, and what may come of it.

    The parts are sent with pauses of `pause_s` between them; a client that leaves does so after one more, if there is
    no answer by then, some with a reset. `inputs` are how many could be admitted, `texts` what a 200 answers.
    """

    kind: str
    number: int
    parts: tuple[bytes, ...]
    allowed: frozenset[int]
    texts: tuple[Text, ...] = ()
    predictions: int = 5
    inputs: int = 0
    is_list: bool = False
    route: str = "/"
    pause_s: float = 0.0
    leaves: bool = False
    resets: bool = False

    def fault_of(self, reply: Reply) -> str | None:
        """What is wrong with this answer to it, or None."""
        line = f"{self.kind} {self.number}: {reply.status} {reply.body[:200].decode(errors='replace')}"
        try:
            return None if self._is_right(reply) else line
        except (orjson.JSONDecodeError, LookupError, TypeError):
            return line

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
            text.is_answered_by(found, self.predictions) for text, found in zip(self.texts, answers, strict=True)
        )


def request(number: int, body: bytes, *headers: str, method: str = "POST", path: str = "/") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: chaos", f"X-Request-ID: {number}", *headers]
    if not any(line.startswith("Transfer-Encoding") for line in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body
