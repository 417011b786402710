"""Held-out divergence and the likelihood of the solutions, against hand calculations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from backends.interface import BatchReport, DivergenceBatch, LossBatch, TokenReport
from opsd_cli.config.resolve import resolve
from opsd_cli.evaluation.held_out import HeldOut, divergence, reference_log_prob, tokens_of
from opsd_cli.evaluation.means import mean_of_problems
from opsd_cli.evaluation.samples import Sample
from opsd_cli.losses.reduction import completion_weights
from opsd_cli.problems import Problem
from opsd_cli.prompts.rendering import Prompt
from opsd_cli.student_t import student_t_quantile
from tests.support.fakes import FakePolicy

PROBLEMS = [
    Problem("a", "1 + 1", "12", None, "set"),
    Problem("b", "2 + 2", "1234", None, "set"),
    Problem("c", "3 + 3", None, None, "set"),
]


class Measured(FakePolicy):
    """Each token's divergence, and minus its log-probability, is its id; keeps what it reads."""

    def __init__(self, context_limit: int | None = None) -> None:
        super().__init__()
        self.context_limit = context_limit
        self.batches: list[DivergenceBatch] = []
        self.scored: list[Any] = []

    def score(self, sequences: Sequence[Any], *role: Any, **more: Any) -> list[np.ndarray]:
        self.scored += sequences
        return [-np.asarray(completion, np.float32) for _, completion in sequences]

    def measure(self, batch: LossBatch) -> BatchReport:
        assert isinstance(batch, DivergenceBatch)
        self.batches.append(batch)
        values = [np.asarray(item.completion, np.float32) for item in batch.items]
        return BatchReport(0.0, tuple(TokenReport(v, v, v, v) for v in values), 0, 0)


def sample(problem_id: str, *ids: int, index: int = 0) -> Sample:
    return Sample(
        problem_id, index, "", len(ids), "stop", None, "not_graded", None, completion_ids=ids
    )


def prompts(length: int) -> dict[str, Prompt]:
    return {problem.id: Prompt("", (7,) * length, "") for problem in PROBLEMS}


SAMPLES = [sample("a", 1, 3), sample("a", 4, index=1), sample("b", 2, 2, 8, 8), sample("b", 6)]
LENGTHS, TOTALS = [2, 1, 4, 1], [4, 4, 20, 6]


@pytest.mark.parametrize("reduction", ["tokens", "sequences"])
def test_held_out_divergence_has_the_mean_of_the_loss(reduction: str) -> None:
    config = resolve(None, [f"train.reduction={reduction}"])
    found = divergence(Measured(), SAMPLES, prompts(2), prompts(5), config)
    weights = completion_weights(LENGTHS, reduction)
    loss = sum(weight * total for weight, total in zip(weights, TOTALS, strict=True))
    assert found.divergence is not None
    assert found.divergence.value == pytest.approx(loss)
    assert 0 <= found.divergence.low < loss < found.divergence.high
    assert found.spent.scored == 8 + 4 * 2 and found.spent.teacher_scored == 8 + 4 * 5


def test_held_out_divergence_leaves_out_empty_completions_and_no_reference() -> None:
    policy = Measured()
    teacher = {"a": prompts(5)["a"]}
    samples = [*SAMPLES, sample("a", index=2)]
    found = divergence(policy, samples, prompts(2), teacher, resolve())
    assert [item.completion for item in policy.batches[0].items] == [(1, 3), (4,)]
    assert found.divergence is not None
    assert found.divergence.low == found.divergence.high == found.divergence.value == 8 / 3
    assert divergence(policy, SAMPLES, prompts(2), {}, resolve()) == HeldOut()


def test_held_out_measures_fit_the_context() -> None:
    policy = Measured(context_limit=7)
    divergence(policy, SAMPLES, prompts(2), prompts(5), resolve())
    assert [len(item.completion) for item in policy.batches[0].items] == [2, 1, 2, 1]
    reference_log_prob(policy, PROBLEMS, lambda problem: prompts(4)[problem.id])
    assert [len(ids) for _, ids in policy.scored] == [2, 3]
    filled = reference_log_prob(policy, PROBLEMS, lambda problem: prompts(7)[problem.id])
    assert filled == HeldOut()


def test_held_out_divergence_of_a_sampled_vocabulary_is_the_whole_reverse_kl() -> None:
    policy = Measured()
    config = resolve(None, ["divergence.vocabulary=sampled", "teacher.weights=live"])
    divergence(policy, SAMPLES, prompts(2), prompts(5), config)
    assert policy.batches[0].spec.kind == "reverse_kl"
    assert policy.batches[0].teacher == "live"


@pytest.mark.parametrize(("role", "kind"), [("student", "scored"), ("teacher", "teacher_scored")])
def test_likelihood_of_the_solutions_is_a_mean_over_problems(role: Any, kind: str) -> None:
    policy = Measured()
    found = reference_log_prob(policy, PROBLEMS, lambda problem: prompts(3)[problem.id], None, role)
    own = [tokens_of(str(problem.solution), policy.tokenizer) for problem in PROBLEMS[:2]]
    assert found.reference_log_prob is not None
    assert found.reference_log_prob.value == pytest.approx(-np.mean([np.mean(ids) for ids in own]))
    assert getattr(found.spent, kind) == sum(map(len, own)) + 2 * 3
    assert found.quality == found.reference_log_prob.value
    unsolved = reference_log_prob(policy, PROBLEMS[2:], lambda problem: prompts(3)[problem.id])
    assert unsolved.reference_log_prob is None and unsolved.quality is None


def test_likelihood_of_two_unlike_solutions_has_no_interval_above_certainty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = Measured()
    monkeypatch.setattr(policy, "score", lambda pairs, *_: [np.array([-0.1]), np.array([-9.0])])
    found = reference_log_prob(policy, PROBLEMS, lambda problem: prompts(3)[problem.id])
    assert found.reference_log_prob is not None
    assert found.reference_log_prob.low < -4.55 < found.reference_log_prob.high == 0.0


def test_mean_of_problems_has_a_t_interval_and_that_of_a_ratio_with_weights() -> None:
    plain = mean_of_problems([-1.0, 2.0, 5.0])
    assert plain.value == 2.0
    assert plain.high - plain.value == pytest.approx(
        student_t_quantile(0.975, 2) * 3.0 / np.sqrt(3)
    )
    values, weights = np.array([1.0, 2.0, 4.0]), np.array([1.0, 1.0, 2.0])
    ratio = mean_of_problems(values, weights)
    residuals = weights * (values - 2.75) / weights.mean()
    error = np.sqrt((residuals**2).sum() / 2 / 3)
    assert ratio.value == 2.75
    assert ratio.value - ratio.low == pytest.approx(student_t_quantile(0.975, 2) * error)
    assert mean_of_problems([0.5]).as_dict() == {"value": 0.5, "low": 0.5, "high": 0.5}
