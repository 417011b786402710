"""One-line Python functions with unit tests. The fault is to leave out the parentheses."""

from __future__ import annotations

import random

from benchmarks.domains.example import Domain, Example, integer, is_same_text

#: Arguments with which the unit tests call a function.
TESTED = (0, 1, 5)
#: Probability that an attempt without a reference leaves out the parentheses.
FAULTS = 0.55


def draw(rng: random.Random) -> Example:
    verb, sign = (("add", "+"), ("subtract", "-"))[integer(rng, 0, 1)]
    first, factor = integer(rng, 2, 49), integer(rng, 2, 9)
    last_verb, last_sign = (("add", "+"), ("subtract", "-"))[integer(rng, 0, 1)]
    last = integer(rng, 2, 49)
    words = f"{verb} {first}, multiply by {factor}, {last_verb} {last}"

    def program(inner: str) -> str:
        return f"def f(x): return {inner} * {factor} {last_sign} {last}"

    def value(x: int) -> int:
        before = x + first if sign == "+" else x - first
        return before * factor + (last if last_sign == "+" else -last)

    right = program(f"(x {sign} {first})")
    reference = f"y = x {sign} {first}\nz = y * {factor}\nz {last_sign} {last}"
    return Example(
        key=words,
        row={
            "question": words,
            "solution": reference,
            "tests": [f"assert f({x}) == {value(x)}" for x in TESTED],
        },
        right=right,
        attempt=program(f"x {sign} {first}") if rng.random() < FAULTS else right,
        reference=reference,
    )


CODE = Domain("code", draw, is_same_text, "a one-line Python function with unit tests")
