"""What the causes of a preflight's verdict mean, and what to change: the words.

`opsd_cli.training.preflight_verdict` chooses the cause.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from opsd_cli.config.schema import Config
from opsd_cli.evaluation.evaluate import evaluation_sampling
from opsd_cli.training import preflight_signal
from opsd_cli.training.preflight_grader import MEND

if TYPE_CHECKING:
    from opsd_cli.training.preflight_verdict import Outcome

Cause = Literal[
    # The teacher is better.
    "gain", "gain_of_form", "gain_from_zero", "gain_is_rare", "gain_uncertain",
    # It is not, but it tells right attempts from wrong ones.
    "signal",
    # It is not.
    "solved", "misleading", "ungraded", "truncated", "endless", "no_answer", "too_hard", "equal",
    # Nothing was measured.
    "grader_failed",
]  # fmt: skip
#: Causes where nothing is graded (`opsd_cli.training.preflight_divergence`).
UngradedCause = Literal["divergence", "no_divergence", "references_cut"]

#: Causes of a failure with which the teacher's scores are looked at: it answers in full, and is no
#: better. With the others its answers are cut off, unreadable or superfluous.
ASK_SIGNAL: tuple[Cause, ...] = ("misleading", "too_hard", "equal")
#: Sampling temperature up to which a lower one is not suggested.
COOL = 0.3

#: Worked examples that are suggested; a config that has as many is not told to show some.
EXAMPLES = 2
#: Share of a role's completions that are cut off, not in repetitions, from which on a higher limit
#: is among the suggestions.
OFTEN_CUT = 0.5
#: Fewer problems tell nothing: of 8, none right is what chance gives at 30% too, 1 time in 17.
FEWEST = 8
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
    "signal": "there is something to distil: the teacher answers no better with the reference, but "
    "it tells right attempts from wrong ones",
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
    "grader_failed": "{grader_failed}",
}
_MEASURE = "{more_problems}"
_MORE_DATA = "give more training problems, or a reference that more of them have"
#: Cause -> what to change, as alternatives; one whose field is empty is left out (`advice_of`).
ADVICE: dict[Cause, tuple[str, ...]] = {
    "gain": (),
    "gain_of_form": (
        "raise {option} (now {limit}) if completions are cut off",
        "{examples}",
    ),
    "gain_from_zero": ("{examples}", _EASIER),
    "gain_is_rare": ("{examples}", _EASIER),
    "gain_uncertain": (_MEASURE, "{examples_of_form}"),
    "signal": (
        "--preflight-only compares this reference with others and with that of another problem",
    ),
    "solved": ("train on harder problems",),
    "misleading": (
        "{undecided}",
        "see that each solution belongs to its question (opsd data check), and give the "
        "teacher a clearer prompts.teacher.template",
    ),
    "ungraded": ("opsd data check lists the answers that cannot be compared",),
    "truncated": ("raise {option} (now {limit}) to {enough}",),
    "endless": ("{examples}", _EASIER),
    "no_answer": ("{form}", "{examples}", "take a larger model"),
    "too_hard": ("{undecided}", "{examples}", "{cooler}", _EASIER),
    "equal": (
        "{undecided}",
        "train on harder problems",
        "give the teacher a clearer prompts.teacher.template",
        "{cooler}",
    ),
    "grader_failed": (MEND,),
}
#: Before the advice of a cause.
_FIRST: dict[Cause, str] = {"gain_from_zero": "if it does not improve: "}


#: Causes whose advice has a higher limit already, or that have nothing to do with lengths.
_LENGTH_IS_SETTLED: tuple[Cause, ...] = ("truncated", "endless", "gain_of_form", "grader_failed")


def is_few(problems: int) -> bool:
    """True if so few problems were measured that a teacher that is no better means nothing."""
    return problems < FEWEST


def untried(
    config: Config, problems: int, roles: Mapping[str, Outcome], signal: Mapping[str, Any] | None
) -> dict[str, str]:
    """The suggestions that depend on the config; those that it follows already are empty.

    Args:
        problems: that were measured.
        roles: "student" and "teacher".
    """
    prompts, warmth = config.prompts, evaluation_sampling(config).temperature
    templates = (prompts.student.template, prompts.teacher.template)
    examples = _EXAMPLES if prompts.few_shot.examples < EXAMPLES else ""
    more = max(4 * problems, 4 * FEWEST)
    measure = f"measure more problems: --set preflight.problems={more}"
    asked = all("\\boxed" in (template or "") for template in templates)
    return {
        "examples": examples,
        "examples_of_form": examples if roles["student"].unanswered > 0.5 else "",
        "more_problems": measure if config.preflight.problems < more else "",
        "more_at_all": measure if config.preflight.problems < more else _MORE_DATA,
        "undecided": measure if preflight_signal.undecided(signal) else "",
        "form": _OTHER_WORDS if asked else _FORM,
        "cooler": f"lower evaluation.temperature (now {warmth:g})" if warmth > COOL else "",
        "longer": _longer(config, roles),
    }


def length_option(config: Config) -> str:
    """The key that limits the length of a measured completion."""
    own = config.evaluation.max_new_tokens
    return "evaluation.max_new_tokens" if own else "sampling.max_new_tokens"


def _longer(config: Config, roles: Mapping[str, Outcome]) -> str:
    """The limit to raise, where most completions of a role reach it without an answer."""
    cut = {
        role: each.unfinished
        for role, each in roles.items()
        if each.unfinished >= OFTEN_CUT and each.cut_off > each.repeating
    }
    if not cut:
        return ""
    role = max(cut, key=cut.__getitem__)
    now = evaluation_sampling(config).max_new_tokens
    return (
        f"raise {length_option(config)} (now {now}): {cut[role]:.0%} of the {role}'s completions "
        "were cut off"
    )


def advice_of(cause: Cause, few: bool, fields: Mapping[str, Any]) -> str:
    """The alternatives of a cause that are left, joined: "a", "a, or b" or "a, b, or c".

    Args:
        few: the measurement is of too few problems.
    """
    wanted = [*ADVICE[cause]]
    if cause not in _LENGTH_IS_SETTLED:
        wanted.append("{longer}")
    if few and cause != "grader_failed":
        wanted = [
            "{more_at_all}",
            *(each for each in wanted if each not in (_MEASURE, "{undecided}")),
        ]
    left = [text for each in wanted if (text := each.format(**fields))]
    *before, last = left or [""]
    joined = f"{', '.join(before)}, or {last}" if before else last
    return _FIRST.get(cause, "") * bool(joined) + joined
