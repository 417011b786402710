r"""Flexible extraction: the last number or expression, where the strict rule finds none."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from opsd_cli.grading.flexible import MAX_LENGTH, flexible_answer, grade_flexibly
from opsd_cli.grading.interface import Grade, Grader
from opsd_cli.grading.mathematics import MathGrader


@pytest.mark.parametrize(
    ("gold", "completion", "answer"),
    [
        # Of lm-evaluation-harness' GSM8K: the last number, with its currency or full stop.
        ("18", "She makes 9 * 2 = $18 every day at the market.", "18"),
        ("1234", "That is 1,234 eggs in all. So many!", "1,234"),
        ("2400", r"This gives $2{,}400$ in total, as asked.", "2,400"),
        ("-3", "Thus x = -3, which is what we wanted to know.", "-3"),
        ("-3", "Thus $-3$ is what we wanted to know.", "-3"),
        ("3", "From 8-3 eggs, he takes 8-3", "3"),
        ("7.5", "He waits 7.5 hours.", "7.5"),
        ("1/2", "So the probability of it is 1/2 in this case.", "1/2"),
        (r"\frac{1}{2}", r"The probability is \frac{1}{2}, as was said before.", r"\frac{1}{2}"),
        ("50", r"a share of 50\% of the whole", r"50\%"),
        ("5 apples", "Then there are 5 apples left, and the day ends.", "5"),
        ("18", "No number here at all.", None),
        # Only what follows the thinking, unless nothing does.
        ("18", "<think>It may be 3</think> so she has 18 of them", "18"),
        ("18", "<think>so she has 18 of them, or", "18"),
        # Expressions.
        ("x+1", r"We get $x+2$ and then $x + 1$ as 4 says", "x + 1"),
        ("x+1", r"We get \(x+1\) and \[x + 2 = 3", "x+1"),
        (r"\sqrt{2}", r"Hence $$\boxed{\sqrt{2}}$$ and \boxed{", r"\sqrt{2}"),
        ("(1,2)", "It costs \\$5, and $(1,2)$ is the point.", "(1,2)"),
        ("x+1", "I found 5 of them", "5"),
        # Letters.
        (r"\text{(B)}", "Either (A) or (B) could be, I think it is (B) for sure", "B"),
        ("B", "I cannot tell which of them", None),
    ],
)
def test_flexible_answer_is_the_last_number_or_expression(
    gold: str, completion: str, answer: str | None
) -> None:
    assert flexible_answer(gold, completion) == answer


def test_flexible_grades_join_the_strict_ones() -> None:
    pairs = [
        ("18", "\\boxed{18} and then 3"),  # right by the strict rule: stays so
        ("18", "So she makes 18 every single day."),
        ("18", "So she makes 19 every single day."),
        ("0.5", "So it is $\\frac{1}{2}$ of the whole cake."),
        ("18", "Nothing was found at all."),
        ("\\boxed{", "So she makes 18 every single day."),  # nothing can match the gold
    ]
    with MathGrader(60.0, workers=1) as grader:
        strict = grader.grade_many(pairs)
        found = grade_flexibly(pairs, strict, grader)
    assert [grade.status for grade in strict] == [
        "correct", "no_answer", "no_answer", "no_answer", "no_answer", "unparsable_gold",
    ]  # fmt: skip
    assert found == [
        Grade("correct", "18"),
        Grade("correct", "18"),
        Grade("wrong", "19"),
        Grade("correct", "\\frac{1}{2}"),
        Grade("no_answer"),
        Grade("unparsable_gold"),
    ]


def test_flexible_grading_asks_the_grader_about_other_answers_alone() -> None:
    class Counting(Grader):
        def __init__(self) -> None:
            self.asked: list[tuple[str, str]] = []

        def compare(self, pairs: Sequence[tuple[str, str]]) -> list[Grade]:
            self.asked += pairs
            return [Grade("timeout", "7")] * len(pairs)

    pairs = [("7", "\\boxed{7}"), ("8", "\\boxed{9}"), ("7", "some 6 or 7")]
    strict = [Grade("correct", "7"), Grade("wrong", "9"), Grade("no_answer")]
    grader = Counting()
    assert grade_flexibly(pairs, strict, grader)[2] == Grade("timeout", "7")
    assert grader.asked == [("7", "7")]


@pytest.mark.parametrize(
    "text", ["\\(" * 200_000, "$" * 300_001, "1" * 400_000, "1,1" * 100_000, "-" * 400_000]
)
@pytest.mark.parametrize("gold", ["18", "x+1"])
def test_flexible_extraction_of_hostile_texts_is_linear(text: str, gold: str) -> None:
    """Quadratic time would take these minutes; the limit is the suite's for one test."""
    answer = flexible_answer(gold, text)
    assert answer is None or len(answer) <= MAX_LENGTH
