"""Graders that run a user's code, seen from the command's process: all of it runs in workers.

A worker that is out of memory, ends or hangs costs the completion it had, and is replaced. What a
judge did wrong is told once, when it first happens, and counted at the end: a fault in a reward
function would otherwise be told once for every completion.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from opsd_cli.grading.interface import Grade, Grader, GraderTraits, Item, Warn
from opsd_cli.grading.mathematics import MAX_WORKERS
from opsd_cli.grading.pool import Pool
from opsd_cli.machine import available_cores

if TYPE_CHECKING:
    from opsd_cli.config.grading_section import Grading

WORKER = (sys.executable, "-P", "-m", "opsd_cli.grading.judge_worker")
HINT = "what the worker needs is in the message; grading.memory_gb bounds its memory"
GRADE_KEYS = ("status", "answer", "score", "feedback")
#: What is said of a judge's failure without a reason of its own.
ENDED = "its process ended; it may have been killed, or out of memory"


class JudgeGrader(Grader):
    """Implements `Grader` with `opsd_cli.grading.judge_worker`.

    Args:
        name: of the grader, for messages.
        described: the settings of the worker.
        deadline_seconds: wall-clock time, in seconds, for one completion.
        warn: told of the first completion on which the judge failed, and at the end of the number.
        grace: seconds after the deadline at which the worker is killed, for judges that keep the
            deadline themselves.
    """

    traits = GraderTraits(needs_answer=False, feedback=True)

    def __init__(
        self,
        name: str,
        described: dict[str, Any],
        deadline_seconds: float,
        warn: Warn,
        grace: float = 0.0,
    ) -> None:
        self._name, self._deadline, self._grace = name, deadline_seconds, grace
        self._warn = warn
        self._graded = 0
        self._failed: Counter[str] = Counter()
        workers = min(MAX_WORKERS, available_cores())
        self._pool = Pool(workers, (*WORKER, json.dumps(described)), HINT)

    def __exit__(self, *exception: object) -> None:
        self._pool.close()
        failed = sum(self._failed.values())
        if failed > len(self._failed):  # each kind was told once
            kinds = ", ".join(f"{status} {count:,}" for status, count in self._failed.items())
            self._warn(
                f"the grader {self._name} failed on {failed:,} of {self._graded:,} completions, "
                f"which count as wrong: {kinds}"
            )

    def check(self) -> None:
        self._pool.start()

    def grade(self, items: Sequence[Item]) -> list[Grade]:
        requests = [
            {
                "problem": {
                    "id": item.problem.id,
                    "question": item.problem.question,
                    "answer": item.problem.answer,
                    "solution": item.problem.solution,
                    "fields": dict(item.problem.fields),
                },
                "completion": item.completion,
                "limit": self._deadline,
            }
            for item in items
        ]
        replies = self._pool.replies(requests, self._deadline + self._grace) if requests else []
        return [self._grade_of(reply, item) for reply, item in zip(replies, items, strict=True)]

    def _grade_of(self, reply: dict[str, Any], item: Item) -> Grade:
        grade = Grade(**{key: reply[key] for key in GRADE_KEYS if key in reply})
        self._graded += 1
        if grade.ungraded:
            reason = reply.get("reason", ENDED)
            if grade.status == "timeout":
                reason = f"it took longer than grading.deadline_seconds={self._deadline:g}"
            grade = replace(grade, reason=reason)
            if not self._failed[grade.status]:
                self._warn(
                    f"the grader {self._name} failed on a completion of problem "
                    f"{item.problem.id!r}, which counts as wrong ({grade.status}): {reason}; "
                    "further ones are counted"
                )
            self._failed[grade.status] += 1
        return grade


def worker_settings(settings: Grading, kind: str) -> dict[str, Any]:
    """The settings that every judge's worker has."""
    memory = int(settings.memory_gb * 2**30)
    return {"kind": kind, "memory": memory, "pass_at": settings.pass_at}


class FunctionGrader(JudgeGrader):
    """A function of the user's, see `opsd_cli.grading.user_functions`."""

    settings: ClassVar[tuple[str, ...]] = ("pass_at",)

    @classmethod
    def from_settings(cls, settings: Grading, name: str, warn: Warn) -> FunctionGrader:
        described = worker_settings(settings, "function") | {"target": name}
        return cls(name, described, settings.deadline_seconds, warn)

    @classmethod
    def traits_of(cls, settings: Grading) -> GraderTraits:
        return cls.traits


class CodeGrader(JudgeGrader):
    """The unit tests of a set, see `opsd_cli.grading.unit_tests`."""

    settings: ClassVar[tuple[str, ...]] = ("tests", "pass_at")
    #: In seconds: the worker keeps the deadline, so that it can remove what the program left.
    grace: ClassVar[float] = 10.0

    @classmethod
    def from_settings(cls, settings: Grading, name: str, warn: Warn) -> CodeGrader:
        # The limit of memory is the program's; the worker itself runs nothing.
        described = worker_settings(settings, "code") | {"column": settings.tests}
        made = cls(name, described, settings.deadline_seconds, warn, cls.grace)
        made.traits = cls.traits_of(settings)
        return made

    @classmethod
    def traits_of(cls, settings: Grading) -> GraderTraits:
        return GraderTraits(needs_answer=False, columns=(settings.tests,), feedback=True)


class CommandGrader(JudgeGrader):
    """A command of the user's, see `opsd_cli.grading.user_commands`."""

    settings: ClassVar[tuple[str, ...]] = ("command", "pass_at")

    @classmethod
    def from_settings(cls, settings: Grading, name: str, warn: Warn) -> CommandGrader:
        described = worker_settings(settings, "command") | {"command": settings.command}
        return cls(name, described, settings.deadline_seconds, warn)

    @classmethod
    def traits_of(cls, settings: Grading) -> GraderTraits:
        return cls.traits
