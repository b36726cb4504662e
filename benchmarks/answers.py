"""How one server's answers differ from another's.

Owns the comparison of what comes out of a pipeline that gives scores. It must never know where answers come from.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.results import Difference

Answer = Sequence[Mapping[str, Any]]
MAX_DIFFERENCE = 1.0  # between a score and no score at all


def key_of(entry: Mapping[str, Any]) -> object:
    """What is scored: a token's id, or a label."""
    return entry["token"] if "token" in entry else entry["label"]


def worst_difference(one: Answer, other: Answer) -> float:
    """Of the scores by rank, and of the same token's or label's where both have it.

    The order of near ties may differ, and with it what is last in the list.
    """
    if len(one) != len(other):
        return MAX_DIFFERENCE
    ranks = zip(*(sorted(entry["score"] for entry in answer) for answer in (one, other)), strict=True)
    scores = {key_of(entry): entry["score"] for entry in other}
    same = [(entry["score"], scores[key_of(entry)]) for entry in one if key_of(entry) in scores]
    return max((abs(a - b) for a, b in [*ranks, *same]), default=0.0)


def has_same_top(one: Answer, other: Answer) -> bool:
    return bool(one) and bool(other) and key_of(one[0]) == key_of(other[0])


def compare(answers: Sequence[Answer | None], references: Sequence[Answer]) -> Difference:
    """A missing answer has the largest possible difference."""
    pairs = list(zip(answers, references, strict=True))
    return Difference(
        texts=len(pairs),
        worst=max((worst_difference(one or [], other) for one, other in pairs), default=0.0),
        same_top=sum(has_same_top(one or [], other) for one, other in pairs),
    )
