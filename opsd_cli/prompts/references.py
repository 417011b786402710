"""The teacher's reference: what its prompt holds beside the question (`teacher.reference`).

- `solution`: the problem's worked solution.
- `answer`: its final answer alone.
- `sibling`: a rollout of the same question that was graded right in the same step (SDPO,
  arXiv 2601.20802). Which one is chosen is `opsd_cli.rollouts.siblings`.
- `feedback`: what the grader said of the very rollout that the teacher scores: a failing test, a
  violated rule (SDPO too).
- `none`: nothing. The teacher is then another model (`teacher.model`) that has the student's own
  prompt.
- any other text: a column of the training set, or a template with columns in braces
  ("Hint: {hint}"). The names in `OWN_PLACES` stand for the problem's own values there, whatever
  their columns are called.

A sibling and feedback belong to one rollout, and exist only once a step's rollouts are graded. A
rollout without one has what `teacher.without_reference` names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from opsd_cli.config.teacher_section import NO_REFERENCE
from opsd_cli.problems.cells import field_text
from opsd_cli.prompts.rendering import ANSWER_INSTRUCTION, Template
from opsd_cli.prompts.teacher import ANALYSIS_TEMPLATE, TEACHER_TEMPLATE

if TYPE_CHECKING:
    from opsd_cli.config.teacher_section import Teacher
    from opsd_cli.problems import Problem

Kind = Literal["solution", "answer", "sibling", "feedback", "columns", "none"]

SOLUTION, ANSWER, SIBLING, FEEDBACK = "solution", "answer", "sibling", "feedback"
#: References that belong to one rollout, and not to its problem.
OF_ONE_ROLLOUT = (SIBLING, FEEDBACK)
#: Names of references that are no columns.
OF_TEACHER = (SOLUTION, ANSWER, *OF_ONE_ROLLOUT)
#: Value of `teacher.without_reference` with which a rollout without a reference is not trained on.
SKIP = "skip"
#: Places of a template that are not columns.
OWN_PLACES = ("question", "solution", "answer")
_PLACE = re.compile(r"\{([^{}\n]+)\}")

_GUARD = (
    "derive the same final answer by your own reasoning. Try other ways where they help, and never "
    "hesitate to backtrack or to reconsider.\n\n" + ANSWER_INSTRUCTION
)
#: The words of the prompts that tell the teacher what its reference is: the teacher's template and
#: that of its analysis. `{solution}` is the reference's place in all of them.
WORDS: dict[Kind, tuple[str, str]] = {
    "solution": (TEACHER_TEMPLATE, ANALYSIS_TEMPLATE),
    "answer": (
        "Problem: {question}\n\n"
        "This is the verified final answer of the problem:\n"
        "[answer begins]\n"
        "{solution}\n"
        "[answer ends]\n\n"
        "Do not refer to it: " + _GUARD,
        "{question}\n\n"
        "The verified final answer:\n"
        "[answer begins]\n"
        "{solution}\n"
        "[answer ends]\n\n"
        "Do not write a whole solution. Explain briefly, in your own words, which steps lead to "
        "this answer, and where somebody working without it would most likely go wrong.",
    ),
    "sibling": (
        "Problem: {question}\n\n"
        "This is an earlier solution of the problem, whose final answer was verified:\n"
        "[solution begins]\n"
        "{solution}\n"
        "[solution ends]\n\n"
        "First make sure that you understand why each of its steps holds. Do not copy or "
        "paraphrase it: " + _GUARD,
        ANALYSIS_TEMPLATE,
    ),
    # The teacher scores the attempt that the feedback is about. The words ask for a solution that
    # the check accepts: were the attempt announced as the text that follows, the teacher might
    # expect its faults.
    "feedback": (
        "Problem: {question}\n\n"
        "This is what a check said of an attempt at the problem:\n"
        "[feedback begins]\n"
        "{solution}\n"
        "[feedback ends]\n\n"
        "First make sure that you understand what was wrong with the attempt. Do not refer to it: "
        "solve the problem by your own reasoning, so that the check accepts your solution. Try "
        "other ways where they help, and never hesitate to backtrack or to reconsider.\n\n"
        + ANSWER_INSTRUCTION,
        ANALYSIS_TEMPLATE,
    ),
    "columns": (
        "Problem: {question}\n\n"
        "This information belongs to the problem:\n"
        "[information begins]\n"
        "{solution}\n"
        "[information ends]\n\n"
        "First make sure that you understand it. Do not refer to it: use it, and solve the problem "
        "by your own reasoning. Try other ways where they help, and never hesitate to backtrack or "
        "to reconsider.\n\n" + ANSWER_INSTRUCTION,
        "{question}\n\n"
        "This information belongs to the problem:\n"
        "[information begins]\n"
        "{solution}\n"
        "[information ends]\n\n"
        "Do not solve the problem. Explain briefly, in your own words, what follows from this "
        "information, and where somebody working without it would most likely go wrong.",
    ),
}


@dataclass(frozen=True)
class Reference:
    """What one teacher prompt holds beside the question.

    Attributes:
        text: as it is, control tokens not escaped.
        kind: what it is, by which the default words of the prompt are chosen.
    """

    text: str
    kind: Kind = "solution"


def kind_of(reference: str) -> Kind:
    """The kind of reference that a value of `teacher.reference` names."""
    if reference in (SOLUTION, ANSWER, NO_REFERENCE, *OF_ONE_ROLLOUT):
        return reference  # type: ignore[return-value]
    return "columns"


def template_of(reference: str) -> str:
    """The template of a reference from columns: itself, or the place of the column it names."""
    return reference if _PLACE.search(reference) else "{" + reference + "}"


def columns_of(reference: str) -> tuple[str, ...]:
    """The columns that a value of `teacher.reference` names, without the problem's own values."""
    if kind_of(reference) != "columns":
        return ()
    places = _PLACE.findall(template_of(reference))
    return tuple(dict.fromkeys(place for place in places if place not in OWN_PLACES))


