"""Words are graded without a worker, and as a worker would."""

from __future__ import annotations

import random

import pytest

from opsd_cli.grading import mathematics
from opsd_cli.grading.compare import compare

#: Words of answers, words that mean mathematics, and words that say something of an answer.
WORDS = (
    *(
        "mother",
        "mothers",
        "Mother",
        "boss",
        "sss",
        "law",
        "June",
        "in",
        "the",
        "a",
        "an",
        "A",
        "XY",
    ),
    *(
        "pi",
        "sin",
        "log",
        "infinity",
        "theta",
        "mod",
        "base",
        "times",
        "max",
        "deg",
        "text",
        "e",
        "i",
    ),
    *("and", "or", "not", "for", "all", "every", "where", "such", "is", "answer", "final", "two"),
    *("percent", "meters", "cm", "hours", "am", "None", "False", "rm", "xyz", "angle", "AB"),
)


def test_words_are_graded_as_a_worker_grades_them() -> None:
    chance = random.Random(1)
    settled = 0
    for _ in range(2000):
        gold, other = (
            "".join(chance.choice(WORDS) + chance.choice(" - ") for _ in range(count))[:-1]
            for count in (chance.randint(1, 3), chance.randint(1, 3))
        )
        near = (gold.upper(), f"{gold}s", gold.replace("-", " "), f"the {gold}", other)
        answer = chance.choice(near)
        status = mathematics._grade_by_text(gold, answer)
        if status is not None:
            settled += 1
            assert (gold, answer, status) == (gold, answer, compare(gold, answer))
    assert settled > 500


@pytest.mark.parametrize("text", ["pi", "infinity", "sin", "mother and father", "father or mother"])
def test_mathematics_in_letters_and_lists_are_left_to_a_worker(text: str) -> None:
    assert mathematics._grade_by_text("mother", text) is None
    assert mathematics._grade_by_text(text, "mother") is None
