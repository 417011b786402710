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

Training follows all of the gap, not only what is about right and wrong: style, or the form of a
prompt that the teacher does not understand. So the *separation*, the mean gap of right attempts
minus that of wrong ones, is set against the *total*, the sum of |log p_T - log p_S| over an
attempt's tokens. docs/references.md has the measurements that `LEAST_SHARE` is from.

Neither says how far training gets, and both need questions with attempts of different grades.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backends.interface import Policy, Sampling
from opsd_cli.config.schema import Config
from opsd_cli.evaluation.reading import Reading
from opsd_cli.evaluation.samples import Sample
from opsd_cli.formatting import numbered
from opsd_cli.problems import Problem
from opsd_cli.prompts.rendering import Prompt, Tokenizer
from opsd_cli.statistics import Estimate, mean_score_at_k
from opsd_cli.token_ledger import TokenLedger
from opsd_cli.tracking.listener import PREFLIGHT_SCORES

#: Attempts at each question, where the method itself asks for fewer. With 4 instead, too few
#: questions have attempts of different grades for 32 problems to decide.
ATTEMPTS = 8
#: Questions with attempts of different grades from which on the preference decides.
LEAST_QUESTIONS = 5
CHANCE = 0.5
#: The separation over the total from which on training follows it: of the teachers that were
#: trained with, those with 0.17 and more taught, and those with 0.06 and less little or nothing.
LEAST_SHARE = 0.1


@dataclass(frozen=True)
class Signal:
    """What the teacher makes of the student's attempts.

    Attributes:
        preference: see above, the mean over questions, with its interval; None without a question
            that has attempts of different grades.
        questions: that have them.
        attempts: at these questions, all of which were scored.
        gap: nats of an attempt, each the mean over questions: "right" and "wrong" are the gap of
            attempts with the highest grade of their question and of the others, "total" is the sum
            of the tokens' absolute gaps.
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


def share_of(signal: Mapping[str, Any]) -> float:
    """The separation over the total, of a signal as in preflight.json."""
    gap = signal["gap"]
    return float((gap["right"] - gap["wrong"]) / gap["total"]) if gap["total"] else 0.0


def shown_share(signal: Mapping[str, Any]) -> str:
    """The share in whole percent, rounded down: one below the limit never looks like it."""
    return f"{math.floor(100 * max(0.0, share_of(signal)))}%"


def helps(signal: Mapping[str, Any] | None) -> bool:
    """True if a signal, as in preflight.json, is clearly better than chance, and not lost."""
    if signal is None or signal["preference"] is None:
        return False
    above: bool = signal["preference"]["low"] > CHANCE
    enough = signal["questions"] >= LEAST_QUESTIONS
    return above and enough and share_of(signal) >= LEAST_SHARE


def undecided(signal: Mapping[str, Any] | None) -> bool:
    """True if a signal may help, and more questions would tell."""
    if signal is None or signal["preference"] is None or helps(signal):
        return False
    return signal["preference"]["value"] > CHANCE and share_of(signal) >= LEAST_SHARE


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
        f"{numbered(questions, 'question')}{few}), and 50% is chance; "
        f"a right and a wrong attempt differ by {shown_share(signal)} of what it changes in an "
        f"attempt on average (from {LEAST_SHARE:.0%} on, training follows it)"
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
    known: dict[tuple[str, int], np.ndarray] | None = None,
    reading: Reading | None = None,
) -> Signal:
    """Score the student's attempts under both prompts.

    The text of an attempt is encoded again: the end token is not scored.

    Args:
        samples: graded attempts; those of other problems are left out.
        problems: whose teacher has a reference.
        prompts: the student's and the teacher's prompt of a problem.
        config: the teacher's weights, and the temperature of the divergence.
        known: the student's scores by problem id and sample index, which are not asked for again;
            new ones are added.
        reading: receives the progress of scoring, and is asked whether to stop.

    Raises:
        Interrupted: the user asked to stop.
    """
    by_id = {problem.id: problem for problem in problems}
    groups = graded_differently([each for each in samples if each.problem_id in by_id])
    rows = [sample for group in groups.values() for sample in group]
    if not rows:
        return Signal(None, 0, 0)
    known = {} if known is None else known
    sampling = Sampling(config.divergence.temperature)
    reading = reading or Reading()
    new = [row for row in rows if _key(row) not in known]

    by_student, by_teacher = (
        [(prompt(by_id[row.problem_id]).ids, tuple(tokenizer.encode(row.completion))) for row in of]
        for of, prompt in zip((new, rows), prompts, strict=True)
    )
    lengths_of = [
        [len(ids) + len(completion) for ids, completion in each]
        for each in (by_teacher, by_student)
    ]
    reading.begin(PREFLIGHT_SCORES, [*lengths_of[0], *lengths_of[1]])
    with_reference = reading.scores(policy, by_teacher, "teacher", config.teacher.acting, sampling)
    without = reading.scores(policy, by_student, sampling=sampling)
    known |= dict(zip(map(_key, new), without, strict=True))
    gaps = iter([t - known[_key(row)] for t, row in zip(with_reference, rows, strict=True)])
    scored = {
        problem_id: [(sample.reward, next(gaps)) for sample in group]
        for problem_id, group in groups.items()
    }
    by_question = {
        problem_id: preference([(reward, float(gap_N.sum())) for reward, gap_N in each])
        for problem_id, each in scored.items()
    }
    found = mean_score_at_k([[each] for each in by_question.values()])
    spent = TokenLedger(teacher_scored=sum(lengths_of[0]), scored=sum(lengths_of[1]))
    return Signal(found, len(groups), len(rows), _mean_gaps(scored), by_question, spent)


def _key(sample: Sample) -> tuple[str, int]:
    return sample.problem_id, sample.sample_index


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


def _mean_gaps(scored: Mapping[str, Sequence[tuple[float, np.ndarray]]]) -> dict[str, float]:
    """`Signal.gap`, of the reward and the gaps [N] of each attempt, by problem id."""
    questions = []
    for group in scored.values():
        best = max(reward for reward, _ in group)
        right = [gap_N.sum() for reward, gap_N in group if reward == best]
        wrong = [gap_N.sum() for reward, gap_N in group if reward != best]
        total = [np.abs(gap_N).sum() for _, gap_N in group]
        questions.append([np.mean(right), np.mean(wrong), np.mean(total)])
    means = np.mean(questions, axis=0)
    return dict(zip(("right", "wrong", "total"), map(float, means), strict=True))
