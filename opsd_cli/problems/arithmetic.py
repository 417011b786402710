"""The embedded problems: short chains of integer arithmetic, generated from a seed.

A question states a chain of two or three operations in words. The reference solution writes the
chain as equations; the embedded model answers in sentences. The two forms differ on purpose: a
teacher that sees the reference must put each value into its own sentence and cannot copy the text.

Splits are disjoint *by operands*: the split of a problem is determined by a hash of its sorted
operands. The same operands in another order or with other operations are therefore always in the
same split. The embedded model was pretrained on `pretrain`, so it has not seen `test`.

Only `random.Random.random()` is used, the one method whose sequence Python guarantees to keep.
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
#: Number of problems of each split that commands use.
SIZES: dict[Split, int] = {"train": 2000, "validation": 200, "test": 400}
#: Largest operand and largest intermediate result.
LARGEST = 99
SOURCE = "embedded"


@dataclass(frozen=True)
class Chain:
    """A start value and the operations applied to it.

    Attributes:
        operations: (operator, operand) in order; operators are "+", "-" and "*".
        values: `values[i]` is the result after `i` operations: `values[0]` is the start and
            `values[-1]` the answer.
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
        steps = " ".join(f"{verbs[op]} {operand}." for op, operand in self.operations)
        return f"Start with {self.values[0]}. {steps} What is the result?"

    def reference(self) -> str:
        """The reference solution, as equations."""
        lines = [
            f"{before} {op} {operand} = {after}"
            for (op, operand), before, after in zip(
                self.operations, self.values, self.values[1:], strict=False
            )
        ]
        return "\n".join(lines)

    def sentences(self) -> str:
        """The same steps as sentences and a boxed answer, as the embedded model writes them."""
        sentences = []
        for (op, operand), before, after in zip(
            self.operations, self.values, self.values[1:], strict=False
        ):
            sentences.append(
                {
                    "+": f"Adding {operand} to {before} gives {after}.",
                    "-": f"Taking {operand} from {before} leaves {after}.",
                    "*": f"Multiplying {before} by {operand} makes {after}.",
                }[op]
            )
        sentences.append(f"So the result is \\boxed{{{self.values[-1]}}}.")
        return " ".join(sentences)

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
    """Draw a chain with every value between 1 and 99, by rejection sampling.

    Every command on the embedded problems draws some hundred thousand, so nothing is called that
    can be written out. A rejected chain takes as many random numbers as a whole one.
    """
    draw = rng.random
    while True:
        value = 10 + int(draw() * 90)
        values, operations = [value], []
        for left in range(1 + int(draw() * 2), -1, -1):
            kind = int(draw() * 3)
            operand = 2 + int(draw() * 8) if kind == 2 else 10 + int(draw() * 90)
            if kind == 0:
                value += operand
            elif kind == 1:
                value -= operand
            else:
                value *= operand
            if not 1 <= value <= LARGEST:
                for _ in range(2 * left):
                    draw()
                break
            operations.append(("+-*"[kind], operand))
            values.append(value)
        else:
            return Chain(tuple(operations), tuple(values))


def chains(split: Split, seed: int = 0) -> Iterator[Chain]:
    """An infinite stream of distinct chains of one split."""
    rng = random.Random(f"{SOURCE}/{split}/{seed}")
    seen: set[str] = set()
    while True:
        chain = draw_chain(rng)
        if chain.split != split or (question := chain.question()) in seen:
            continue
        seen.add(question)
        yield chain
