"""Kills at random events and resumes: the short form of `tests.fuzz.kills`, and the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.kills import fuzz, shares
from tests.support.killable_commands import COMMANDS


def all_equal(command: str, kills: int, seed: int, folder: Path, real: bool = False) -> None:
    told: list[str] = []
    outcomes = fuzz(command, kills, seed, folder, real, told.append)
    assert all(outcome.ended == "equal" for outcome in outcomes), "\n".join(told)
    assert sum(len(outcome.kills) for outcome in outcomes) >= kills


@pytest.mark.parametrize("command", COMMANDS)
def test_resume_after_random_kills_changes_nothing(command: str, tmp_path: Path) -> None:
    all_equal(command, shares(10)[command], 0, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("command", COMMANDS)
def test_resume_after_a_hundred_kills_changes_nothing(command: str, tmp_path: Path) -> None:
    all_equal(command, shares(100)[command], 1, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("command", ["train", "eval"])
def test_resume_after_kills_of_a_real_model_changes_nothing(command: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    all_equal(command, 10, 2, tmp_path, real=True)
