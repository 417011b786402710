"""Ctrl-C: training stops at the next rollout and keeps the finished samples."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from opsd_cli.errors import Interrupted
from opsd_cli.training import run_directory
from tests.support.training_runs import (
    ROLLOUTS_OF_A_RUN,
    StopWithin,
    begin,
    learner,
    resume,
    run_contents,
)


@pytest.mark.parametrize(
    ("phase", "nth", "step"),
    [
        ("preflight: student", 1, 0),
        ("preflight: teacher", 1, 0),
        ("test (base)", 1, 0),
        ("validation", 1, 0),
        ("rollouts", 2, 1),
        ("validation", 2, 2),
        ("rollouts", 6, 5),
        ("test (final)", 1, 6),
    ],
)
def test_interrupt_stops_at_the_next_rollout_and_resume_keeps_the_samples(
    tmp_path: Path, finished_run: Path, phase: str, nth: int, step: int
) -> None:
    directory = tmp_path / "run"
    stop, policy = StopWithin(phase, 3, nth), learner()
    with pytest.raises(Interrupted) as caught:
        begin(directory, listener=stop, stop=stop, policy=policy)
    assert f"after step {step} of 6" in caught.value.message
    assert f"--resume --out {directory}" in caught.value.hint
    again = learner()
    resume(directory, policy=again)
    if step % 2:  # the checkpoint written by the interrupt
        shutil.rmtree(directory / "checkpoints" / f"step-{step:06d}")
    assert run_contents(directory) == run_contents(finished_run)
    # A measurement under way is continued; the rollouts of a step are sampled again.
    drawn_again = 3 if phase == "rollouts" else 0
    assert len(policy.drawn) + len(again.drawn) == ROLLOUTS_OF_A_RUN + drawn_again


def test_resume_draws_a_damaged_sample_again(tmp_path: Path, finished_run: Path) -> None:
    directory = tmp_path / "run"
    stop, policy = StopWithin("test (final)", 6), learner()
    with pytest.raises(Interrupted):
        begin(directory, listener=stop, stop=stop, policy=policy)
    path = directory / run_directory.UNFINISHED
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) == 6
    lines[2] = lines[2].replace('"tokens": 1', '"tokens": 2')
    lines[4] = lines[4].replace('"correct"', '"corrext"')
    path.write_text("".join(lines))
    again = learner()
    resume(directory, policy=again)
    assert run_contents(directory) == run_contents(finished_run)
    assert len(policy.drawn) + len(again.drawn) == ROLLOUTS_OF_A_RUN + 2
