r"""Flexible extraction: what a sample would be worth if only its form were mended.

The strict rule (`opsd_cli.grading.extract`) accepts an answer in a box or in another unambiguous
form. A model that reasons correctly and writes no box is wrong by it. The flexible rule takes the
last number, or for other answers the last expression, as the filter `flexible-extract` of
lm-evaluation-harness' GSM8K task does
(https://github.com/EleutherAI/lm-evaluation-harness/blob/main/lm_eval/tasks/gsm8k/gsm8k.yaml).
The difference of the two accuracies is what the form of the answers costs.

| gold | flexible answer |
|---|---|
| a number, with or without a unit | the last number; a fraction of two integers is one number |
| a choice letter | the last letter in parentheses |
| any other | the last of dollar signs, `\(...\)` or `\[...\]`; without one as for a number |

In two points it differs from the harness: a sample that is right by the strict rule is right by
this one too, so that the difference is never negative; and candidates are compared by the grader
and not as strings. All extraction here takes time linear in the length of the text; the comparison
has the grader's deadline.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence

from opsd_cli.grading.extract import after_thinking, gold_answer, last_boxed
from opsd_cli.grading.interface import Grade, Grader, Item

#: In characters. A longer candidate is not an answer.
MAX_LENGTH = 400

_DIGITS = r"[0-9]+(?:,[0-9]{3}(?![0-9]))*(?:\.[0-9]+)?|\.[0-9]+"
#: A minus sign after a letter, a digit or a closing bracket is a dash or a subtraction.
_NUMBER = re.compile(
    r"(?P<sign>(?<![\w)}\]])[-\u2212])?\\?\$?"
    rf"(?P<number>\\[dt]?frac\{{[0-9]+\}}\{{[0-9]+\}}|[0-9]+/[0-9]+|{_DIGITS})(?P<percent>\\?%)?"
)
_NUMERIC_GOLD = re.compile(
    rf"\$?[-+\u2212]?\\?\$?(?:\\[dt]?frac\{{[0-9]+\}}\{{[0-9]+\}}|[0-9]+/[0-9]+|{_DIGITS})"
    r"(?:\\?%|\s*\\text\{[^{}]*\}|\s+[A-Za-z ]+)?\$?"
)
_CHOICE_GOLD = re.compile(r"\(?(?:\\text\{)?\(?[A-J]\)?\}?\)?")
_CHOICE = re.compile(r"\(([A-J])\)")
_DELIMITER = re.compile(r"\\.|\$\$?", re.DOTALL)
_CLOSING = {"$": "$", "$$": "$$", r"\(": r"\)", r"\[": r"\]"}


def flexible_answer(gold: str, completion: str) -> str | None:
    """The answer of a completion by the flexible rule, or None.

    Args:
        gold: the gold answer, whose kind decides what is searched for.
    """
    wanted = (gold_answer(gold) or "").strip()
    # Without anything after the thinking, the thinking is all there is.
    text = after_thinking(completion).strip() or completion
    if len(wanted) > MAX_LENGTH:  # the patterns take time quadratic in the spaces of a gold
        return None
    if _CHOICE_GOLD.fullmatch(wanted):
        letters = _CHOICE.findall(text)
        return letters[-1] if letters else None
    if not _NUMERIC_GOLD.fullmatch(wanted) and (expression := _last_expression(text)):
        return expression
    return _last_number(text)


def _last_number(text: str) -> str | None:
    newest = deque(_NUMBER.finditer(text.replace("{,}", ",")), maxlen=1)
    if not newest or len(newest[0][0]) > MAX_LENGTH:
        return None
    last = newest[0]
    return ("-" if last["sign"] else "") + last["number"] + (last["percent"] or "")


def _last_expression(text: str) -> str | None:
    """The content of the last complete pair of mathematics delimiters."""
    opened: str | None = None
    start, found = 0, None
    for match in _DELIMITER.finditer(text):
        token = match[0]
        if opened is None and token in _CLOSING:
            opened, start = token, match.end()
        elif opened is not None and token == _CLOSING[opened]:
            content = text[start : match.start()].strip()
            if content and len(content) <= MAX_LENGTH:
                found = last_boxed(content) or content
            opened = None
        elif token in (r"\(", r"\["):
            opened, start = token, match.end()
    return found


def grade_flexibly(
    pairs: Sequence[tuple[str, str]], strict: Sequence[Grade], grader: Grader
) -> list[Grade]:
    """Grade pairs of (gold answer, completion) by the flexible rule.

    Args:
        strict: the grades of the same pairs by the strict rule. A pair that is right by it, whose
            gold cannot be parsed, or for which the flexible rule finds the same answer or none,
            keeps its grade.
        grader: compares the others.

    Returns:
        One grade per pair, in order.

    Raises: as `Grader.compare`.
    """
    grades = list(strict)
    waiting: list[tuple[int, str, str]] = []
    for place, ((gold, completion), grade) in enumerate(zip(pairs, strict, strict=True)):
        if grade.correct or grade.status == "unparsable_gold":
            continue
        answer = flexible_answer(gold, completion)
        if answer is not None and answer != grade.answer:
            waiting.append((place, gold, answer))
    if waiting:
        compared = grader.compare([(gold, text) for _, gold, text in waiting])
        for (place, _, answer), grade in zip(waiting, compared, strict=True):
            grades[place] = Grade(grade.status, answer)
    return grades


def grade_items(items: Sequence[Item], grader: Grader) -> list[tuple[Grade, Grade | None]]:
    """The strict grade of each item, and the flexible one.

    The flexible rule is about mathematics; with a grader of something else there is none.

    Raises: as `Grader.grade`.
    """
    strict = grader.grade(items)
    if not grader.traits.mathematics:
        return [(grade, None) for grade in strict]
    pairs = [(item.problem.answer or "", item.completion) for item in items]
    return list(zip(strict, grade_flexibly(pairs, strict, grader), strict=True))
