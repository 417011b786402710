"""Which sources of a teacher's reference a preflight can compare (`teacher.reference`)."""

from __future__ import annotations

from collections.abc import Sequence

from opsd_cli.config.schema import Config
from opsd_cli.config.teacher_section import NO_REFERENCE, wrong_model, wrong_reference
from opsd_cli.errors import UsageError
from opsd_cli.grading import grades, traits_of
from opsd_cli.planning.teacher_checks import same_as_student
from opsd_cli.problems import Problem
from opsd_cli.prompts.references import (
    ANSWER,
    FEEDBACK,
    SIBLING,
    SOLUTION,
    columns_of,
    kind_of,
    shown_reference,
)


def possible_sources(config: Config, problems: Sequence[Problem]) -> tuple[str, ...]:
    """The values of `teacher.reference` that these problems and this grader allow.

    The config's own comes first.
    """
    found = [config.teacher.reference]
    found += [] if config.teacher.model is None else [NO_REFERENCE]
    found += [SOLUTION] if any(problem.solution is not None for problem in problems) else []
    found += [ANSWER] if any(problem.answer is not None for problem in problems) else []
    found += [SIBLING]
    found += [FEEDBACK] if traits_of(config.grading).feedback else []
    found += config.data.fields
    return tuple(each for each in dict.fromkeys(found) if _refused(config, each) is None)


def chosen_sources(
    config: Config, problems: Sequence[Problem], named: Sequence[str] | None
) -> tuple[str, ...]:
    """The sources that are compared: the config's own and those named, by default all possible.

    None where nothing is graded: sources are compared by right and wrong attempts.

    Raises:
        UsageError: a named one is not possible, or nothing is graded.
    """
    if not grades(config.grading):
        if named is None:
            return ()
        raise UsageError(
            "--sources compares references by right and wrong attempts, and grading.grader is none",
            "leave out --sources, or choose a grading.grader that grades (docs/graders.md)",
        )
    possible = possible_sources(config, problems)
    if named is None:
        return possible
    for name in named:
        refused = _refused(config, name)
        if refused is not None:
            problem, _, hint = refused.partition("\n")
            raise UsageError(problem, hint or "leave it out of --sources")
        fields = {field for each in problems for field in each.fields}
        missing = [column for column in columns_of(name) if column not in fields]
        if name not in possible and (missing or kind_of(name) != "columns"):
            what = f"column {missing[0]!r}" if missing else f"{name} to give the teacher"
            raise UsageError(
                f"--sources names {shown_reference(name)}, and the problems have no {what}",
                f"possible here: {', '.join(map(shown_reference, possible))}; other columns are "
                "read if data.fields names them",
            )
    return tuple(dict.fromkeys([config.teacher.reference, *named]))


def _refused(config: Config, reference: str) -> str | None:
    """Why a source does not go with the config: two lines, the second a hint."""
    teacher = config.teacher.model_copy(update={"reference": reference})
    same = same_as_student(config.model_copy(update={"teacher": teacher}))
    return (
        wrong_model(teacher)
        or wrong_reference(teacher, None, config.grading)
        or (None if same is None else "\n".join(same))
    )
