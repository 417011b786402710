"""What the numbers of a preflight mean: one decision, from what became of both roles' completions.

`decide` is the only place where a cause is chosen. Each cause has a sentence about the numbers
(`MEANINGS`) and one about what to change (`ADVICE`). Whether training goes on depends on the two
accuracies alone: the teacher's must be higher. Where the grader gives numbers, the mean scores
take their place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from opsd_cli.config.schema import Config
from opsd_cli.evaluation.evaluate import evaluation_sampling
from opsd_cli.evaluation.samples import Evaluation, Sample
from opsd_cli.formatting import points
from opsd_cli.grading.extract import marks_answer
from opsd_cli.statistics import Estimate
from opsd_cli.training.repetition import ends_in_repetition

Cause = Literal[
    # The teacher is better.
    "gain", "gain_of_form", "gain_from_zero", "gain_is_rare", "gain_uncertain",
    # It is not.
    "solved", "misleading", "ungraded", "truncated", "endless", "no_answer", "too_hard", "equal",
]  # fmt: skip
#: Causes where nothing is graded (`opsd_cli.training.preflight_divergence`).
UngradedCause = Literal["divergence", "no_divergence", "references_cut"]

#: From this accuracy of the student on, there is little left for a reference to add.
SOLVED = 0.9
#: Up to this accuracy of the student, it solves next to nothing alone.
NEXT_TO_NOTHING = 0.05
#: Below this accuracy of the teacher, most of what it teaches is wrong.
RARELY_RIGHT = 0.2
#: A completion may well be this many times as long as the reference solutions, and this long at
#: least, in tokens. Where a limit leaves that room, a higher one is not suggested.
ROOM_FACTOR, ROOM_TOKENS = 4, 512
#: Sampling temperature up to which a lower one is not suggested.
COOL = 0.3


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


#: Worked examples that are suggested; a config that has as many is not told to show some.
EXAMPLES = 2
_EXAMPLES = f"show worked examples in both prompts (--set prompts.few_shot.examples={EXAMPLES})"
_EASIER = "take a larger model, or problems with shorter solutions"
_FORM = (
    "ask for a form of answer that can be read, such as \\boxed{}, in prompts.student.template and "
    "prompts.teacher.template"
)
_OTHER_WORDS = (
    "ask for the form of the answer in other words (prompts.student.template and "
    "prompts.teacher.template name \\boxed{} already)"
)
#: Cause -> what the numbers mean. The fields are those of `described`.
MEANINGS: dict[Cause, str] = {
    "gain": "there is something to distil: the reference makes the model right more often",
    "gain_of_form": "there is something to distil, but {student_unanswered:.0%} of the student's "
    "completions hold no answer ({student_unfinished:.0%} were cut off): a part of the difference "
    "is form or length, and not reasoning",
    "gain_from_zero": "there is something to distil: the model solves next to nothing alone and "
    "{teacher:.0%} with the reference. Training can go on, but it may learn little: a reference "
    "shows the next step, and not how to find it. GRPO would find hardly a right answer to learn "
    "from",
    "gain_is_rare": "there is something to distil, but not much: with the reference in view the "
    "model is still wrong on {teacher_failed:.0%}, and teaches that too",
    "gain_uncertain": "training can go on, but the difference may be chance: {gain}",
    "solved": "the student solves nearly all of these problems without the reference",
    "misleading": "the reference makes the model worse: it is right less often with it",
    "ungraded": "the grader could not compare {ungraded:.0%} of the teacher's answers with the "
    "right ones",
    "truncated": "most of the teacher's failures are completions that were cut off before an "
    "answer: the limit is {limit} tokens",
    "endless": "most of the teacher's failures are completions that do not come to an end "
    "({repeating:.0%} of all end in repetitions), and the limit is {limit} tokens: a higher one "
    "would hardly help",
    "no_answer": "most of the teacher's failures are completions that end without an answer that "
    "can be read",
    "too_hard": "the teacher writes full answers, and {teacher_wrong:.0%} are wrong with the "
    "reference in view: these problems are too hard for this model",
    "equal": "the teacher is often right, and so is the student: the reference adds nothing",
}
#: Cause -> what to change, as alternatives; one whose field is empty is left out (`_advice`).
ADVICE: dict[Cause, tuple[str, ...]] = {
    "gain": (),
    "gain_of_form": (
        "raise {option} (now {limit}) if completions are cut off",
        "{examples}",
    ),
    "gain_from_zero": ("{examples}", _EASIER),
    "gain_is_rare": ("{examples}", _EASIER),
    "gain_uncertain": ("{more_problems}", "{examples_of_form}"),
    "solved": ("train on harder problems",),
    "misleading": (
        "see that each solution belongs to its question (opsd data check), and give the "
        "teacher a clearer prompts.teacher.template",
    ),
    "ungraded": ("opsd data check lists the answers that cannot be compared",),
    "truncated": ("raise {option} (now {limit}) to {enough}",),
    "endless": ("{examples}", _EASIER),
    "no_answer": ("{form}", "{examples}", "take a larger model"),
    "too_hard": ("{examples}", "{cooler}", _EASIER),
    "equal": (
        "train on harder problems",
        "give the teacher a clearer prompts.teacher.template",
        "{cooler}",
    ),
}
#: Before the advice of a cause.
_FIRST: dict[Cause, str] = {"gain_from_zero": "if it does not improve: "}


@dataclass(frozen=True)
class Verdict:
    """What a preflight found.

    Attributes:
        cause: one of the two lists above.
        goes_on: whether a run trains after it.
        meaning: what the numbers mean, a sentence without capital and full stop.
        advice: what to change; may be empty.
    """

    cause: Cause | UngradedCause
    goes_on: bool
    meaning: str
    advice: str


def verdict_of(record: Mapping[str, Any], config: Config) -> Verdict:
    """The verdict on the record of a preflight, which may be of an earlier version."""
    student, teacher = (Outcome.in_record(record, role) for role in ("student", "teacher"))
    gain = Estimate(**record["gain"]) if "gain" in record else None
    measured = evaluation_sampling(config)
    limit, reference = measured.max_new_tokens, record.get("reference_tokens")
    cause = decide(student, teacher, gain, limit, reference)
    better = goes_on(student, teacher)
    if "mean_score" in record:  # the grader gives numbers, of which few may count as right
        means = {role: each["value"] for role, each in record["mean_score"].items()}
        was, better = better, means["teacher"] > means["student"]
        cause = "gain" if better else "equal" if was else cause
    fields = {
        "teacher": teacher.right,
        "teacher_wrong": teacher.wrong,
        "teacher_failed": 1 - teacher.right,
        "repeating": teacher.repeating,
        "ungraded": teacher.ungraded,
        "student_unanswered": student.unanswered,
        "student_unfinished": student.unfinished,
        "gain": points(gain) if gain is not None else "",
        "limit": limit,
        "enough": max(2 * limit, ROOM_FACTOR * (reference or 0)),
        "option": (
            "evaluation.max_new_tokens"
            if config.evaluation.max_new_tokens
            else "sampling.max_new_tokens"
        ),
    }
    untried = _untried(config, 4 * record["problems"], student)
    return Verdict(
        cause, better, MEANINGS[cause].format(**fields), _advice(cause, {**fields, **untried})
    )


def _untried(config: Config, more: int, student: Outcome) -> dict[str, str]:
    """The suggestions that depend on the config; those that it follows already are empty.

    Args:
        more: number of problems that would make the measurement surer.
    """
    prompts, warmth = config.prompts, evaluation_sampling(config).temperature
    templates = (prompts.student.template, prompts.teacher.template)
    examples = _EXAMPLES if prompts.few_shot.examples < EXAMPLES else ""
    asked = all("\\boxed" in (template or "") for template in templates)
    return {
        "examples": examples,
        "examples_of_form": examples if student.unanswered > 0.5 else "",
        "more_problems": (
            f"measure more problems: --set preflight.problems={more}"
            if config.preflight.problems < more
            else ""
        ),
        "form": _OTHER_WORDS if asked else _FORM,
        "cooler": f"lower evaluation.temperature (now {warmth:g})" if warmth > COOL else "",
    }


def _advice(cause: Cause, fields: Mapping[str, Any]) -> str:
    """The alternatives of a cause that are left, joined: "a", "a, or b" or "a, b, or c"."""
    left = [text for each in ADVICE[cause] if (text := each.format(**fields))]
    *before, last = left or [""]
    joined = f"{', '.join(before)}, or {last}" if before else last
    return _FIRST.get(cause, "") * bool(joined) + joined
