"""Graders that compare an answer with the gold answer as a choice, as text or as a number.

An answer is taken from the text after the thinking: the last box, else an answer that the last line
marks ("Answer: 7", "#### 7"). Without either, each grader has its own rule. All take time linear in
the length of the text, so they run in the process of the caller.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from opsd_cli.grading.extract import after_thinking, clean_line, stated_answer
from opsd_cli.grading.interface import Grade, GradedProblem, Grader, GraderTraits, Item, Warn

if TYPE_CHECKING:
    from opsd_cli.config.grading_section import Grading
    from opsd_cli.problems import Problem

#: In characters: what is read of an answer that may be a choice.
LONGEST = 2000
_NUMBER = re.compile(
    r"(?:(?<![\w)}\]])[-\u2212+])?[$€£]?"
    r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?:[eE][-+]?[0-9]{1,4})?(?:/[0-9]+(?![0-9./]))?"
)
#: A choice is named by a letter; the pronoun "I" is none.
_LETTER = r"(?P<letter>[A-HJ]|I(?!\s+[a-z]))"
_LABEL = re.compile(
    rf"^[\s*_(\[]*{_LETTER}(?:[\s*_]*[)\].:,][\s*_]*|[\s*_]*$|[\s*_]+-+\s+)(?P<rest>.*)$"
)
_NAMED = re.compile(
    r"(?i:\b(?:answer|option|choice))[\s*_:]{0,8}(?i:\bis\b|=)?[\s*_:]{0,8}(?i:option\s+)?"
    rf"[(\[*_]{{0,4}}{_LETTER}\b"
)
_IN_PARENTHESES = re.compile(rf"\(\s?{_LETTER}\s?\)")
_TEXT = re.compile(r"^\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}$")


class AnswerGrader(Grader):
    """A grader that compares in this process; derived classes say how."""

    traits = GraderTraits(comparable=True)
    settings: ClassVar[tuple[str, ...]] = ()

    def __init__(self, chosen: Grading) -> None:
        self._chosen = chosen

    @classmethod
    def from_settings(cls, settings: Grading, name: str, warn: Warn) -> Self:
        return cls(settings)

    @classmethod
    def traits_of(cls, settings: Grading) -> GraderTraits:
        return cls.traits

    def grade(self, items: Sequence[Item]) -> list[Grade]:
        return [self.judge(item.problem, item.completion) for item in items]

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[Grade]:
        return [self.judge(GradedProblem("", "", gold), answer) for gold, answer in pairs]

    def judge(self, problem: Problem | GradedProblem, completion: str) -> Grade:
        """The grade of one completion."""
        raise NotImplementedError


class ExactGrader(AnswerGrader):
    """The same text, white space aside: the whole completion, its answer, or its last line."""

    settings = ("ignore_case",)

    def judge(self, problem: Problem | GradedProblem, completion: str) -> Grade:
        gold = self._plain(problem.answer or "")
        if not gold:
            return Grade("unparsable_gold")
        text = after_thinking(completion).strip()
        answer = bare(stated_answer(completion)) or last_line(text)
        if not answer:
            return Grade("no_answer")
        if self._plain(text) == gold:
            return Grade("correct", text)
        return Grade("correct" if self._plain(answer) == gold else "wrong", answer)

    def _plain(self, text: str) -> str:
        plain = " ".join(text.split())
        return plain.casefold() if self._chosen.ignore_case else plain


class NumberGrader(AnswerGrader):
    """The last number, within `grading.tolerance` of the gold number."""

    settings = ("tolerance",)

    def judge(self, problem: Problem | GradedProblem, completion: str) -> Grade:
        gold = last_number(problem.answer or "")
        if gold is None:
            return Grade("unparsable_gold")
        stated = bare(stated_answer(completion))
        found = last_number(after_thinking(completion) if stated is None else stated)
        if found is None:
            return Grade("no_answer")
        tolerance = self._chosen.tolerance
        same = math.isclose(
            gold[1], found[1], rel_tol=tolerance, abs_tol=0.0 if gold[1] else tolerance
        )
        return Grade("correct" if same else "wrong", found[0])


class ChoiceGrader(AnswerGrader):
    """The letter of a choice, or its text.

    With `grading.choices`, a column with the options, either may stand for the other.
    """

    settings = ("choices",)

    @classmethod
    def traits_of(cls, settings: Grading) -> GraderTraits:
        columns = (settings.choices,) if settings.choices else ()
        return GraderTraits(comparable=True, columns=columns)

    def __init__(self, chosen: Grading) -> None:
        super().__init__(chosen)
        self.traits = self.traits_of(chosen)

    def judge(self, problem: Problem | GradedProblem, completion: str) -> Grade:
        options = options_of(problem.fields.get(self._chosen.choices or ""))
        gold = as_choice(bare(problem.answer) or "", options)
        beyond = bool(options) and gold[0] not in options
        if not any(gold) or beyond:
            return Grade("unparsable_gold")
        said = chosen_in(completion, options, gold)
        if said is None:
            return Grade("no_answer")
        letter, text = as_choice(said, options)
        if gold[0] and letter:
            return Grade("correct" if gold[0] == letter else "wrong", said)
        return Grade("correct" if text and folded(text) == folded(gold[1]) else "wrong", said)


def options_of(value: Any) -> dict[str, str]:
    """Letter -> text, of a cell: a list of texts, an object, or {"label": [...], "text": [...]}."""
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        labels, value = value.get("label"), value["text"]
        if isinstance(labels, list) and len(labels) == len(value):
            value = dict(zip(map(str, labels), value, strict=True))
    if isinstance(value, Mapping):
        return {str(letter).strip().upper(): str(text) for letter, text in value.items()}
    if isinstance(value, list):
        found = [as_choice(str(text), {}) for text in value]
        return {
            letter or chr(ord("A") + place): text or str(value[place])
            for place, (letter, text) in enumerate(found)
        }
    return {}


def as_choice(text: str, options: Mapping[str, str]) -> tuple[str, str]:
    """An answer as its letter and its text; either may be empty."""
    text = text.strip()[:LONGEST]
    if text.upper() in options:
        return text.upper(), options[text.upper()]
    for letter, option in options.items():
        if folded(option) == folded(text):
            return letter, option
    if len(text) == 1 and text.isalpha():
        return text.upper(), ""
    label = _LABEL.match(text)
    if label is None or (options and label["letter"] not in options):
        return "", text
    return label["letter"], label["rest"].strip()


def chosen_in(completion: str, options: Mapping[str, str], gold: tuple[str, str]) -> str | None:
    """What a completion chooses, as it spells it; None if it names no choice."""
    text = after_thinking(completion).strip()
    line = bare(stated_answer(completion)) or last_line(text)
    if line is None:
        return None
    letter, rest = as_choice(line, options)
    if letter or folded(rest) == folded(gold[1]):
        return line
    for pattern in (_NAMED, _IN_PARENTHESES):
        found = [match["letter"] for match in pattern.finditer(text)]
        if found:
            return found[-1]
    return None if gold[0] else line


def bare(answer: str | None) -> str | None:
    r"""An answer without dollar signs, `\text{}` and emphasis around it."""
    if answer is None:
        return None
    text = answer.strip().strip("$").strip()
    inner = _TEXT.match(text)
    return clean_line(inner[1] if inner else text) or None


def last_line(text: str) -> str | None:
    """The last line that is not blank, without emphasis and the final full stop."""
    lines = text.strip().splitlines()
    return clean_line(lines[-1]) or None if lines else None


def last_number(text: str) -> tuple[str, float] | None:
    """The last number of a text, as it is spelt and as a number; None without one."""
    newest = None
    for match in _NUMBER.finditer(text):
        newest = match[0]
    if newest is None:
        return None
    whole, _, divisor = newest.partition("/")
    plain = re.sub("[$€£,]", "", whole).replace("\u2212", "-")
    value = float(plain)
    if divisor:
        below = float(divisor)
        value = value / below if below else math.nan
    return newest, value


def folded(text: str) -> str:
    """A text for comparison: without case, white space at its ends and a final full stop."""
    return " ".join(text.split()).casefold().rstrip(".")
