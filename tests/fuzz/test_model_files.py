"""The fuzzer of model files, in processes of its own, because a library may crash."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.backend_fixtures import require_backend

ROOT = Path(__file__).resolve().parents[2]


def fuzz(backend: str, cases: int, seed: int) -> str:
    """Run the program, which must exit with 0; returns its table."""
    require_backend(backend)
    command = [sys.executable, "-m", "tests.fuzz.model_files", "--backend", backend]
    done = subprocess.run(
        [*command, "--cases", str(cases), "--seed", str(seed)],
        cwd=ROOT,
        env=os.environ | {"MLX_DISABLE_COMPILE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "unexpected" in done.stdout  # the table was reached
    return done.stdout


@pytest.mark.parametrize(("backend", "cases"), [("cpu", 60), ("mlx", 15)])
def test_fuzzed_model_files_load_or_are_refused_in_a_line(backend: str, cases: int) -> None:
    fuzz(backend, cases, seed=1)


@pytest.mark.long
@pytest.mark.parametrize(("backend", "cases"), [("cpu", 1500), ("mlx", 150)])
def test_many_fuzzed_model_files_load_or_are_refused_in_a_line(backend: str, cases: int) -> None:
    print(fuzz(backend, cases, seed=2))
