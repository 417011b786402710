"""PyTorch's idle threads sleep, so that other processes on the same cores are not slowed down."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

pytest.importorskip("torch")

ASK = "import backends; backends.get('cpu').capability()"
TRAIN = "from opsd_cli.cli.app import main; import sys; sys.argv = ['opsd', 'doctor']; main()"


def setting_of(code: str, **environment: str) -> str:
    """How a new process's OpenMP threads wait, as the OpenMP library says when it is loaded."""
    kept = {k: v for k, v in os.environ.items() if not re.match("(OMP|GOMP|KMP)_", k)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=kept | {"OMP_DISPLAY_ENV": "TRUE"} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.findall(r"OMP_WAIT_POLICY ?= ?'(\w+)'", done.stderr)
    if not found:
        pytest.skip("this PyTorch has no OpenMP")
    assert len(set(found)) == 1
    return str(found[0])


@pytest.mark.parametrize("code", [ASK, TRAIN], ids=["backend", "command"])
def test_idle_threads_sleep(code: str) -> None:
    assert setting_of(code) == "PASSIVE"


def test_wait_policy_of_the_user_is_kept() -> None:
    assert setting_of(ASK, OMP_WAIT_POLICY="ACTIVE") == "ACTIVE"
