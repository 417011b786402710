"""Several graders at once: the score is the weighted mean of theirs.

`grading.grader` alone decides the status, the answer and whether a completion is correct, so that
accuracy and majority votes do not depend on the weights. The score, which is GRPO's reward, is the
mean of the scores of the graders in `grading.weights`. A grader that failed on a completion scores
it 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Self

from opsd_cli.grading.interface import Grade, Grader, GraderTraits, Item


def combined(traits: Sequence[GraderTraits]) -> GraderTraits:
    """The traits of several graders together, of which the first decides what is correct."""
    return GraderTraits(
        needs_answer=any(each.needs_answer for each in traits),
        columns=tuple(dict.fromkeys(column for each in traits for column in each.columns)),
        answers=traits[0].answers,
        comparable=traits[0].comparable,
        feedback=any(each.feedback for each in traits),
        grades=all(each.grades for each in traits),
    )


class WeightedGrader(Grader):
    """See the module's docstring.

    Args:
        deciding: the name of the grader that decides what is correct.
        graders: name -> grader, the deciding one and those that are weighed.
        weights: name -> weight, above 0.
    """

    def __init__(
        self, deciding: str, graders: Mapping[str, Grader], weights: Mapping[str, float]
    ) -> None:
        self._deciding, self._graders, self._weights = deciding, graders, weights
        others = [grader for name, grader in graders.items() if name != deciding]
        self.traits = combined([each.traits for each in (graders[deciding], *others)])
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        for grader in self._graders.values():
            self._opened.enter_context(grader)
        return self

    def __exit__(self, *exception: object) -> None:
        self._opened.close()

    def check(self) -> None:
        for grader in self._graders.values():
            grader.check()

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[Grade]:
        return self._graders[self._deciding].compare(pairs)

    def grade(self, items: Sequence[Item]) -> list[Grade]:
        found = {name: grader.grade(items) for name, grader in self._graders.items()}
        total = sum(self._weights.values())
        grades = []
        for place, deciding in enumerate(found[self._deciding]):
            own = {name: grades_of[place] for name, grades_of in found.items()}
            score = sum(weight * own[name].score for name, weight in self._weights.items()) / total
            told = {name: each.feedback for name, each in own.items() if each.feedback}
            feedback = "\n".join(f"{name}: {text}" for name, text in told.items())
            if len(own) == 1:
                feedback = next(iter(told.values()), "")
            grades.append(
                Grade(deciding.status, deciding.answer, min(1.0, score), feedback or None)
            )
        return grades
