"""Multiple choice: who has most? The fault is to name the person who was mentioned last.

Completions name the option's text, which the grader takes for its letter: models of this size did
not learn to find the letter of an option (1,200 steps, one in three right).
"""

from __future__ import annotations

import random

from benchmarks.domains.example import Domain, Example, integer, is_same_text, pick

NAMES = ("Ada", "Ben", "Eva", "Ida", "Jan", "Kim", "Leo", "Mia", "Nia", "Ole", "Tom", "Uwe")
THINGS = ("pens", "cups", "keys", "nuts", "eggs", "hats", "bags", "pins")
LETTERS = "ABC"
#: Probability that an attempt without a reference names the last person.
FAULTS = 0.75


def draw(rng: random.Random) -> Example:
    names = pick(rng, NAMES, 3)
    counts = pick(rng, range(1, 10), 3)
    thing = THINGS[integer(rng, 0, len(THINGS) - 1)]
    has = dict(zip(names, counts, strict=True))
    shown = pick(rng, names, 3)
    letters = dict(zip(shown, LETTERS, strict=True))
    most = max(names, key=has.__getitem__)
    named = names[-1] if rng.random() < FAULTS else most

    def answer(name: str) -> str:
        return f"The number is {has[name]}.\n{name} has most"

    first, second, third = names
    question = (
        f"{first} has {has[first]} {thing}, {second} has {has[second]}, {third} has {has[third]}."
    )
    reference = f"The largest number is {has[most]}, so it is {most}."
    return Example(
        key=" ".join(sorted(f"{name}{count}" for name, count in has.items())),
        row={
            "question": question,
            "options": [f"{name} has most" for name in shown],
            "solution": reference,
            "answer": letters[most],
        },
        right=answer(most),
        attempt=answer(named),
        reference=reference,
    )


CHOICE = Domain("choice", draw, is_same_text, "multiple choice: who of three people has most")
