"""Graders of answers on random texts: a grade for each, that a log can hold, and no error."""

from __future__ import annotations

import json
import random

import pytest

from opsd_cli.config.grading_section import Grading
from opsd_cli.grading import GradedProblem, Item, open_grader
from opsd_cli.grading.interface import Status
from opsd_cli.grading.unit_tests import program_of, statements_of

PIECES = (
    "A", "B)", "(C)", "I think", "answer is ", "Answer:", "option ", "\\boxed{", "}", "{", "[", "]",
    '"', ":", ",", "1", "-2.5", "1,000", "1e9", "/", "1e999", "null", "true", "NaN", "```",
    "\n", " ", "\t", "$", "\\text{", "####", "<think>", "</think>", "\ud800", "\u2212", "é", "x = ",
    "assert f(1) == 2", "```json\n", "\\ud800", "'", "\0", "9" * 500,
)  # fmt: skip
STATUSES: tuple[Status, ...] = ("correct", "wrong", "no_answer", "unparsable_gold")
ROUNDS = 400


def text(source: random.Random) -> str:
    return "".join(source.choices(PIECES, k=source.randrange(12)))


@pytest.mark.parametrize("grader", ["choice", "exact", "number", "json"])
def test_random_answers(grader: str) -> None:
    source = random.Random(grader)
    with open_grader(Grading(grader=grader, choices="options")) as made:
        for _ in range(ROUNDS):
            gold, completion = text(source), text(source)
            options = source.choice([None, [text(source)], {"A": text(source)}, 3, {"text": [1]}])
            problem = GradedProblem("1", "?", gold, fields={"options": options})
            one, other, again = made.grade(
                [Item(problem, completion), Item(problem, gold), Item(problem, completion)]
            )
            assert one.status in STATUSES and other.status in STATUSES, (gold, completion, options)
            assert one == again
            assert one.score == one.correct
            if one.feedback:
                one.feedback.encode()
            json.dumps([one.answer, one.feedback])
            made.compare([(one.answer or "", other.answer or "")])


def test_random_programs_and_tests() -> None:
    source = random.Random("code")
    for _ in range(ROUNDS):
        program_of(text(source))
        assert all(isinstance(each, str) for each in statements_of(text(source)))
