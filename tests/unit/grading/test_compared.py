"""`opsd compare` with a function of the user's as the grader of every run."""

from __future__ import annotations

from pathlib import Path

from opsd_cli.comparison.curves import basis_of
from opsd_cli.config.resolve import resolve
from tests.support.cli import Opsd


def test_a_comparison_refuses_a_grader_that_cannot_be_used(opsd: Opsd, tmp_path: Path) -> None:
    code, _, err = opsd(
        "compare --set data.train=good.jsonl --out c --set grading.grader=nosuch.py:score"
    )
    assert code == 2 and "there is no file" in err
    assert not (tmp_path / "c").exists()


def test_runs_graded_by_files_that_differ_are_not_comparable() -> None:
    config = resolve(assignments=["grading.grader=rules.py:score"])
    one, other, same = (
        basis_of(config, {"grader_files": {"rules.py": digest}}, "problems") for digest in "aba"
    )
    assert one == same and one["grader"] != other["grader"]
    assert {**one, "grader": None} == {**other, "grader": None}
