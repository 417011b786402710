"""Problems of reasoning-gym as JSONL, with worked solutions, in disjoint splits.

    python -m benchmarks.real.problems DIR SETTINGS

Run by `benchmarks.real.make` in an environment that has `reasoning-gym`; SETTINGS is `Settings` as
JSON. Each family is one stream of problems from one seed. The first problems with distinct question
texts go to train, the next to validation, the next to test. So no question is in two splits, and
the splits have the same distribution. (Streams of neighbouring seeds would share problems: the
generators seed problem i with seed + i.)
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

SPLITS = ("train", "validation", "test")
#: Draws for each problem wanted; small families repeat their questions.
MOST_DRAWS = 20
Row = dict[str, str]
Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Settings:
    """The seed, and how many problems each split of each family has."""

    seed: int = 0
    train: int = 800
    validation: int = 200
    test: int = 400

    def total(self) -> int:
        return self.train + self.validation + self.test


def solve_gsm_symbolic(entry: Entry) -> str | None:
    """The generator's own chain, with its last line `#### 12` as a boxed answer.

    None if the chain does not end in the answer.
    """
    chain, mark, value = entry["metadata"]["answer_cot"].rpartition("\n#### ")
    if not mark or not _same(value, entry["answer"]):
        return None
    return f"{chain.strip()}\n{boxed(entry['answer'])}"


def solve_chain_sum(entry: Entry) -> str | None:
    """One line for each operation of a sum from left to right."""
    words = entry["metadata"]["expression"].split()
    value, lines = int(words[0]), []
    for operator, operand in zip(words[1::2], words[2::2], strict=True):
        result = value + int(operand) if operator == "+" else value - int(operand)
        lines.append(f"{value} {operator} {operand} = {result}")
        value = result
    if str(value) != entry["answer"]:
        return None
    return "\n".join([*lines, boxed(entry["answer"])])


def solve_leg_counting(entry: Entry) -> str | None:
    """One line for each animal's legs, then their sum."""
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    counts: Mapping[str, int] = entry["metadata"]["animals"]
    legs = {name: count * ANIMALS[name] for name, count in counts.items()}
    if str(sum(legs.values())) != entry["answer"]:
        return None
    lines = [
        f"{name}: {count} × {ANIMALS[name]} = {legs[name]} legs" for name, count in counts.items()
    ]
    if len(legs) > 1:
        lines.append(f"{' + '.join(map(str, legs.values()))} = {entry['answer']} legs in total")
    return "\n".join([*lines, boxed(entry["answer"])])


def solve_family_relationships(entry: Entry) -> str | None:
    """One sentence that states the relation, and the box."""
    found: Mapping[str, str] = entry["metadata"]
    sentence = f"{found['person1']} is the {found['relationship']} of {found['person2']}."
    return f"{sentence} {boxed(entry['answer'])}"


def boxed(answer: str) -> str:
    return f"The answer is \\boxed{{{answer}}}."


def _same(value: str, answer: str) -> bool:
    """True if two numbers are equal; a chain may write 560 as 560.0 or 1,560."""
    try:
        return float(value.replace(",", "")) == float(answer.replace(",", ""))
    except ValueError:
        return False


@dataclass(frozen=True)
class Family:
    """A generator of reasoning-gym: its options, and how its solutions are written.

    Attributes:
        wrong_answers: answers that the generator gives where they are wrong; those are left out.
    """

    options: Mapping[str, int]
    solve: Callable[[Entry], str | None]
    wrong_answers: tuple[str, ...] = ()


#: By the generator's name, from easy to hard for a small model.
FAMILIES = {
    "chain_sum": Family({"min_terms": 2, "max_terms": 4, "max_digits": 2}, solve_chain_sum),
    "leg_counting": Family(
        {"min_animals": 1, "max_animals": 3, "max_instances": 9}, solve_leg_counting
    ),
    "family_relationships": Family(
        {"min_family_size": 4, "max_family_size": 6},
        solve_family_relationships,
        # reasoning-gym 0.1.25 calls a wife the mother-in-law of her husband's mother, and gives
        # nieces and nephews the sex of the other person.
        ("mother-in-law", "father-in-law", "niece", "nephew"),
    ),
    "gsm_symbolic": Family({}, solve_gsm_symbolic),
}


def distinct_rows(entries: Iterable[Entry], family: Family) -> Iterator[Row]:
    """Rows with a solution that agrees with its answer, each question text once.

    Texts that differ only in white space or case are the same question.
    """
    seen: set[str] = set()
    for entry in entries:
        key = re.sub(r"\s+", " ", entry["question"]).strip().casefold()
        solution = family.solve(entry)
        if key in seen or solution is None or entry["answer"] in family.wrong_answers:
            continue
        seen.add(key)
        yield {
            "question": entry["question"].strip(),
            "solution": solution,
            "answer": entry["answer"],
        }


def write_splits(folder: Path, family: str, rows: Iterator[Row], settings: Settings) -> None:
    """Write `FAMILY-SPLIT.jsonl` for each split.

    Raises:
        SystemExit: the rows do not suffice.
    """
    for split in SPLITS:
        wanted = getattr(settings, split)
        chosen = list(islice(rows, wanted))
        if len(chosen) < wanted:
            raise SystemExit(
                f"{family} has too few distinct problems: {split} lacks {wanted - len(chosen)}; "
                f"ask for fewer (--{split})"
            )
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen)
        (folder / f"{family}-{split}.jsonl").write_text(text, encoding="utf-8")


def write_all(folder: Path, settings: Settings) -> None:
    """Write every family's splits into a folder."""
    import reasoning_gym

    for name, family in FAMILIES.items():
        entries = reasoning_gym.create_dataset(
            name, seed=settings.seed, size=settings.total() * MOST_DRAWS, **family.options
        )
        write_splits(folder, name, distinct_rows(entries, family), settings)


def inputs(settings: Settings) -> dict[str, Any]:
    """What the files depend on, for the manifest."""
    return {
        **asdict(settings),
        "families": {
            name: {**family.options, "left out": list(family.wrong_answers)}
            for name, family in FAMILIES.items()
        },
    }


if __name__ == "__main__":
    given = json.loads(sys.argv[2])
    write_all(Path(sys.argv[1]), Settings(**{f.name: given[f.name] for f in fields(Settings)}))
