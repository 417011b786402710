"""A program of the user's as the grader: the lines it reads and writes, and how it fails."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from opsd_cli.config.grading_section import Grading
from opsd_cli.config.resolve import resolve, validate
from opsd_cli.errors import ConfigError
from opsd_cli.grading import Grade, GradedProblem, Item, check_grader, open_grader

PROBLEM = GradedProblem("7", "Say A.", "A", fields={"rule": "be short"})
LOOP = """
import json, os, sys
for line in sys.stdin:
    asked = json.loads(line)
    problem, completion = asked["problem"], asked["completion"]
    if completion == "who":
        print(json.dumps({"score": 1, "answer": str(os.getpid())}), flush=True)
    elif completion == "exit":
        sys.exit("no more")
    elif completion == "noise":
        print("noise", flush=True)
    elif completion == "nan":
        print("NaN", flush=True)
    elif completion == "hang":
        import time
        time.sleep(1000)
    else:
        feedback = problem["fields"]["rule"]
        score = 1 if completion == problem["answer"] else 0.5
        print(json.dumps({"score": score, "feedback": feedback}), flush=True)
"""
ONCE = """
import json, sys
print("true" if json.loads(sys.stdin.readline())["completion"] == "A" else "false")
"""


def run(tmp_path: Path, script: str, *completions: str, seconds: float = 3600.0) -> list[Grade]:
    path = tmp_path / "judge.py"
    path.write_text(script)
    settings = Grading(
        grader="command", command=(sys.executable, str(path)), deadline_seconds=seconds
    )
    with open_grader(settings, WARNINGS.append) as grader:
        return grader.grade([Item(PROBLEM, completion) for completion in completions])


WARNINGS: list[str] = []


@pytest.fixture(autouse=True)
def no_warnings() -> None:
    WARNINGS.clear()


def test_a_program_answers_line_by_line_and_stays(tmp_path: Path) -> None:
    right, half, *who = run(tmp_path, LOOP, "A", "B", "who", "who")
    assert right == Grade("correct", None, 1.0, "be short")
    assert half == Grade("wrong", None, 0.5, "be short")
    assert who[0].answer == who[1].answer and not WARNINGS


def test_a_program_that_answers_once_is_started_again(tmp_path: Path) -> None:
    assert [g.correct for g in run(tmp_path, ONCE, "A", "B", "A")] == [True, False, True]
    assert not WARNINGS


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("exit", "ended with code 1: no more"),
        ("noise", "answered 'noise', which is not JSON"),
        ("nan", "gave nan, which is neither true or false nor a number in 0..1"),
    ],
)
def test_a_failing_program_is_a_crash_and_one_warning(
    tmp_path: Path, completion: str, reason: str
) -> None:
    grades = run(tmp_path, LOOP, "A", completion, completion, "A")
    assert [grade.status for grade in grades] == ["correct", "crashed", "crashed", "correct"]
    assert reason in WARNINGS[0] and "2 of 4 completions" in WARNINGS[1] and len(WARNINGS) == 2


def test_a_program_that_hangs_is_a_timeout(tmp_path: Path) -> None:
    assert [grade.status for grade in run(tmp_path, LOOP, "hang", seconds=1)] == ["timeout"]
    assert "grading.deadline_seconds=1" in WARNINGS[0]


def test_a_command_line_is_split_as_a_shell_does() -> None:
    line = "docker run --rm -i 'my judge'"
    config = resolve(assignments=["grading.grader=command", f"grading.command={line}"])
    assert list(config.grading.command) == shlex.split(line)


def test_a_missing_program_is_refused() -> None:
    with pytest.raises(ConfigError, match="there is no program 'no-such-program'"):
        check_grader(Grading(grader="command", command=("no-such-program",)))
    with pytest.raises(ConfigError, match=r"needs grading\.command"):
        resolve(assignments=["grading.grader=command"])
    with pytest.raises(ConfigError, match="no command line"):
        validate({"grading": {"grader": "command", "command": "'open"}})
