"""A preflight whose grader fails: the fault is named, and is not taken for the model's."""

from __future__ import annotations

from pathlib import Path

import pytest

from opsd_cli.errors import PreflightFailed
from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.training import run_directory
from tests.support.small_problems import SPLITS
from tests.support.training_runs import begin

FAULTY = f"""
QUESTION = {SPLITS.train.problems[0].question!r}

def always(problem, completion):
    return 1 / 0, "divided"

def often(problem, completion):
    if problem.question != QUESTION:
        raise KeyError("rule")
    return False, "no"
"""
PLACE = "rules.py, line 5: ZeroDivisionError: division by zero"


def failed(tmp_path: Path, function: str, *settings: str) -> PreflightFailed:
    """The error of a run whose grader is that function of the file above."""
    (tmp_path / "rules.py").write_text(FAULTY)
    grader = f"grading.grader={tmp_path / 'rules.py'}:{function}"
    with pytest.raises(PreflightFailed) as caught:
        begin(tmp_path / "run", grader, "preflight.problems=8", *settings)
    return caught.value


@pytest.mark.parametrize("reference", ["feedback", "sibling", "solution"])
def test_preflight_names_the_crash_of_a_grader(tmp_path: Path, reference: str) -> None:
    group = ("rollouts.per_question=2",) if reference == "sibling" else ()
    error = failed(tmp_path, "always", f"teacher.reference={reference}", *group)
    asked = 8 if reference == "feedback" else 16
    assert error.message.startswith(
        f"nothing was measured: the grader failed on all {asked} completions (crashed: {PLACE})"
    )
    assert "mend the grader" in error.hint and "data check" not in error.hint
    kept = tmp_path / "run-failed-preflight" / run_directory.PREFLIGHT_SAMPLES
    assert {row["reason"] for row in read_rows(kept)} == {PLACE}


def test_preflight_names_a_grader_that_fails_on_most_completions(tmp_path: Path) -> None:
    error = failed(tmp_path, "often")
    assert "the grader failed on " in error.message and "14 of 16 completions" in error.message
    assert "KeyError: 'rule'" in error.message
