"""Damaged data files: some of each kind, and thousands in the long form."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import data_files


@pytest.mark.filterwarnings("ignore::ruamel.yaml.composer.ReusedAnchorWarning")
@pytest.mark.parametrize("kind", data_files.MAKERS)
def test_fuzzed_data_file_loads_with_rows_counted_or_is_refused_in_a_line(
    kind: str, tmp_path: Path
) -> None:
    ends = {data_files.run_case(seed, kind, tmp_path) for seed in range(60)}
    assert ends == {"loaded", "refused"}


@pytest.mark.long
def test_many_fuzzed_data_files_load_or_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    table = data_files.run_all(cases=2000, seed=10_000)
    assert sum(found["wrong"] for found in table.values()) == 0, capsys.readouterr().out
