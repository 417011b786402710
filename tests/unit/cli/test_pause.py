"""A run of a round of `opsd compare --halving`: it ends at its step, and goes on from there."""

from __future__ import annotations

from pathlib import Path

import pytest

from opsd_cli.comparison import supervisor
from opsd_cli.comparison.jobs import Job
from opsd_cli.config.resolve import resolve
from opsd_cli.training.pausing import PAUSE_STEP, reached
from tests.support.cli import Opsd

WORDS = "--set train.steps=4 --set train.evaluate_every=2 --set train.questions_per_step=2"
SMALL = "--set data.validation_problems=3 --set data.test_problems=3 --set preflight.enabled=false"


def test_pause_ends_a_run_at_its_step_and_resuming_finishes_it(
    opsd: Opsd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PAUSE_STEP, "2")
    flags = f"{WORDS} {SMALL} --set train.checkpoint_every=2 --set train.test_at_end=true"
    code, _, err = opsd(f"train --out run {flags}")
    run = tmp_path / "run"
    assert code == 0, err
    assert reached(run, 2) and not reached(run, 3) and not (run / "result.json").exists()
    assert "stopped after step 2 of 4" in err
    assert opsd("train --resume --out run")[0] == 0  # again: there is nothing left to do
    assert not (run / "result.json").exists()
    monkeypatch.delenv(PAUSE_STEP)
    assert opsd("train --resume --out run")[0] == 0
    assert (run / "result.json").is_file() and reached(run, 4)


def test_pause_is_named_to_the_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, str]] = []
    monkeypatch.setattr(
        supervisor.subprocess, "Popen", lambda *_, **more: given.append(more["env"])
    )
    config = resolve(None, [])
    supervisor.start(tmp_path, Job("a-s0", "a", config, pause=7), 1)
    supervisor.start(tmp_path, Job("b-s0", "b", config), 1)
    assert given[0][PAUSE_STEP] == "7" and PAUSE_STEP not in given[1]
