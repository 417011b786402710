"""Directories that are named by the second: two of one name never become one."""

from __future__ import annotations

import threading
from datetime import datetime
from pathlib import Path

import pytest

from opsd_cli.comparison import session
from opsd_cli.evaluation import directory
from opsd_cli.evaluation.directory import EvaluationDirectory
from opsd_cli.files.fresh_directory import fresh_directory


def test_fresh_directory_takes_the_next_free_name(tmp_path: Path) -> None:
    (tmp_path / "a-1").write_text("a file")
    made = [fresh_directory(tmp_path, "a").name for _ in range(3)]
    assert made == ["a", "a-2", "a-3"]


def test_fresh_directory_is_one_for_each_of_several_at_once(tmp_path: Path) -> None:
    made: list[Path] = []
    start = threading.Barrier(8)

    def make() -> None:
        start.wait()
        made.extend(fresh_directory(tmp_path / "runs", "a") for _ in range(20))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == len(made) == 160


def test_evaluations_within_one_second_have_directories_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(datetime):
        @classmethod
        def now(cls, tz: object = None) -> Stopped:
            return cls(2026, 11, 23, 9, 45)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(directory, "datetime", Stopped)
    monkeypatch.setattr(session, "datetime", Stopped)
    made = [EvaluationDirectory.create(None, {}).path for _ in range(2)]
    assert [path.name for path in made] == ["eval-20261123-094500", "eval-20261123-094500-1"]
    compared = [session.make_default_directory().name for _ in range(2)]
    assert compared == ["compare-20261123-094500", "compare-20261123-094500-1"]
