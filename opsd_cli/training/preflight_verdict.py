"""What the numbers of a preflight mean: one decision, from what became of both roles' completions.

`decide` chooses a cause. Each has a sentence about the numbers and one about what to change
(`opsd_cli.training.preflight_advice`). Training goes on if the teacher's accuracy is higher than
the student's; where the grader gives numbers, the mean scores take their place. If it is not, and
the reason is what the teacher answers (`ASK_SIGNAL`), training goes on too where the teacher tells
right attempts of the student from wrong ones (`opsd_cli.training.preflight_signal`). Where the
grader failed on most completions, nothing was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from opsd_cli.config.schema import Config
from opsd_cli.evaluation.evaluate import evaluation_sampling
from opsd_cli.evaluation.samples import Evaluation, Sample
from opsd_cli.formatting import numbered, points, score_change
from opsd_cli.grading.extract import marks_answer
from opsd_cli.statistics import Estimate
from opsd_cli.training import preflight_signal
from opsd_cli.training.preflight_advice import (
    ASK_SIGNAL,
    MEANINGS,
    Cause,
    UngradedCause,
    advice_of,
    is_few,
    length_option,
    untried,
)
from opsd_cli.training.preflight_grader import FAILED, described, mostly_failed
from opsd_cli.training.repetition import ends_in_repetition

#: From this accuracy of the student on, there is little left for a reference to add.
SOLVED = 0.9
#: Up to this accuracy of the student, it solves next to nothing alone.
NEXT_TO_NOTHING = 0.05
#: Below this accuracy of the teacher, most of what it teaches is wrong.
RARELY_RIGHT = 0.2
#: A completion may well be this many times as long as the reference solutions, and this long at
#: least, in tokens. Where a limit leaves that room, a higher one is not suggested.
ROOM_FACTOR, ROOM_TOKENS = 4, 512


@dataclass(frozen=True)
class Outcome:
    """What became of one role's completions: shares that add up to 1.

    Attributes:
        right: the accuracy.
        wrong: answered in full, and the answer is wrong.
        cut_off: no answer that is marked as one before the limit of tokens, without `repeating`.
        repeating: the same, and the text ends in a repetition of itself.
        silent: finished, and no answer could be read.
        ungraded: the grader could not compare the answer.
    """

    right: float
    wrong: float = 0.0
    cut_off: float = 0.0
    repeating: float = 0.0
    silent: float = 0.0
    ungraded: float = 0.0

    @classmethod
    def of(cls, evaluation: Evaluation) -> Outcome:
        """The outcome of samples that were graded."""
        kinds = [_kind(sample) for sample in evaluation.samples]
        shares = {kind: kinds.count(kind) / len(kinds) for kind in dict.fromkeys(kinds)}
        return cls(**{"right": 0.0, **shares})

    @classmethod
    def in_record(cls, record: Mapping[str, Any], role: str) -> Outcome:
        """The outcome of a role; in a record of an earlier version, as far as it is known."""
        if "outcomes" in record:
            return cls(**record["outcomes"][role])
        right, none = record[role]["value"], record["no_answer"][role]
        cut_off = min(none, record["truncated"][role])
        return cls(right, max(0.0, 1 - right - none), cut_off, 0.0, none - cut_off)

    @property
    def unfinished(self) -> float:
        """Share that reached the limit without an answer."""
        return self.cut_off + self.repeating

    @property
    def unanswered(self) -> float:
        """Share without an answer, for any reason."""
        return self.unfinished + self.silent

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def _kind(sample: Sample) -> str:
    """The field of `Outcome` that a sample counts in."""
    if sample.correct:
        return "right"
    if sample.status not in ("wrong", "no_answer"):
        return "ungraded"
    # Of a text that was cut off, the first words alone can be taken for an answer.
    if sample.finish_reason == "length" and not marks_answer(sample.completion):
        return "repeating" if ends_in_repetition(sample.completion) else "cut_off"
    return "wrong" if sample.status == "wrong" else "silent"


def goes_on(student: Outcome, teacher: Outcome) -> bool:
    """Whether a run trains after its preflight."""
    return teacher.right > student.right


def decide(
    student: Outcome,
    teacher: Outcome,
    gain: Estimate | None,
    limit: int,
    reference_tokens: int | None,
) -> Cause:
    """What the numbers mean.

    Args:
        gain: the teacher's accuracy minus the student's, paired by problem, with its interval;
            None in a record of an earlier version.
        limit: greatest length of a completion, in tokens.
        reference_tokens: 95% of the reference solutions are not longer; None if unknown.
    """
    if goes_on(student, teacher):
        return _why_better(student, teacher, gain)
    if student.right >= SOLVED:
        return "solved"
    failures: dict[Cause, float] = {
        "truncated": teacher.unfinished,
        "no_answer": teacher.silent,
        "too_hard": teacher.wrong,
        "ungraded": teacher.ungraded,
    }
    cause = max(failures, key=failures.__getitem__)
    if cause == "truncated":
        repeats = teacher.repeating >= teacher.cut_off
        return "endless" if repeats or limit >= room_for(reference_tokens) else "truncated"
    if cause == "too_hard":
        if gain is not None and gain.high < 0:
            return "misleading"
        return "equal" if teacher.right >= teacher.wrong else "too_hard"
    return cause


def _why_better(student: Outcome, teacher: Outcome, gain: Estimate | None) -> Cause:
    if gain is not None and gain.low <= 0:
        return "gain_uncertain"
    if teacher.right < RARELY_RIGHT:
        return "gain_is_rare"
    if student.unanswered > student.right + student.wrong:
        return "gain_of_form"
    return "gain_from_zero" if student.right <= NEXT_TO_NOTHING else "gain"


def room_for(reference_tokens: int | None) -> int:
    """A length that leaves room for an answer in words of one's own, in tokens."""
    return max(ROOM_TOKENS, ROOM_FACTOR * (reference_tokens or 0))


