"""The grader of JSON: the value in a completion must be the gold value.

The value is all of the text after the thinking, else its last fenced block that is JSON, else its
last object or list, else an answer that is boxed or marked as such. Objects are compared without
the order of their keys, and numbers by value. The feedback names the first place that differs.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any, NoReturn

from opsd_cli.grading.answers import AnswerGrader
from opsd_cli.grading.extract import after_thinking, stated_answer
from opsd_cli.grading.interface import Grade, GradedProblem, GraderTraits

if TYPE_CHECKING:
    from opsd_cli.problems import Problem

#: Characters at the end of a completion that are searched, and openings in them that are tried.
SEARCHED, TRIED = 100_000, 1000
#: Characters of a value that feedback shows.
SHOWN = 60
_FENCE = re.compile(r"```[A-Za-z]*[ \t]*\n(.*?)```", re.DOTALL)
_OPENING = re.compile(r"[\[{]")
_NOTHING = object()


class JsonGrader(AnswerGrader):
    """See the module's docstring."""

    traits = GraderTraits(answers="json", comparable=True)

    def judge(self, problem: Problem | GradedProblem, completion: str) -> Grade:
        gold = parsed(problem.answer or "")
        if gold is _NOTHING:
            return Grade("unparsable_gold")
        found = value_in(completion)
        if found is _NOTHING:
            return Grade("no_answer", feedback="there is no JSON value in the completion")
        answer = json.dumps(found, ensure_ascii=False)
        try:
            difference = first_difference(gold, found)
        except RecursionError:
            difference = "the value is nested too deeply"
        # A half of a surrogate pair, written as an escape, could not be written to a log.
        answer, feedback = (
            text and text.encode("utf-8", "replace").decode() for text in (answer, difference)
        )
        return Grade("wrong" if difference else "correct", answer, feedback=feedback or None)


def parsed(text: str) -> Any:
    """The value of a JSON text; a marker if it is none."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return _NOTHING


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def value_in(completion: str) -> Any:
    """The JSON value that a completion gives; a marker if it gives none."""
    text = after_thinking(completion)[-SEARCHED:].strip()
    whole = parsed(text)
    if whole is not _NOTHING:
        return whole
    for block in reversed(_FENCE.findall(text)):
        value = parsed(block)
        if value is not _NOTHING:
            return value
    decoder = json.JSONDecoder(parse_constant=_refuse)
    found, place, tried = _NOTHING, 0, 0
    while tried < TRIED and (opening := _OPENING.search(text, place)):
        tried += 1
        try:
            found, place = decoder.raw_decode(text, opening.start())
        except (ValueError, RecursionError):
            place = opening.end()
    return parsed(stated_answer(completion) or "") if found is _NOTHING else found


def first_difference(gold: Any, found: Any, path: str = "$") -> str:
    """The first place at which two values differ, in words; empty if they are equal."""
    if isinstance(gold, dict) and isinstance(found, dict):
        for key in gold:
            if key not in found:
                return f"{path}: the key {key!r} is missing"
        for key in found:
            if key not in gold:
                return f"{path}: the key {key!r} is not expected"
        pairs = [(f"{path}.{key}", gold[key], found[key]) for key in gold]
    elif isinstance(gold, list) and isinstance(found, list):
        if len(gold) != len(found):
            return f"{path}: {len(found)} items, where {len(gold)} are expected"
        pairs = [(f"{path}[{i}]", *both) for i, both in enumerate(zip(gold, found, strict=True))]
    else:
        return (
            ""
            if _same(gold, found)
            else f"{path}: {_shown(found)}, where {_shown(gold)} is expected"
        )
    return next((said for each, a, b in pairs if (said := first_difference(a, b, each))), "")


def _same(gold: Any, found: Any) -> bool:
    numbers = (int, float)
    if isinstance(gold, bool) or isinstance(found, bool):
        return gold is found
    if isinstance(gold, numbers) and isinstance(found, numbers):
        try:
            return gold == found or math.isclose(gold, found, rel_tol=1e-9)
        except OverflowError:  # an integer that no float holds
            return False
    return type(gold) is type(found) and bool(gold == found)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
