"""What is said of a preflight's completions: what became of them, one sample, and how to look.

The samples are read from the preflight's file, so a resumed run says the same as the first one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from opsd_cli.errors import OpsdError
from opsd_cli.evaluation.samples import Evaluation
from opsd_cli.files.atomic_write import write_atomic
from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.formatting import numbered
from opsd_cli.grading.interface import FAILED
from opsd_cli.printable import shortened
from opsd_cli.problems import Problem
from opsd_cli.training.layout import PREFLIGHT_SAMPLES
from opsd_cli.training.preflight_advice import is_few
from opsd_cli.training.preflight_grader import described as described_failures
from opsd_cli.training.preflight_signal import described as described_signal
from opsd_cli.training.preflight_verdict import NOTHING, TOO_FEW, UNMEASURED, Outcome, Verdict

#: How to look at what the preflight measured; the flags are those of `opsd train`.
LOOK = (
    "opsd sample --privileged shows the teacher's completions, opsd sample --show-prompts both "
    "prompts (with the same --config, --model and --set)"
)
CHECK = "opsd train --preflight-only measures again before any training"
REGARDLESS = (
    "To train regardless: --set preflight.enabled=false; the student then learns from a teacher "
    "that was not measured to be better, and may get worse"
)
#: Characters of the question and of the completion that are shown.
LONGEST_QUESTION, LONGEST_COMPLETION = 300, 600


def write_samples(path: Path, problems: Sequence[Problem], found: Mapping[str, Evaluation]) -> None:
    """Write every sample as a row, with its role, its question and the right answer.

    Args:
        found: role ("student", "teacher") -> its samples.

    Raises:
        NotWritten: the operating system refused.
    """
    by_id = {problem.id: problem for problem in problems}
    rows = (
        {
            "role": role,
            "question": by_id[sample.problem_id].question,
            "gold": by_id[sample.problem_id].answer,
            **sample.as_dict(),
        }
        for role, evaluation in found.items()
        for sample in evaluation.samples
    )
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_samples(path: Path) -> list[dict[str, Any]]:
    """The rows that `write_samples` wrote; empty if the file is missing or damaged."""
    try:
        rows = list(read_rows(path))
        # Each key is looked up, so that a row of another form counts as damage.
        keys = ("role", "question", "gold", "completion", "finish_reason", "status", "answer")
        return [row for row in rows if [row[key] for key in keys]]
    except (OSError, OpsdError, KeyError, TypeError):
        return []


def hint_of(verdict: Verdict) -> str:
    """What the numbers mean, what to try, how to look closer, and how to train regardless."""
    if verdict.cause == "grader_failed":
        return f"{verdict.advice}. {CHECK}"
    return f"{verdict.meaning}; {verdict.advice}. {CHECK}. To look: {LOOK}. {REGARDLESS}"


#: Cause of a failure -> which of the teacher's samples shows it; others: one that is not right.
_SHOWS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "truncated": lambda row: row["status"] == "no_answer" and row["finish_reason"] == "length",
    "endless": lambda row: row["status"] == "no_answer" and row["finish_reason"] == "length",
    "no_answer": lambda row: row["status"] == "no_answer" and row["finish_reason"] != "length",
    "grader_failed": lambda row: row["status"] in FAILED,
    "ungraded": lambda row: row["status"] not in ("correct", "wrong", "no_answer"),
}


def telling_sample(
    rows: Sequence[dict[str, Any]], cause: str, role: str = "teacher"
) -> dict[str, Any] | None:
    """The role's first sample that shows the cause; its first one if none does."""
    shows = _SHOWS.get(cause, lambda row: row["status"] != "correct")
    mine = [row for row in rows if row["role"] == role]
    return next(filter(shows, mine), mine[0] if mine else None)


