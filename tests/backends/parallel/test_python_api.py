"""`devices` of the Python API, from a script without a guard around its calls."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import opsd_cli
from opsd_cli.errors import UsageError
from opsd_cli.processes.child_processes import package_environment
from tests.support.backend_fixtures import require_backend
from tests.support.fakes import FakePolicy
from tests.support.processes import PATIENCE_SECONDS
from tests.support.ranks import left

SCRIPT = """
import opsd_cli as opsd
config = opsd.load_config("embedded", **{
    "backend": "cpu", "train.steps": 1, "train.questions_per_step": 3, "train.reduce": "exact",
    "train.passes": 1, "data.test_problems": 3, "data.validation_problems": 3,
    "preflight.enabled": False, "sampling.max_new_tokens": 8,
})
opsd.train(config, "one")
opsd.train(config, "two", devices=2)
opsd.evaluate(config, out="measured", samples=1, limit=2, devices=2)
"""


def test_two_devices_from_python_leave_the_files_of_one(tmp_path: Path) -> None:
    require_backend("cpu")
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True,
        env=package_environment() | {"OMP_NUM_THREADS": "1"}, timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert left(tmp_path / "two") == left(tmp_path / "one")
    assert (tmp_path / "measured/results.json").is_file()


def test_devices_with_a_loaded_policy_are_refused(tmp_path: Path) -> None:
    for call in (opsd_cli.train, opsd_cli.evaluate):
        with pytest.raises(UsageError, match="a policy is given"):
            call(policy=FakePolicy(), devices=2)  # type: ignore[operator]


def test_a_number_of_devices_that_does_not_suit_is_refused_before_a_run_exists(
    tmp_path: Path,
) -> None:
    require_backend("cpu")
    config = opsd_cli.load_config("embedded", **{"backend": "cpu", "train.reduce": "exact"})
    with pytest.raises(UsageError, match="3 ranks cannot share"):
        opsd_cli.train(config, tmp_path / "run", devices=3)
    assert not (tmp_path / "run").exists()
