"""The worker process over its pipes: its output, crashes, limits and end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from opsd_cli.grading import worker

ROOT = Path(worker.__file__).parents[2]

#: A stand-in for the comparison, so that no test here waits for sympy.
STUB = """
import sys, types
stub = types.ModuleType("opsd_cli.grading.compare")
def compare(gold, answer):
    print("noise")
    if answer == "boom":
        raise RecursionError("too deep")
    if answer == "memory":
        raise MemoryError
    if answer == "huge":
        bytearray(3 * 1024**3)
    if answer == "forever":
        import time
        time.sleep(1000)
    if answer == "input":
        return repr(sys.stdin.read())
    return "correct" if gold == answer else "wrong"
stub.compare = compare
sys.modules["opsd_cli.grading.compare"] = stub
from opsd_cli.grading import worker
worker.ORPHAN_SECONDS = 0.5
WARM_UP
worker.main()
"""


def converse(*answers: str, seconds: float = 60.0) -> tuple[list[str], int]:
    """The statuses after "ready" for gold "1", and the process's exit code."""
    requests = [{"gold": "1", "answer": answer, "seconds": seconds} for answer in answers]
    done = subprocess.run(
        [sys.executable, "-c", STUB.replace("WARM_UP", "worker.WARM_UP = ()")],
        input="".join(json.dumps(request) + "\n" for request in requests),
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    first, *rest = [json.loads(line)["status"] for line in done.stdout.splitlines()]
    assert first == "ready", done.stderr
    return rest, done.returncode


def test_standard_output_has_only_statuses_and_the_end_of_input_ends_the_worker() -> None:
    assert converse("1", "2") == (["correct", "wrong"], 0)


def test_the_comparison_cannot_read_the_requests() -> None:
    assert converse("input", "1") == (["''", "correct"], 0)


def test_an_exception_is_a_crash_of_that_pair_only() -> None:
    assert converse("boom", "1") == (["crashed", "correct"], 0)


def test_a_worker_out_of_memory_ends() -> None:
    assert converse("memory", "1") == ([], 1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces the limit")
def test_the_memory_limit() -> None:
    assert converse("1", "huge", "1") == (["correct"], 1)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no alarms")
def test_the_kernel_ends_a_worker_whose_supervisor_is_gone() -> None:
    import signal

    assert converse("forever", seconds=0.4) == ([], -signal.SIGALRM)


def test_a_worker_that_grades_the_warm_up_pairs_wrong_does_not_start() -> None:
    script = STUB.replace("WARM_UP", "worker.WARM_UP = (('1', '2', 'correct'),)")
    done = subprocess.run(
        [sys.executable, "-c", script], input="", capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout == ""
    assert "'2' for '1' is graded wrong, not correct" in done.stderr