#: What a run that does not train is told: in general, of few problems, and of none that was graded.
NOTHING = "nothing to distil"
TOO_FEW = "too few problems to tell whether there is anything to distil"
UNMEASURED = "nothing was measured"


@dataclass(frozen=True)
class Verdict:
    """What a preflight found.

    Attributes:
        cause: one of the two lists above.
        goes_on: whether a run trains after it.
        meaning: what the numbers mean, a sentence without capital and full stop.
        advice: what to change; may be empty.
        conclusion: where a run does not train after it, what follows, as the start of a sentence.
    """

    cause: Cause | UngradedCause
    goes_on: bool
    meaning: str
    advice: str
    conclusion: str = NOTHING


def verdict_of(record: Mapping[str, Any], config: Config) -> Verdict:
    """The verdict on the record of a preflight, which may be of an earlier version."""
    student, teacher = (Outcome.in_record(record, role) for role in ("student", "teacher"))
    gain = Estimate(**record["gain"]) if "gain" in record else None
    measured = evaluation_sampling(config)
    limit, reference = measured.max_new_tokens, record.get("reference_tokens")
    cause = decide(student, teacher, gain, limit, reference)
    better = goes_on(student, teacher)
    difference = points(gain) if gain is not None else ""
    if "mean_score" in record:  # the grader gives numbers, of which few may count as right
        means = {role: each["value"] for role, each in record["mean_score"].items()}
        was, better = better, means["teacher"] > means["student"]
        cause = "gain" if better else "equal" if was else cause
        if better and record.get("score_gain", {"low": 1})["low"] <= 0:
            cause, difference = "gain_uncertain", score_change(record["score_gain"])
    signal = record.get("signal")
    if not better and cause in ASK_SIGNAL and preflight_signal.helps(signal):
        cause, better = "signal", True
    if (mostly_failed(record) and not better) or (cause == "ungraded" and FAILED in record):
        cause = "grader_failed"
    fields = {
        "teacher": teacher.right,
        "teacher_wrong": teacher.wrong,
        "teacher_failed": 1 - teacher.right,
        "repeating": teacher.repeating,
        "ungraded": teacher.ungraded,
        "student_unanswered": student.unanswered,
        "student_unfinished": student.unfinished,
        "gain": difference,
        "limit": limit,
        "enough": max(2 * limit, ROOM_FACTOR * (reference or 0)),
        "option": length_option(config),
        "grader_failed": described(record) if cause == "grader_failed" else "",
        **untried(config, record["problems"], {"student": student, "teacher": teacher}, signal),
    }
    meaning = MEANINGS[cause].format(**fields)
    if cause == "signal":
        meaning += f": {preflight_signal.described(signal)}"
    few = not better and is_few(record["problems"])
    conclusion = UNMEASURED if cause == "grader_failed" else TOO_FEW if few else NOTHING
    if conclusion == TOO_FEW:
        meaning = f"on {numbered(record['problems'], 'problem')} alone, {meaning}"
    return Verdict(cause, better, meaning, advice_of(cause, few, fields), conclusion)
