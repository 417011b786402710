"""Whether the teacher tells right attempts of the student from wrong ones: the signal of training.

A teacher that writes poor answers of its own may still score the student's attempts well, and the
loss of opsd has nothing but these scores in it. So the student's attempts at the same questions are
scored under both prompts, and graded. The gap of an attempt y is

    g(y) = sum over its tokens of log p_T - log p_S,  in nats.

Its *preference* is the probability that of two attempts at one question the better one has the
greater gap: 0.5 is chance. It has the sign of what training does first. Let p_t be the distribution
in proportion to p_S^(1 - t) p_T^t, the way from the student to the teacher; then the mean reward
R of one question's attempts changes at t = 0 by d E[R] / dt = Cov(R, g), over the student's own
attempts. The preference is this covariance by ranks, which a few large gaps do not decide.

It says nothing about how far training gets, and needs questions with attempts of different grades.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backends.interface import DivergenceItem, Policy
from opsd_cli.config.schema import Config
from opsd_cli.evaluation.samples import Sample
from opsd_cli.methods.opsd import teacher_and_student_scores
from opsd_cli.problems import Problem
from opsd_cli.prompts.rendering import Prompt, Tokenizer
from opsd_cli.statistics import Estimate, mean_score_at_k
from opsd_cli.token_ledger import TokenLedger

#: Attempts at each question, where the method itself asks for fewer.
ATTEMPTS = 4
#: Questions with attempts of different grades from which on the preference decides.
LEAST_QUESTIONS = 5
CHANCE = 0.5


@dataclass(frozen=True)
class Signal:
    """What the teacher makes of the student's attempts.

    Attributes:
        preference: see above, the mean over questions, with its interval; None without a question
            that has attempts of different grades.
        questions: that have them.
        attempts: at these questions, all of which were scored.
        gap: mean gap, in nats an attempt, of those with the highest grade of their question
            ("right") and of the others ("wrong").
        by_question: the preference of each, by problem id.
        spent: tokens that were scored.
    """

    preference: Estimate | None
    questions: int
    attempts: int
    gap: Mapping[str, float] = field(default_factory=dict)
    by_question: Mapping[str, float] = field(default_factory=dict)
    spent: TokenLedger = field(default_factory=TokenLedger)

    def as_dict(self) -> dict[str, Any]:
        """As preflight.json has it."""
        return {
            "preference": None if self.preference is None else self.preference.as_dict(),
            "questions": self.questions,
            "attempts": self.attempts,
            "gap": dict(self.gap),
        }


def helps(signal: Mapping[str, Any] | None) -> bool:
    """True if a signal, as in preflight.json, is clearly better than chance."""
    if signal is None or signal["preference"] is None:
        return False
    above: bool = signal["preference"]["low"] > CHANCE
    return above and signal["questions"] >= LEAST_QUESTIONS


def described(signal: Mapping[str, Any] | None) -> str:
    """A signal in words, a sentence without capital and full stop; empty if none was measured."""
    if signal is None:
        return ""
    if signal["preference"] is None:
        return (
            "no question had attempts of different grades, so it is not known whether the teacher "
            "tells right from wrong"
        )
    preference, questions = Estimate(**signal["preference"]), signal["questions"]
    few = "" if questions >= LEAST_QUESTIONS else f", fewer than {LEAST_QUESTIONS} do not decide"
    return (
        "of two attempts at one question, a right and a wrong one, it favours the right one "
        f"{preference.value:.0%} of the time ({preference.low:.0%} to {preference.high:.0%}, "
        f"{questions} questions{few}), and 50% is chance"
    )


def graded_differently(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """The samples of each problem whose rewards are not all equal, by problem id.

    Completions without tokens have no gap, and are left out.
    """
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.completion:
            groups.setdefault(sample.problem_id, []).append(sample)
    return {
        problem_id: group
        for problem_id, group in groups.items()
        if len({sample.reward for sample in group}) > 1
    }


def signal_of(
    samples: Sequence[Sample],
    problems: Sequence[Problem],
    prompts: tuple[Callable[[Problem], Prompt], Callable[[Problem], Prompt]],
    policy: Policy,
    tokenizer: Tokenizer,
    config: Config,
) -> Signal:
    """Score the student's attempts under both prompts.

    The text of an attempt is encoded again: the end token is not scored.

    Args:
        samples: graded attempts; those of other problems are left out.
        problems: whose teacher has a reference.
        prompts: the student's and the teacher's prompt of a problem.
        config: the teacher's weights, and the temperature of the divergence.
    """
    by_id = {problem.id: problem for problem in problems}
    groups = graded_differently([each for each in samples if each.problem_id in by_id])
    rows = [sample for group in groups.values() for sample in group]
    if not rows:
        return Signal(None, 0, 0)
    student, teacher = prompts
    items = [
        DivergenceItem(
            student(by_id[row.problem_id]).ids,
            teacher(by_id[row.problem_id]).ids,
            tuple(tokenizer.encode(row.completion)),
        )
        for row in rows
    ]
    with_reference, without, spent = teacher_and_student_scores(
        items, policy, config, config.divergence.temperature
    )
    gaps = iter([float((t - s).sum()) for t, s in zip(with_reference, without, strict=True)])
    scored = {
        problem_id: [(sample.reward, next(gaps)) for sample in group]
        for problem_id, group in groups.items()
    }
    by_question = {problem_id: preference(each) for problem_id, each in scored.items()}
    found = mean_score_at_k([[each] for each in by_question.values()])
    return Signal(found, len(groups), len(rows), _mean_gaps(scored), by_question, spent)


def preference(scored: Sequence[tuple[float, float]]) -> float:
    """The share of pairs of unequal reward whose better one has the greater gap; ties are half.

    Args:
        scored: reward and gap of each attempt at one question, at least two of unequal reward.
    """
    pairs = [
        (better[1] > worse[1]) + 0.5 * (better[1] == worse[1])
        for better in scored
        for worse in scored
        if better[0] > worse[0]
    ]
    return float(np.mean(pairs))


def _mean_gaps(scored: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, float]:
    gaps: dict[str, list[float]] = {"right": [], "wrong": []}
    for group in scored.values():
        best = max(reward for reward, _ in group)
        for reward, gap in group:
            gaps["right" if reward == best else "wrong"].append(gap)
    return {grade: float(np.mean(each)) for grade, each in gaps.items()}
