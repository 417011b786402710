"""A program of the user's as the grader. Only workers run this.

The program gets one JSON object a line on standard input, {"problem": {"id", "question", "answer",
"solution", "fields"}, "completion"}, and writes one line for each to standard output: a truth
value, a number, or an object with `score`, `feedback` and `answer`. It may answer any number of
lines before it ends; one that ends after its answer is started again for the next completion.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from typing import IO, Any

from opsd_cli.grading.interface import GradedProblem
from opsd_cli.grading.judgements import NotAGrade, Refused, reply_of


class Program:
    """The running program; it ends with the worker, whose process group it is in."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self.answered = 0

    def ask(self, line: bytes) -> bytes:
        """The line that it answers; empty if it ended without one."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._process and self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
            reply = self._process.stdout.readline()
        except OSError:
            reply = b""
        if reply.strip():
            self.answered += 1
        else:
            self._end()
        return reply.strip()

    def ended(self) -> str:
        """How the program ended, with the last line of its standard error."""
        assert self._process and self._errors
        self._errors.seek(0)
        lines = self._errors.read()[-2000:].decode(errors="replace").strip().splitlines()
        last = f": {lines[-1][:200]}" if lines else ""
        return f"{self._command[0]} ended with code {self._process.returncode}{last}"

    def _start(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - read after the program's end
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
        )
        self.answered = 0

    def _end(self) -> None:
        assert self._process
        self._process.kill()
        self._process.wait()


def judge_of(settings: dict[str, Any]) -> Callable[[GradedProblem, str, float], dict[str, Any]]:
    """The judge that asks the program `settings["command"]`.

    Raises:
        Refused: there is no such program.
    """
    command = settings["command"]
    if shutil.which(command[0]) is None:
        raise Refused(
            f"grading.command: there is no program {command[0]!r} to run",
            "give its path, and make it executable",
        )
    program = Program(command)

    def judge(problem: GradedProblem, completion: str, seconds: float) -> dict[str, Any]:
        asked = {"problem": asdict(problem), "completion": completion}
        line = json.dumps(asked).encode() + b"\n"
        before = program.answered
        reply = program.ask(line)
        if not reply and before:  # it ended after an earlier answer
            reply = program.ask(line)
        if not reply:
            return {"status": "crashed", "reason": program.ended()}
        try:
            return reply_of(json.loads(reply), settings["pass_at"])
        except ValueError:
            shown = reply[:60].decode(errors="replace")
            reason = f"{shlex.join(command)[:60]} answered {shown!r}, which is not JSON"
            return {"status": "crashed", "reason": reason}
        except NotAGrade as fault:
            return {"status": "crashed", "reason": f"{shlex.join(command)[:60]} {fault}"}

    return judge
