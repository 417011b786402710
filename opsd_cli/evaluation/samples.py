"""Graded samples and the statistics of a set of them: avg@k, pass@k, maj@k, lengths.

Shapes: P problems, K samples per problem.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from opsd_cli.errors import RunError
from opsd_cli.evaluation.other_answers import other_answer
from opsd_cli.grading import Grade, Grader
from opsd_cli.statistics import (
    Estimate,
    average_at_k,
    majority_at_k,
    mean_score_at_k,
    paired_difference,
    pass_at_k,
)

_RIGHT = "\N{CHECK MARK}"


@dataclass(frozen=True)
class Sample:
    """One graded completion, a line of `samples.jsonl`.

    Attributes:
        other_answer: a second answer that the completion states and that has another value, as
            after a box: "The answer is 7."; None if there is none.
        flexible_answer, flexible_correct: by the flexible rule (`opsd_cli.grading.flexible`); None
            in a sample that was graded before there was one, or that is not mathematics.
        score: the grader's number in 0..1; None where it gives a verdict alone.
        feedback: what the grader says of this completion; mostly None.
        reason: why the grader failed on this completion; None if it did not, or it is not known.
        correct: None where nothing is graded, and `status` is then `not_graded`.
        completion_ids: the completion's tokens, stop token included; known of a sample that this
            process sampled, and in no file of an evaluation.
    """

    problem_id: str
    sample_index: int
    completion: str
    tokens: int
    finish_reason: str
    answer: str | None
    status: str
    correct: bool | None
    flexible_answer: str | None = None
    flexible_correct: bool | None = None
    other_answer: str | None = None
    score: float | None = None
    feedback: str | None = None
    reason: str | None = None
    completion_ids: tuple[int, ...] = field(default=(), compare=False, repr=False)

    @property
    def reward(self) -> float:
        """The score; 1.0 or 0.0 where the grader gives a verdict alone."""
        return float(bool(self.correct)) if self.score is None else self.score

    def as_dict(self) -> dict[str, Any]:
        """The values; `score`, `feedback` and `reason` only where the grader gives them."""
        found = asdict(self)
        del found["completion_ids"]
        return found | judged(found.pop("score"), found.pop("feedback"), found.pop("reason"))


def graded(grade: Grade, flexible: Grade | None, completion: str) -> dict[str, Any]:
    """The values of a sample that its grades decide.

    Args:
        flexible: by the flexible rule; None where answers are not mathematics.
    """
    other = None if flexible is None else other_answer(completion, grade.answer)
    return {
        "answer": grade.answer,
        "status": grade.status,
        "correct": grade.verdict,
        "flexible_answer": None if flexible is None else flexible.answer,
        "flexible_correct": None if flexible is None else flexible.correct,
        "other_answer": other,
        "score": grade.score if grade.numeric else None,
        "feedback": grade.feedback,
        "reason": grade.reason,
    }


def judged(score: float | None, feedback: str | None, reason: str | None = None) -> dict[str, Any]:
    """The keys of a logged completion that only some graders give."""
    given = {"score": score, "feedback": feedback, "reason": reason}
    return {key: value for key, value in given.items() if value is not None}


@dataclass(frozen=True)
class Evaluation:
    """All samples of a set, problem by problem, and the statistics computed from them.

    Attributes:
        generated, prompt_tokens: tokens that this call sampled, without the samples passed to it.
        votes: for each problem, the cluster of each sample's answer (see `with_votes`); empty where
            the grader compares no answers, so that there is nothing to vote by.
        reference_log_prob: where nothing is graded, the mean log-probability of the solutions under
            the student's prompt, in nats a token; None in a set without solutions.
    """

    name: str
    problem_ids: tuple[str, ...]
    samples_per_problem: int
    samples: tuple[Sample, ...]
    generated: int
    prompt_tokens: int
    votes: tuple[tuple[Hashable | None, ...], ...] | None = None
    reference_log_prob: Estimate | None = None

    @property
    def _grid(self) -> list[tuple[Sample, ...]]:
        k = self.samples_per_problem
        return [self.samples[start : start + k] for start in range(0, len(self.samples), k)]

    @property
    def correct_PK(self) -> np.ndarray:
        """Whether each sample is right: booleans [P, K]."""
        return np.array([[sample.correct for sample in row] for row in self._grid])

    @property
    def graded(self) -> bool:
        """False where nothing is graded: accuracy and all that follows from it are then None."""
        return all(sample.correct is not None for sample in self.samples)

    @property
    def accuracy(self) -> Estimate | None:
        """avg@k with its interval clustered by problem."""
        if not self.graded:
            return None
        return average_at_k(self.correct_PK, problem_ids=self.problem_ids)

    @property
    def flexible_PK(self) -> np.ndarray | None:
        """Whether each sample is right by the flexible rule: booleans [P, K].

        None where a sample was graded before there was such a rule.
        """
        if any(sample.flexible_correct is None for sample in self.samples):
            return None
        return np.array([[sample.flexible_correct for sample in row] for row in self._grid])

    @property
    def flexible_accuracy(self) -> Estimate | None:
        """avg@k by the flexible rule, with its interval clustered by problem."""
        flexible_PK = self.flexible_PK
        return (
            None if flexible_PK is None else average_at_k(flexible_PK, problem_ids=self.problem_ids)
        )

    @property
    def format_gap(self) -> Estimate | None:
        """Flexible minus strict accuracy, paired by problem: what the form of the answers costs."""
        flexible_PK = self.flexible_PK
        return (
            None
            if flexible_PK is None
            else paired_difference(flexible_PK, self.correct_PK, problem_ids=self.problem_ids)
        )

    @property
    def all_tokens(self) -> int:
        """Tokens of all samples, whichever process sampled them."""
        return sum(sample.tokens for sample in self.samples)

    @property
    def pass_at(self) -> dict[int, Estimate]:
        """pass@1, 2, 4, ... up to k, and k; empty where nothing is graded."""
        if not self.graded:
            return {}
        k = self.samples_per_problem
        powers = {1 << n for n in range(k.bit_length()) if 1 << n <= k} | {k}
        return {n: pass_at_k(self.correct_PK, n) for n in sorted(powers)}

    @property
    def mean_score(self) -> Estimate | None:
        """Mean score with its interval clustered by problem; None without numbers of a grader."""
        score_PK = self.score_PK
        if score_PK is None:
            return None
        return mean_score_at_k(score_PK, problem_ids=self.problem_ids)

    @property
    def score_PK(self) -> np.ndarray | None:
        """The score of each sample, [P, K]; None without numbers of a grader."""
        if all(sample.score is None for sample in self.samples):
            return None
        return np.array([[sample.reward for sample in row] for row in self._grid])

    @property
    def majority(self) -> Estimate | None:
        """maj@k: right samples share one vote; wrong ones vote by `votes`, or by their text.

        None where the grader compares no answers.
        """
        if self.votes == () or not self.graded:
            return None
        keys = self.votes or [[_vote(sample) for sample in row] for row in self._grid]
        return majority_at_k(self.correct_PK, keys)

    def with_votes(self, grader: Grader) -> Evaluation:
        """The evaluation with its wrong answers clustered by meaning in place of their text.

        A sample without an answer, or with one that cannot be compared, has no vote.
        """
        from opsd_cli.grading.clusters import clusters

        if not grader.traits.comparable:
            return replace(self, votes=())

        wrong = [
            [sample.answer if sample.status == "wrong" else None for sample in row]
            for row in self._grid
        ]
        votes = tuple(
            tuple(
                _RIGHT if sample.correct else number
                for sample, number in zip(row, numbers, strict=True)
            )
            for row, numbers in zip(self._grid, clusters(wrong, grader), strict=True)
        )
        return replace(self, votes=votes)

    def share(self, predicate: Callable[[Sample], bool]) -> float:
        """Share of samples for which the predicate is true."""
        return sum(map(predicate, self.samples)) / len(self.samples)

    @property
    def truncated(self) -> float:
        """Share of samples that hit the length limit."""
        return self.share(lambda sample: sample.finish_reason == "length")

    @property
    def no_answer(self) -> float | None:
        """Share of samples without an extractable answer; None where nothing is graded."""
        if not self.graded:
            return None
        return self.share(lambda sample: sample.status == "no_answer")

    @property
    def mean_tokens(self) -> float:
        """Mean completion length in tokens."""
        return sum(sample.tokens for sample in self.samples) / len(self.samples)

    def token_statistics(self) -> dict[str, float | None]:
        """Completion lengths in tokens: of all samples, and means of right and of wrong ones."""
        lengths = np.array([sample.tokens for sample in self.samples])
        return {
            "mean": self.mean_tokens,
            "median": float(np.median(lengths)),
            "p90": float(np.quantile(lengths, 0.9)),
            "max": int(lengths.max()),
            "total": int(lengths.sum()),
            "mean_of_right": _mean(s.tokens for s in self.samples if s.correct),
            "mean_of_wrong": _mean(s.tokens for s in self.samples if s.correct is False),
        }

    def as_dict(self) -> dict[str, Any]:
        """The summary, as in `results.json`."""
        return {
            "benchmark": self.name,
            "problems": len(self.problem_ids),
            "samples": self.samples_per_problem,
            "accuracy": _as_dict(self.accuracy),
            **({} if self.mean_score is None else {"mean_score": self.mean_score.as_dict()}),
            "flexible_accuracy": _as_dict(self.flexible_accuracy),
            "format_gap": _as_dict(self.format_gap),
            "pass_at": {str(k): value.as_dict() for k, value in self.pass_at.items()},
            "majority": _as_dict(self.majority),
            "truncated": self.truncated,
            **self._held_out(),
            "no_answer": self.no_answer,
            "mean_tokens": self.mean_tokens,
            "tokens": self.token_statistics(),
            "statuses": dict(Counter(sample.status for sample in self.samples)),
        }

    def _held_out(self) -> dict[str, Any]:
        """The keys of the summary that take the place of grades where there are none."""
        if self.graded:
            return {}
        return {
            "stopped": 1 - self.truncated,
            "reference_log_prob": _as_dict(self.reference_log_prob),
        }


def _as_dict(estimate: Estimate | None) -> dict[str, float] | None:
    return None if estimate is None else estimate.as_dict()


def _vote(sample: Sample) -> str | None:
    if sample.correct:
        return _RIGHT
    return sample.answer if sample.status == "wrong" else None


def _mean(numbers: Iterable[int]) -> float | None:
    found = list(numbers)
    return sum(found) / len(found) if found else None


def with_likelihood(evaluation: Evaluation, summary: Mapping[str, Any]) -> Evaluation:
    """The evaluation with the likelihood that an earlier summary has for it, if it has any."""
    known = summary.get("benchmarks", {}).get(evaluation.name, {}).get("reference_log_prob")
    if evaluation.graded or known is None:
        return evaluation
    return replace(evaluation, reference_log_prob=Estimate(**known))


def assemble(
    name: str,
    problem_ids: Sequence[str],
    samples: Collection[Sample],
    k: int,
    generated: int = 0,
    prompt_tokens: int = 0,
) -> Evaluation:
    """An evaluation of exactly k samples per problem.

    Raises:
        RunError: a sample is missing; an average of fewer would be biased.
    """
    have = {(sample.problem_id, sample.sample_index): sample for sample in samples}
    wanted = [(problem_id, index) for problem_id in problem_ids for index in range(k)]
    missing = [key for key in wanted if key not in have]
    if missing:
        problem_id, index = missing[0]
        raise RunError(
            f"{name} lacks {len(missing):,} of {len(wanted):,} samples, the first is "
            f"number {index} of problem {problem_id!r}",
            "go on with the evaluation: --resume",
        )
    ordered = tuple(have[key] for key in wanted)
    return Evaluation(name, tuple(problem_ids), k, ordered, generated, prompt_tokens)
