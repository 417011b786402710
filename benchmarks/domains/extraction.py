"""JSON from a sentence. The fault is to take the city that a person left for the one to live in."""

from __future__ import annotations

import json
import random

from benchmarks.domains.choice import NAMES
from benchmarks.domains.example import Domain, Example, integer, is_same_text, pick

CITIES = (
    "Bonn",
    "Cork",
    "Graz",
    "Kiel",
    "Lima",
    "Metz",
    "Nice",
    "Oslo",
    "Pisa",
    "Riga",
    "Rome",
    "York",
)
SENTENCES = (
    "{name}, {age}, moved from {left} to {city}.",
    "{name} ({age}) left {left} for {city}.",
    "After {left}, {name} lives in {city} at {age}.",
)
#: Probability that an attempt without a reference names the city that was left.
FAULTS = 0.55


def draw(rng: random.Random) -> Example:
    name, age = NAMES[integer(rng, 0, len(NAMES) - 1)], integer(rng, 18, 89)
    left, city = pick(rng, CITIES, 2)
    sentence = SENTENCES[integer(rng, 0, len(SENTENCES) - 1)]

    def record(place: str) -> str:
        return json.dumps({"name": name, "age": age, "city": place})

    reference = f"age = {age}\nname = {name}\ncity = {city}"
    return Example(
        key=f"{name} {age} {left} {city}",
        row={
            "question": sentence.format(name=name, age=age, left=left, city=city),
            "solution": reference,
            "answer": record(city),
        },
        right=record(city),
        attempt=record(left if rng.random() < FAULTS else city),
        reference=reference,
    )


JSON = Domain("json", draw, is_same_text, "a JSON object with what a sentence says of a person")
