"""Every benchmark can be started, and benchmarks/README.md lists it."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from benchmarks import busy_cores

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SHARED = {"__init__", "measuring", "random_models", "peer_tasks"}
SCRIPTS = sorted(path.stem for path in BENCHMARKS.glob("*.py") if path.stem not in SHARED)


@pytest.mark.parametrize("name", SCRIPTS)
def test_benchmark_script_has_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(BENCHMARKS / f"{name}.py")
    monkeypatch.setattr(sys, "argv", [path, "--help"])
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(path, run_name="__main__")
    assert left.value.code == 0
    assert f"usage: {name}.py" in capsys.readouterr().out


def test_benchmarks_readme_lists_every_script() -> None:
    text = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    assert [name for name in SCRIPTS if f"`python benchmarks/{name}.py" not in text] == []
    assert [name for name in SHARED - {"__init__"} if f"`{name}.py`" not in text] == []


#: Stands for a process of benchmarks/busy_cores.py, with what it does after its signal.
PROCESS = "import time; print('ready', flush=True); input(); "


def test_busy_cores_adds_the_cpu_time_of_its_processes() -> None:
    command = [sys.executable, "-c", PROCESS + "print(1.5)"]
    measured = busy_cores.measure(command, 2, {}, limit=600)
    assert measured is not None
    assert measured[1] == 3.0
    assert busy_cores.row("asleep", [(2.0, 3.0), (4.0, 5.0)], 30) == "| asleep | 3.0 s | 4.0 s |"


def test_busy_cores_lets_its_processes_choose_their_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One thread, which some machines set for all processes, would never wait for another."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "1")
    code = PROCESS + "import os; print(sum('NUM_THREADS' in k or 'WAIT' in k for k in os.environ))"
    measured = busy_cores.measure([sys.executable, "-c", code], 1, {}, limit=600)
    assert measured is not None and measured[1] == 0


def test_busy_cores_ends_processes_that_exceed_the_limit() -> None:
    command = [sys.executable, "-c", PROCESS + "time.sleep(3600)"]
    assert busy_cores.measure(command, 2, {}, limit=0.1) is None
    assert busy_cores.row("spinning", [(2.0, 3.0), None], 30) == "| spinning | over 30 s | |"


def test_busy_cores_fails_if_a_process_fails() -> None:
    for code in ("raise SystemExit(1)", PROCESS + "raise SystemExit(1)"):
        with pytest.raises(SystemExit, match="a process failed"):
            busy_cores.measure([sys.executable, "-c", code], 2, {}, limit=600)
