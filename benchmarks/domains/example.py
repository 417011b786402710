"""What a domain's generator draws, and how examples are divided into splits.

Splits are disjoint by key: a hash of the parts that make an example, whatever its wording, says
which split it is in. Base models are pretrained on `pretrain` alone.

Only `random.Random.random()` is used, the one method whose sequence Python guarantees to keep.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from opsd_cli.problems.arithmetic import SPLITS, Split

Value = TypeVar("Value")


@dataclass(frozen=True)
class Example:
    """One problem, with what the base model is pretrained to write.

    Attributes:
        key: the same for examples that differ in wording alone.
        row: the problem as a line of the data files: question, solution, answer, columns.
        right: a completion that the domain's grader accepts.
        attempt: what the base model writes without a reference: right, or with a fault.
        reference: what the teacher reads.
    """

    key: str
    row: Mapping[str, Any]
    right: str
    attempt: str
    reference: str

    @property
    def split(self) -> Split:
        digest = hashlib.sha256(self.key.encode()).digest()[0] % 16
        return next(name for name, share in SPLITS.items() if digest in share)


@dataclass(frozen=True)
class Domain:
    """A domain.

    Attributes:
        draw: draws an example.
        accepts: whether a completion of an example is right, by the domain's own rule. Only
            pretraining asks it; runs are graded by the grader of the preset.
        in_words: what the domain's problems are, in one line.
        practice: steps of pretraining in which every completion is right.
        measured_by: the grader that measures a run afterwards, where the preset's grades nothing.
    """

    name: str
    draw: Callable[[random.Random], Example]
    accepts: Callable[[Example, str], bool]
    in_words: str
    measured_by: str | None = None
    practice: int = 1200

    @property
    def preset(self) -> str:
        return f"domain-{self.name}"

    def examples(self, split: Split, seed: int = 0) -> Iterator[Example]:
        """An endless stream of examples of one split, with distinct keys outside of `pretrain`."""
        rng = random.Random(f"{self.name}/{split}/{seed}")
        seen: set[str] = set()
        while True:
            example = self.draw(rng)
            if example.split != split or (split != "pretrain" and example.key in seen):
                continue
            seen.add(example.key)
            yield example


def is_same_text(example: Example, completion: str) -> bool:
    """For domains in which one text is right."""
    return completion.strip() == example.right


def integer(rng: random.Random, low: int, high: int) -> int:
    """A whole number from `low` to `high`, both included."""
    return low + int(rng.random() * (high - low + 1))


def pick(rng: random.Random, values: Sequence[Value], count: int) -> list[Value]:
    """`count` different values, in random order."""
    rest = list(values)
    return [rest.pop(int(rng.random() * len(rest))) for _ in range(count)]
