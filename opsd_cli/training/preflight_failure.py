"""What is said of a failed preflight: what became of the completions, the likely cause, one sample.

The samples are read from the preflight's file, so a resumed run says the same as the first one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from opsd_cli.config.schema import Config
from opsd_cli.errors import OpsdError
from opsd_cli.evaluation.evaluate import evaluation_sampling
from opsd_cli.evaluation.samples import Evaluation
from opsd_cli.files.atomic_write import write_atomic
from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.printable import shortened
from opsd_cli.problems import Problem
from opsd_cli.training.layout import PREFLIGHT_SAMPLES

Cause = Literal["truncated", "no_answer", "solved", "equal"]

#: From this share of the teacher's completions on, their fault is named as the likely cause.
MOSTLY = 0.5
#: From this accuracy of the student on, there is little left for a reference to add.
SOLVED = 0.9
#: Sampling temperature up to which a lower one is not suggested.
COOL = 0.3
#: What to try, by cause; `{option}` is the config key that limits a completion's length.
HINTS: dict[Cause, str] = {
    "truncated": "raise {option} (now {limit})",
    "no_answer": "ask for a form of answer that can be read, such as \\boxed{{}}, in "
    "prompts.student.template and prompts.teacher.template",
    "solved": "train on harder problems: the student solves nearly all without the reference",
    "equal": "give the teacher a clearer prompts.teacher.template{cooler}, or take a larger model",
}
#: How to look at what the preflight measured; the flags are those of `opsd train`.
LOOK = (
    "opsd sample --privileged shows the teacher's completions, opsd sample --show-prompts both "
    "prompts (with the same --config, --model and --set)"
)
REGARDLESS = "To train regardless: --set preflight.enabled=false"
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


def cause_of(record: Mapping[str, Any]) -> Cause:
    """The likely cause of a failure, from the record of the preflight.

    A truncated completion mostly has no answer either, so truncation comes first.
    """
    for cause in ("truncated", "no_answer"):
        if record[cause]["teacher"] >= MOSTLY:
            return cause
    return "solved" if record["student"]["value"] >= SOLVED else "equal"


def hint_of(cause: Cause, config: Config) -> str:
    """What to try, how to look at the completions and prompts, and how to train regardless."""
    measured = evaluation_sampling(config)
    warm = measured.temperature > COOL
    cooler = f", lower evaluation.temperature (now {measured.temperature:g})" if warm else ""
    own = config.evaluation.max_new_tokens
    tried = HINTS[cause].format(
        option="evaluation.max_new_tokens" if own else "sampling.max_new_tokens",
        limit=measured.max_new_tokens,
        cooler=cooler,
    )
    return f"{tried}. To look: {LOOK}. {REGARDLESS}"


def telling_sample(rows: Sequence[dict[str, Any]], cause: Cause) -> dict[str, Any] | None:
    """The teacher's first sample that shows the cause; its first one if none does."""
    shows = {
        "truncated": lambda row: row["finish_reason"] == "length",
        "no_answer": lambda row: row["status"] == "no_answer",
        "solved": lambda row: row["status"] != "correct",
        "equal": lambda row: row["status"] != "correct",
    }[cause]
    mine = [row for row in rows if row["role"] == "teacher"]
    return next(filter(shows, mine), mine[0] if mine else None)


def described_sample(row: Mapping[str, Any], limit: int) -> str:
    """A sample for people: what became of it, its question and its completion, shortened."""
    status = {
        "correct": "right",
        "wrong": f"answered {row['answer']}",
        "no_answer": "no answer found in it",
    }.get(row["status"], row["status"])
    cut = f", cut off at {limit} tokens" if row["finish_reason"] == "length" else ""
    question, completion = (
        shortened(" ".join(str(row[key]).split()), most)
        for key, most in (("question", LONGEST_QUESTION), ("completion", LONGEST_COMPLETION))
    )
    return (
        f"one of the teacher's completions ({status}{cut}; the right answer is {row['gold']})\n"
        f"  question:   {question}\n  completion: {completion}"
    )


def failure_line(record: Mapping[str, Any], problems: int, limit: int, kept: Path | None) -> str:
    """The error's line: both accuracies, then what became of both roles' completions.

    Args:
        limit: greatest length of a completion, in tokens.
        kept: the directory that the samples are in, if they are kept.
    """
    teacher, student = (record[role]["value"] for role in ("teacher", "student"))
    cut, none = record["truncated"], record["no_answer"]
    where = f"; every completion is in {kept / PREFLIGHT_SAMPLES}" if kept is not None else ""
    scores = record.get("mean_score")
    means = (
        f" (mean score {scores['teacher']['value']:.3f} with it, "
        f"{scores['student']['value']:.3f} without)"
        if scores
        else ""
    )
    return (
        f"the reference does not help: {teacher:.0%} right with it, {student:.0%} without{means}, "
        f"on {problems} problems; nothing to distil. Of the completions with the reference "
        f"{cut['teacher']:.0%} were cut off at {limit} tokens and {none['teacher']:.0%} held no "
        f"answer; without it {cut['student']:.0%} were cut off and {none['student']:.0%} held no "
        f"answer{where}"
    )
