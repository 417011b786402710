"""The teacher's analyses on disk (`analyses.jsonl`): paid for once, and read back by a resumed run.

Only those of a teacher of initial weights are kept; they depend on the problem alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from opsd_cli.problems import Problem
from opsd_cli.training import run_directory
from opsd_cli.training.run_directory import Run


def save_analyses(run: Run, step: int, analyses: Mapping[tuple[str, str], str]) -> None:
    """Append analyses by `Problem.key` that were written at a step."""
    rows = [
        {"step": step, "set": key[0], "problem_id": key[1], "analysis": text}
        for key, text in analyses.items()
    ]
    if rows:
        run.append(run_directory.ANALYSES, *rows)


def load_analyses(run: Run, problems: Sequence[Problem]) -> dict[tuple[str, str], str]:
    """The saved analyses of these problems, by `Problem.key`."""
    keys = {problem.key for problem in problems}
    found = {
        (row["set"], row["problem_id"]): row["analysis"] for row in run.rows(run_directory.ANALYSES)
    }
    return {key: text for key, text in found.items() if key in keys}
