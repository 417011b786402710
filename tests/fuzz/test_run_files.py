"""Damage to a run's files is repaired or refused: the short form of `tests.fuzz.run_files`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.run_files import cases, make, table


@pytest.mark.parametrize("count", [60, pytest.param(1500, marks=pytest.mark.long)])
def test_resume_of_a_fuzzed_run_ends_the_same_or_is_refused(count: int, tmp_path: Path) -> None:
    found = cases(make(tmp_path), tmp_path, count, seed=count)
    print(table(found))
    wrong = [case for case in found if case.outcome in ("different", "unexpected")]
    assert not wrong
