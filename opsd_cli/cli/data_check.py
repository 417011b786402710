"""`opsd data check`: rows of a set whose answers are probably faulty."""

from __future__ import annotations

from collections.abc import Sequence

from opsd_cli import methods
from opsd_cli.cli.console import Output
from opsd_cli.config.resolve import resolve
from opsd_cli.config.schema import Config
from opsd_cli.grading import check_grader, open_grader, traits_of
from opsd_cli.problems import ProblemSet
from opsd_cli.problems.checking import (
    grading_findings,
    left_out_findings,
    loading_findings,
)
from opsd_cli.problems.sources import load_one_set


def run(source: str, configs: Sequence[str], assignments: Sequence[str], out: Output) -> None:
    """Show what loading and the grader find in the answers of a set.

    Raises:
        ConfigError: a config or key that is not valid, or a grader that cannot be used.
        DataError: the set cannot be read, or no row is usable.
    """
    config = resolve(tuple(configs) or None, assignments)
    check_grader(config.grading)
    with out.working("reading the problems"):
        problems = load_one_set(source, config)
    with out.working("grading the solutions"), open_grader(config.grading) as grader:
        found = (*loading_findings(problems), *grading_findings(problems, grader))
    out.show(f"{problems.name}: {problems.report.sentence()}")
    left_out, note = left_out_findings(problems), _solution_note(problems, config)
    for finding in left_out:
        more = finding.rows.count - len(finding.rows.described)
        out.exact(f"{finding.what}: {', '.join(finding.rows.described)}{_more(more)}")
    if note:
        out.show(note)
    for finding in found:
        out.show(f"{finding.what}:")
        for row in finding.rows.described:
            out.exact(f"  {row}")
        more = finding.rows.count - len(finding.rows.described)
        if more:
            out.exact(f"  and {more:,} more")
    if not found:
        solved = "" if note else "no answer contradicts its solution, and "
        traits = traits_of(config.grading)
        if traits.mathematics:
            out.show(f"{solved}the grader can parse every answer")
        elif traits.needs_answer:
            out.show("the grader accepts every answer as a completion")
        else:
            out.show("this grader needs no answer: nothing was checked")
    out.object(
        {
            "name": problems.name,
            "rows": problems.report.rows,
            "used": problems.report.used,
            "left_out": problems.report.skipped(),
            "left_out_rows": [finding.as_dict() for finding in left_out],
            "notes": [note] if note else [],
            "findings": [finding.as_dict() for finding in found],
        }
    )


def _more(count: int) -> str:
    return f" and {count:,} more" if count else ""


def _solution_note(problems: ProblemSet, config: Config) -> str | None:
    """What it means that no problem has a solution; None where that stops no training."""
    if not methods.get(config).reads_solutions() or any(p.solution for p in problems.problems):
        return None
    return (
        f"no row of {problems.name} has a solution, which the teacher reads with "
        f"method={config.method} and teacher.reference={config.teacher.reference}: `opsd train` "
        "refuses it so. Name the column (--set data.columns.solution=COLUMN), let the "
        "teacher read the answer or the model's own right rollouts (--set "
        "teacher.reference=answer, or sibling), or train with --method grpo"
    )
