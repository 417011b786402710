"""The embedded problems: short chains of whole-number arithmetic, made on demand from a seed.

A question tells a chain of two or three operations in words. The reference solution writes the
chain as equations; the answer that a model is taught to write is made of sentences. The two forms
differ on purpose: a teacher that sees the reference must carry each value across into its own
sentence instead of reproducing the text in front of it.

Splits are disjoint *by operands*: the sorted operands of a problem are hashed, and the hash alone
decides which split the problem belongs to. The same numbers in another order or under other
operations therefore never sit on both sides of a split. `pretrain` is the split from which the
embedded model itself was built, so `test` was never seen by it either.

Only `random.Random.random()` is drawn on, the one method whose sequence Python promises to keep.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from opsd_cli.problems import Problem

Split = Literal["pretrain", "train", "validation", "test"]
#: Shares of the hash space, in sixteenths.
SPLITS: dict[Split, range] = {
    "pretrain": range(0, 10),
    "train": range(10, 12),
    "validation": range(12, 14),
    "test": range(14, 16),
}
#: How many problems each split offers to the commands.
SIZES: dict[Split, int] = {"train": 2000, "validation": 200, "test": 400}
LARGEST = 99
SOURCE = "embedded"


@dataclass(frozen=True)
class Chain:
    """A start value and the operations applied to it, in order.

    `values[i]` is the result after `i` operations, so `values[0]` is the start and `values[-1]`
    the answer.
    """

    operations: tuple[tuple[str, int], ...]
    values: tuple[int, ...]

    @property
    def operands(self) -> tuple[int, ...]:
        return tuple(sorted((self.values[0], *(operand for _, operand in self.operations))))

    @property
    def split(self) -> Split:
        digest = hashlib.sha256(repr(self.operands).encode()).digest()[0] % 16
        return next(name for name, share in SPLITS.items() if digest in share)

    def question(self) -> str:
        verbs = {"+": "Add", "-": "Subtract", "*": "Multiply by"}
        told = " ".join(f"{verbs[op]} {operand}." for op, operand in self.operations)
        return f"Start with {self.values[0]}. {told} What is the result?"

    def reference(self) -> str:
        """The worked solution, as equations."""
        lines = [
            f"{before} {op} {operand} = {after}"
            for (op, operand), before, after in zip(
                self.operations, self.values, self.values[1:], strict=False
            )
        ]
        return "\n".join(lines)

    def sentences(self) -> str:
        """The same working in the form the embedded model answers in."""
        told = []
        for (op, operand), before, after in zip(
            self.operations, self.values, self.values[1:], strict=False
        ):
            told.append(
                {
                    "+": f"Adding {operand} to {before} gives {after}.",
                    "-": f"Taking {operand} from {before} leaves {after}.",
                    "*": f"Multiplying {before} by {operand} makes {after}.",
                }[op]
            )
        told.append(f"So the result is \\boxed{{{self.values[-1]}}}.")
        return " ".join(told)

    def problem(self) -> Problem:
        code = "".join(f"{op}{operand}" for op, operand in self.operations)
        return Problem(
            id=f"arithmetic-{self.values[0]}{code}",
            question=self.question(),
            solution=self.reference(),
            answer=str(self.values[-1]),
            source=SOURCE,
        )


def draw_chain(rng: random.Random) -> Chain:
    """One chain with every value between 1 and 99, uniform over the generator's own choices."""

    def whole(low: int, high: int) -> int:
        return low + int(rng.random() * (high - low + 1))

    while True:
        values = [whole(10, 99)]
        operations: list[tuple[str, int]] = []
        for _ in range(whole(2, 3)):
            op = "+-*"[whole(0, 2)]
            operand = whole(2, 9) if op == "*" else whole(10, 99)
            value = values[-1]
            result = (
                value + operand if op == "+" else value - operand if op == "-" else value * operand
            )
            operations.append((op, operand))
            values.append(result)
        if all(1 <= value <= LARGEST for value in values):
            return Chain(tuple(operations), tuple(values))


def chains(split: Split, seed: int = 0) -> Iterator[Chain]:
    """An endless stream of distinct chains of one split."""
    rng = random.Random(f"{SOURCE}/{split}/{seed}")
    seen: set[str] = set()
    while True:
        chain = draw_chain(rng)
        question = chain.question()
        if chain.split == split and question not in seen:
            seen.add(question)
            yield chain
