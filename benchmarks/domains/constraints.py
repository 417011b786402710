"""A list of words under constraints, with feedback. Faults: another first word, one word too many.

The teacher's reference is what the grader (`benchmarks.domains.rules`) says of the attempt.
"""

from __future__ import annotations

import random
from types import SimpleNamespace

from benchmarks.domains.example import Domain, Example, integer, pick
from benchmarks.domains.rules import score

WORDS = (
    "sea", "sky", "sun", "ice", "oak", "fog", "owl", "bee", "fox", "elm", "hen", "cat", "dew",
    "mud", "ash", "fig", "bay", "cow", "dog", "eel", "fir", "gem", "hay", "ivy", "jam", "log",
    "nut", "pea",
)  # fmt: skip
#: Probabilities of the two faults in an attempt without a reference.
OTHER_FIRST, TOO_MANY = 0.35, 0.35


def attempt_of(words: list[str], other: str, more: str, rng: random.Random) -> str:
    """The words, with the faults that chance gives."""
    written = list(words)
    if rng.random() < OTHER_FIRST:
        written[0] = other
    if rng.random() < TOO_MANY:
        written.append(more)
    return " ".join(written)


def draw(rng: random.Random) -> Example:
    count = integer(rng, 2, 4)
    first, avoid, other, more, *others = pick(rng, WORDS, count + 3)
    words = [first, *others]
    fields = {"count": count, "first": first, "avoid": avoid}
    attempt = attempt_of(words, other, more, rng)
    faulty, feedback = attempt, ""
    while not feedback:
        faulty = attempt_of(words, other, more, rng)
        feedback = score(SimpleNamespace(fields=fields), faulty)[1]
    return Example(
        key=f"{count} {first} {avoid}",
        row={"question": f"Write {count} words, first {first}, without {avoid}.", **fields},
        right=" ".join(words),
        attempt=attempt,
        reference=feedback,
    )


def accepts(example: Example, completion: str) -> bool:
    return score(SimpleNamespace(fields=example.row), completion)[0] == 1


CONSTRAINTS = Domain(
    "constraints", draw, accepts, "a list of words under three constraints", practice=300
)
