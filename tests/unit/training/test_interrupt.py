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
    ("phase", "nth", "step", "kept"),
    [
        ("preflight: student", 1, 0, "3 completions of preflight: student"),
        (
            "preflight: teacher",
            1,
            0,
            "32 completions of preflight: student, 3 completions of preflight: teacher",
        ),
        ("test (base)", 1, 0, "the preflight, 3 completions of test (base)"),
        ("validation", 1, 0, "the preflight, test (base), 3 completions of validation"),
        ("rollouts", 1, 0, "the preflight, test (base), validation"),
        ("rollouts", 2, 1, "the checkpoint of step 1, every finished measurement"),
        (
            "validation",
            2,
            2,
            "the checkpoint of step 2, every finished measurement, 3 completions of validation",
        ),
        ("rollouts", 6, 5, "the checkpoint of step 5, every finished measurement"),
        (
            "test (final)",
            1,
            6,
            "the checkpoint of step 6, every finished measurement, 3 completions of test (final)",
        ),
    ],
)
def test_interrupt_stops_at_the_next_rollout_and_resume_keeps_the_samples(
    tmp_path: Path, finished_run: Path, phase: str, nth: int, step: int, kept: str
) -> None:
    directory = tmp_path / "run"
    stop, policy = StopWithin(phase, 3, nth), learner()
    with pytest.raises(Interrupted) as caught:
        begin(directory, listener=stop, stop=stop, policy=policy)
    where = f"after step {step}" if step else "before step 1"
    again = f"begins step {step + 1} anew" if phase == "rollouts" else "samples none of it again"
    assert caught.value.message == f"stopped {where} of 6; kept: {kept}; resuming {again}"
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
