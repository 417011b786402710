"""No damage to a run's files changes a number without a word, or ends in an unmeant exception."""

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
