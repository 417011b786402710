"""Collecting a step's rollouts: order, grades, resampling of zero-variance groups, interruption."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from opsd_cli import methods
from opsd_cli.errors import Interrupted
from opsd_cli.grading import open_grader
from opsd_cli.interruption import Stop, never
from opsd_cli.problems import Problem
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.rollouts import collector
from opsd_cli.rollouts.collector import RolloutCollector
from opsd_cli.rollouts.prefetch import Prefetcher
from opsd_cli.rollouts.types import StepRequests, groups_of, training_sampling
from opsd_cli.tracking.listener import Listener
from tests.support.prefetching import OVERLAP, Prefetching, run_config

PROBLEMS = [
    Problem(f"p{n}", f"{n} + 1", f"{n} + 1 = {n + 1}", str(n + 1), "made") for n in range(12)
]
RESAMPLE = ("method=grpo", "rollouts.per_question=2", "grpo.zero_variance=resample")


class Made:
    """A collector with what it is made of."""

    def __init__(self, *assignments: str, skill: float = 0.5, stop: Stop = never) -> None:
        config = run_config(*assignments)
        self.policy = Prefetching(skill=skill)
        self.method = methods.get(config)
        requests = StepRequests(config, self.method, PromptBuilder(config, self.policy.tokenizer))
        self.prefetcher = Prefetcher(self.policy, requests, training_sampling(config))
        self.grader = open_grader(config.grading)
        self.collector = RolloutCollector(
            config, self.policy, self.method, requests, self.prefetcher, PROBLEMS, self.grader,
            Listener(), stop,
        )  # fmt: skip


@pytest.fixture
def made() -> Iterator[Any]:
    """Makes collectors, and ends their graders."""
    all_made: list[Made] = []

    def make(*assignments: str, **options: Any) -> Made:
        all_made.append(Made(*assignments, **options))
        return all_made[-1]

    yield make
    for one in all_made:
        one.grader.close()


def test_rollouts_are_grouped_in_the_order_of_the_questions(made: Any) -> None:
    questions = [PROBLEMS[n] for n in (3, 1, 2)]
    rollouts = made("method=grpo", "rollouts.per_question=3").collector.collect(questions, 1)
    assert [g.problem for g in rollouts.graded] == [p for p in questions for _ in range(3)]
    assert [g.rollout.request.sample_index for g in rollouts.graded] == [0, 1, 2] * 3
    assert {g.correct for g in rollouts.graded} == {True, False}
    for graded in rollouts.graded:
        assert graded.correct == (graded.text == f"\\boxed{{{graded.problem.answer}}}")


def test_resample_replaces_only_zero_variance_groups(made: Any) -> None:
    questions = PROBLEMS[:6]
    one = made(*RESAMPLE)
    plain = made("method=grpo", "rollouts.per_question=2").collector.collect(questions, 1)
    resampled = one.collector.collect(questions, 1)
    flat = [not one.method.has_signal(group) for group in groups_of(plain.graded)]
    assert 0 < sum(flat) < 6
    replaced = {g.problem.key for g in resampled.replaced}
    assert {q.key for q, none in zip(questions, flat, strict=True) if none} <= replaced
    kept = [group[0].problem for group in groups_of(resampled.graded)]
    assert [p for p in kept if p in questions] == [
        q for q, none in zip(questions, flat, strict=True) if not none
    ]
    assert len({p.key for p in kept}) == 6  # no question twice
    again = made(*RESAMPLE).collector.collect(questions, 1)  # by seed alone
    assert [g.text for g in again.everything] == [g.text for g in resampled.everything]


def test_resample_ends_when_no_problem_is_left(made: Any) -> None:
    rollouts = made(*RESAMPLE, "grpo.resampling_rounds=9", skill=1.0).collector.collect(PROBLEMS, 1)
    assert rollouts.replaced == () and len(rollouts.graded) == 24


def test_prefetched_rollouts_are_kept_when_collecting_is_interrupted(made: Any) -> None:
    stopped = False
    one = made(*OVERLAP, stop=lambda: stopped)
    one.prefetcher.start(PROBLEMS[:4], 2)
    stopped = True
    with pytest.raises(Interrupted):
        one.collector.collect(PROBLEMS[:4], 2)
    assert one.prefetcher.state()["step"] == 2
    stopped = False
    rollouts = one.collector.collect(PROBLEMS[:4], 2)
    assert rollouts.metrics == {"staleness": 1.0} and rollouts.seconds is not None
    assert one.prefetcher.state() is None and len(one.policy.drawn) == 4


def test_prefetched_rollouts_of_another_step_are_not_used(made: Any) -> None:
    one = made(*OVERLAP)
    one.prefetcher.start(PROBLEMS[:4], 3)
    assert one.collector.collect(PROBLEMS[:4], 2).metrics == {"staleness": 0.0}
    assert one.prefetcher.discard().rollouts == 4


def test_prefetched_rollouts_time_includes_resampling(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tokens were counted and its time was not, so that tokens per second were too many."""
    clock = [0.0]
    monkeypatch.setattr(collector.time, "perf_counter", lambda: clock[0])
    one = made(*OVERLAP, *RESAMPLE)
    sample = one.policy.generate

    def generate(requests: Any, sampling: Any, *rest: Any) -> Any:
        clock[0] += 10.0
        return sample(requests, sampling, *rest)

    one.policy.generate = generate
    one.prefetcher.start(PROBLEMS[:6], 2)
    clock[0] += 100.0  # the step before
    rollouts = one.collector.collect(PROBLEMS[:6], 2)
    assert rollouts.replaced and rollouts.metrics == {"staleness": 1.0}
    rounds = (clock[0] - 110.0) / 10.0
    assert rollouts.seconds == 10.0 + 10.0 * rounds > 10.0
