"""The embedded problems: correct, reproducible, with disjoint splits."""

from __future__ import annotations

import re
from itertools import islice

import pytest

from opsd_cli.problems.arithmetic import LARGEST, SIZES, SPLITS, Split, chains

OFFERED: tuple[Split, ...] = ("train", "validation", "test")


def drawn(split: Split, count: int = 200) -> list:
    return list(islice(chains(split), count))


@pytest.mark.parametrize("split", SPLITS)
def test_question_reference_and_sentences_agree_with_the_operations(split: Split) -> None:
    for chain in drawn(split):
        value = chain.values[0]
        for op, operand in chain.operations:
            value = {"+": value + operand, "-": value - operand, "*": value * operand}[op]
            assert 1 <= value <= LARGEST
        problem = chain.problem()
        assert problem.answer == str(value)
        for line in (problem.solution or "").splitlines():
            left, right = line.split(" = ")
            assert eval(left) == int(right)
        assert chain.sentences().endswith(f"\\boxed{{{value}}}.")
        assert re.findall(r"\d+", problem.question)[0] == str(chain.values[0])


def test_the_reference_solution_has_another_form_than_the_completion() -> None:
    for chain in drawn("train", 50):
        assert "=" in chain.reference() and "=" not in chain.sentences()
        assert "boxed" not in chain.reference()


def test_splits_are_disjoint_by_operands() -> None:
    operands = {
        split: {c.operands for c in drawn(split, SIZES.get(split, 3000))} for split in SPLITS
    }
    names = list(operands)
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            assert not operands[one] & operands[other]


@pytest.mark.parametrize("split", OFFERED)
def test_a_split_is_reproducible_and_has_no_duplicates(split: Split) -> None:
    assert [c.question() for c in drawn(split, 20)] == [c.question() for c in drawn(split, 20)]
    questions = [c.question() for c in drawn(split, SIZES[split])]
    assert len(set(questions)) == SIZES[split]


def test_the_first_test_problem_is_pinned() -> None:
    """Published accuracies hang on these very problems."""
    assert next(chains("test")).question() == PINNED


PINNED = "Start with 52. Subtract 43. Add 30. Multiply by 2. What is the result?"