def telling_pair(
    rows: Sequence[dict[str, Any]], verdict: Verdict
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """A completion of the student and one of the teacher, on the same problem.

    Where training goes on, the student's first that is not right and the teacher's is; else the
    teacher's that shows the cause.
    """
    by_role: dict[str, dict[tuple[str, int], dict[str, Any]]] = {"student": {}, "teacher": {}}
    for row in rows:
        if row["role"] not in by_role:  # the rollouts that references were looked for among
            continue
        by_role[row["role"]][row["problem_id"], row["sample_index"]] = row
    student, teacher = by_role["student"], by_role["teacher"]
    if verdict.goes_on:
        gained = (
            (student[key], row)
            for key, row in teacher.items()
            if key in student and row["correct"] > student[key]["correct"]
        )
        return next(gained, None)
    shown = telling_sample(rows, verdict.cause)
    key = None if shown is None else (shown["problem_id"], shown["sample_index"])
    if shown is None or key not in student:
        return None
    return student[key], shown


def described_pair(student: Mapping[str, Any], teacher: Mapping[str, Any], limit: int) -> str:
    """Both roles' completions of one problem for people, shortened."""
    lines = [
        f"question: {_one_line(student['question'], LONGEST_QUESTION)}",
        *([] if student["gold"] is None else [f"right answer: {student['gold']}"]),
        *(
            f"{row['role']} ({_became(row, limit)}): "
            f"{_one_line(row['completion'], LONGEST_COMPLETION)}"
            for row in (student, teacher)
        ),
    ]
    return "\n".join(lines)


def described_sample(row: Mapping[str, Any], limit: int) -> str:
    """A sample for people: what became of it, its question and its completion, shortened."""
    gold = "" if row["gold"] is None else f"; the right answer is {row['gold']}"
    return (
        f"one of the {row['role']}'s completions ({_became(row, limit)}{gold})\n"
        f"  question:   {_one_line(row['question'], LONGEST_QUESTION)}\n"
        f"  completion: {_one_line(row['completion'], LONGEST_COMPLETION)}"
    )


def _became(row: Mapping[str, Any], limit: int) -> str:
    """What became of a sample, in words."""
    status: str = {
        "correct": "right",
        "wrong": f"answered {row['answer']}" if row["answer"] else f"not right{_score(row)}",
        "no_answer": "no answer found in it",
    }.get(row["status"], row["status"])
    if row.get("reason"):
        status += f": {row['reason']}"
    if row.get("other_answer"):
        status += f", and says {row['other_answer']} too"
    return status + (f", cut off at {limit} tokens" if row["finish_reason"] == "length" else "")


def _score(row: Mapping[str, Any]) -> str:
    """The number that the grader gave a completion, in words; empty where it gives none."""
    return "" if row.get("score") is None else f": score {row['score']:.2f}"


def _one_line(text: str, most: int) -> str:
    return shortened(" ".join(str(text).split()), most)


def failure_line(
    record: Mapping[str, Any], problems: int, limit: int, kept: Path | None, cause: str = ""
) -> str:
    """The error's line: both accuracies, then what became of both roles' completions.

    Args:
        limit: greatest length of a completion, in tokens.
        kept: the directory that the samples are in, if they are kept.
        cause: of the verdict.
    """
    where = f"; every completion is in {kept / PREFLIGHT_SAMPLES}" if kept is not None else ""
    if cause == "grader_failed":
        return f"{UNMEASURED}: {described_failures(record)}{where}"
    teacher, student = (Outcome.in_record(record, role) for role in ("teacher", "student"))
    few = is_few(problems)
    scores = record.get("mean_score")
    means = (
        f" (mean score {scores['teacher']['value']:.3f} with it, "
        f"{scores['student']['value']:.3f} without)"
        if scores
        else ""
    )
    signal = described_signal(record.get("signal"))
    return (
        f"the reference {'was not seen to' if few else 'does not'} help: {teacher.right:.0%} right "
        f"with it, {student.right:.0%} without{means}, on "
        f"{numbered(problems, 'problem')}; {TOO_FEW if few else NOTHING}. Of the completions "
        f"with the reference {_shares(record, 'teacher', limit)}; without it "
        f"{_shares(record, 'student', limit)}{signal and f'. Of the teacher: {signal}'}{where}"
    )


def _shares(record: Mapping[str, Any], role: str, limit: int) -> str:
    """What became of a role's completions that are not right: shares that do not overlap."""
    outcome = Outcome.in_record(record, role)
    wrong = "were not right" if "mean_score" in record else "gave a wrong answer"
    ungraded = f"{outcome.ungraded:.0%} could not be graded, " if outcome.ungraded else ""
    return (
        f"{outcome.wrong:.0%} {wrong}, {ungraded}{outcome.unfinished:.0%} were cut off at {limit} "
        f"tokens before an answer and {outcome.silent:.0%} ended without one"
    )
