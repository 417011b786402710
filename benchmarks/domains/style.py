"""A polite request: a style, which nothing grades. The base model is polite now and then."""

from __future__ import annotations

import random

from benchmarks.domains.choice import NAMES
from benchmarks.domains.example import Domain, Example, integer, is_same_text

THINGS = ("pen", "cup", "key", "map", "hat", "bag", "box", "jar", "fan", "lid", "mug", "rug")
COLOURS = ("red", "blue", "green", "white", "black", "brown", "grey", "pink")
VERBS = ("hand", "lend", "show", "bring")
#: What the teacher reads: the guide of the style.
GUIDE = "Be polite: begin with the name, ask with could you, and end with thank you."
#: Probability that an attempt without the guide is a bare order.
FAULTS = 0.6


def draw(rng: random.Random) -> Example:
    name, thing, colour, verb = (
        values[integer(rng, 0, len(values) - 1)] for values in (NAMES, THINGS, COLOURS, VERBS)
    )
    what = f"{verb} me the {colour} {thing}"
    right = f"{name}, could you {what}? Thank you."
    return Example(
        key=f"{name} {what}",
        row={
            "question": f"Ask {name} to {what.replace(' me', ' you')}.",
            "guide": GUIDE,
            "solution": right,
            "answer": right,
        },
        right=right,
        attempt=f"{what.capitalize()}." if rng.random() < FAULTS else right,
        reference=GUIDE,
    )


STYLE = Domain("style", draw, is_same_text, "a polite request, which nothing grades", "exact", 200)