def reads_solutions(teacher: Teacher) -> bool:
    """True if the teacher's reference, or what stands in for it, holds the worked solution."""
    if teacher.reference in OF_ONE_ROLLOUT:
        return teacher.without_reference == SOLUTION
    if kind_of(teacher.reference) == "columns":
        return "{solution}" in template_of(teacher.reference)
    return teacher.reference == SOLUTION


def reference_of(problem: Problem, teacher: Teacher) -> Reference | None:
    """The reference that a problem has by itself, whatever its rollouts are.

    With `sibling` and `feedback` this is what a rollout has that lacks its own.

    Returns:
        None if the problem has none: a value is missing, or `teacher.without_reference` is `skip`.
    """
    of_one_rollout = teacher.reference in OF_ONE_ROLLOUT
    named = teacher.without_reference if of_one_rollout else teacher.reference
    if named == SKIP and of_one_rollout:
        return None
    kind = kind_of(named)
    if kind == "none":
        return Reference("", kind)
    own = {"question": problem.question, "solution": problem.solution, "answer": problem.answer}
    if kind != "columns":
        text = own[kind]
        return None if text is None else Reference(text, kind)
    columns = {column: field_text(problem.fields.get(column)) for column in columns_of(named)}
    values = {
        place: text for place, text in (own | columns).items() if "{" + place + "}" in
        template_of(named)
    }  # fmt: skip
    given = {place: text for place, text in values.items() if text is not None}
    if given.keys() != values.keys():
        return None
    return Reference(Template(template_of(named)).fill(**given), kind)


def example_reference(example: Problem, teacher: Teacher) -> Reference:
    """The reference of a worked example: of the config's kind, or its solution or answer."""
    found = reference_of(example, teacher)
    if found is None:
        kind: Kind = "answer" if example.solution is None else "solution"
        return Reference(example.solution or example.answer or "", kind)
    return found


def missing_reference(problem: Problem, teacher: Teacher) -> tuple[str, str]:
    """What is said of a problem without a reference: the problem and a hint."""
    if teacher.reference in OF_ONE_ROLLOUT:
        return (
            f"problem {problem.id!r} has no reference before its rollouts are graded: "
            f"teacher.reference is {teacher.reference}",
            "for a prompt of the teacher by itself: --set teacher.reference=solution or answer",
        )
    if teacher.reference == SOLUTION:
        return (
            f"problem {problem.id!r} has no reference solution for the teacher",
            "name its column with --set data.columns.solution=COLUMN, or give --solution; "
            "--set teacher.reference=answer, sibling and feedback need none",
        )
    return (
        f"problem {problem.id!r} lacks a value that teacher.reference names "
        f"({shown_reference(teacher.reference)})",
        "problems with all of its columns are needed, or another teacher.reference",
    )


def shown_reference(reference: str, longest: int = 60) -> str:
    """A value of `teacher.reference` on one line."""
    line = " ".join(reference.split())
    return line if len(line) <= longest else line[: longest - 3] + "..."
