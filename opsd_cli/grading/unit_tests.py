"""Unit tests of a program that a completion writes. Only workers run this.

The program is the last fenced block of the completion, else all of it after the thinking. The
tests, a column of the set, are run after it in a process of its own: a list of statements, each of
which is one test, or a text. A text whose lines are all asserts is one test a line; another is one
test. The feedback is the first test that fails, with its exception.

The process runs in an empty folder that is removed, under limits of CPU time, memory and file size,
with an environment of few variables, and without a network where Linux lets a process leave it.
These limits are against accidents. They are no sandbox: a program may read what this user may read.
A program that is not trusted belongs into a container, which `grading.command` can start.
"""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import site
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from opsd_cli.grading.extract import after_thinking
from opsd_cli.grading.interface import GradedProblem
from opsd_cli.processes.child_processes import tied

RUNNER = (sys.executable, "-P", "-m", "opsd_cli.grading.unit_test_runner")
#: Environment variables that a program has.
PASSED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "SYSTEMROOT")
_FENCE = re.compile(r"```[ \t]*[A-Za-z0-9+]*[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


def judge_of(settings: dict[str, Any]) -> Callable[[GradedProblem, str, float], dict[str, Any]]:
    """The judge that runs the tests in the column `settings["column"]`."""
    column, memory, pass_at = settings["column"], settings["memory"], settings["pass_at"]

    def judge(problem: GradedProblem, completion: str, seconds: float) -> dict[str, Any]:
        tests = statements_of(problem.fields.get(column))
        if not tests:
            return {"status": "unparsable_gold"}
        program = program_of(completion)
        if program is None:
            return {"status": "no_answer", "feedback": "there is no program in the completion"}
        return run_tests(program, tests, seconds, memory, pass_at)

    return judge


def program_of(completion: str) -> str | None:
    """The program that a completion writes; None if it is empty."""
    text = after_thinking(completion)
    blocks = _FENCE.findall(text)
    return (blocks[-1] if blocks else text).strip() or None


def statements_of(value: Any) -> list[str]:
    """The tests of a cell: a list of statements, or a text, which may be a list in JSON."""
    if isinstance(value, str):
        with suppress(ValueError):
            listed = json.loads(value)
            value = listed if isinstance(listed, list) else value
    if isinstance(value, list):
        return [text for text in value if isinstance(text, str) and text.strip()]
    if not isinstance(value, str) or not value.strip():
        return []
    try:
        statements = ast.parse(value).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return [value]
    if all(isinstance(statement, ast.Assert) for statement in statements):
        return [ast.get_source_segment(value, each) or value for each in statements]
    return [value]


def run_tests(
    program: str, tests: list[str], seconds: float, memory: int, pass_at: float
) -> dict[str, Any]:
    """Run tests after a program; the reply has the share of tests that pass as its score."""
    request = json.dumps({"program": program, "tests": tests, "cpu": seconds, "memory": memory})
    environment = {name: os.environ[name] for name in PASSED if name in os.environ}
    # Packages that are installed for one user are found by HOME, which the program does not have.
    environment |= {"PYTHONUSERBASE": site.getuserbase() or "", "PYTHONHASHSEED": "0"}
    with (
        tempfile.TemporaryDirectory(prefix="opsd-", ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as out,
    ):
        process = subprocess.Popen(
            RUNNER,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            start_new_session=True,
            **tied(environment | {"HOME": folder, "TMPDIR": folder}),
        )
        try:
            process.communicate(request.encode(), timeout=seconds)
            ended = "the program ended its process"
        except subprocess.TimeoutExpired:
            ended = f"the program took over {seconds:g} seconds (grading.deadline_seconds)"
        finally:
            with suppress(OSError):  # what it has started, too
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.wait()
        out.seek(0)
        return reply_to(out.read(), len(tests), pass_at, ended)


def reply_to(written: bytes, tests: int, pass_at: float, ended: str) -> dict[str, Any]:
    """The reply to what the runner wrote: a line when it began, and one for each test.

    A test that the program did not come to counts as failed.

    Args:
        ended: why there are fewer lines than tests.
    """
    rows = []
    for line in written.splitlines():
        with suppress(ValueError):
            rows.append(json.loads(line))
    passed = sum(row.get("passed") is True for row in rows)
    failed = next((row["failure"] for row in rows if row.get("failure")), None)
    if failed is None and passed < tests:
        failed = ended if rows else f"the program was not started: {ended}"
    score = passed / tests
    reply: dict[str, Any] = {"status": "correct" if score >= pass_at else "wrong", "score": score}
    return reply | ({"feedback": str(failed)[:2000]} if failed else {})
