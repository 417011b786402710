"""Held-out measures on each real backend, against its own losses and scores."""

from __future__ import annotations

import numpy as np
import pytest

from backends.interface import DivergenceBatch, DivergenceItem
from opsd_cli.config.resolve import resolve
from opsd_cli.evaluation.held_out import measured, tokens_of
from opsd_cli.evaluation.samples import Sample
from opsd_cli.losses.reduction import completion_weights
from opsd_cli.problems import Problem
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.rollouts.teacher_analysis import TeacherAnalyst
from tests.support.backend_fixtures import Load

PROBLEMS = [
    Problem("a", "1 + 1", "1 + 1 = 2", None, "set"),
    Problem("b", "2 + 3", "2 + 3 = 5", None, "set"),
    Problem("c", "4 + 4", None, None, "set"),
]
IDS = {"a": (3, 4, 5, 0), "b": (6, 0), "c": (7, 0)}
SETTINGS = [
    "model=a-model", "sampling.max_new_tokens=8", "divergence.kind=jsd", "teacher.weights=ema",
    "train.reduction=sequences",
    "prompts.student.template={question}", "prompts.teacher.template={solution} {question}",
]  # fmt: skip


def test_held_out_measures_equal_the_loss_and_the_scores(load: Load) -> None:
    config = resolve(None, SETTINGS)
    policy = load(teacher={"weights": "ema"})
    builder = PromptBuilder(config, policy.tokenizer, policy.context_limit)
    student, teacher = builder.student, builder.teacher
    shares = completion_weights([4, 2], "sequences")
    items = tuple(
        DivergenceItem(student(p).ids, teacher(p).ids, IDS[p.id], weight)
        for p, weight in zip(PROBLEMS[:2], shares, strict=True)
    )
    batch = DivergenceBatch(items, config.divergence.spec(), config.teacher.weights)
    policy.accumulate(batch)
    policy.apply(0.1)  # so that student and teacher differ in their weights too
    samples = [
        Sample(key, 0, "", len(ids), "stop", None, "not_graded", None, completion_ids=ids)
        for key, ids in IDS.items()
    ]
    analyst = TeacherAnalyst(config, policy, builder)
    found = measured(policy, PROBLEMS, samples, builder, analyst, config)
    report = policy.accumulate(batch)
    assert found.divergence is not None and found.reference_log_prob is not None
    assert found.divergence.value == pytest.approx(report.loss, rel=1e-5)
    assert found.divergence.value > 0
    pairs = [(student(p).ids, tokens_of(str(p.solution), policy.tokenizer)) for p in PROBLEMS[:2]]
    scores = [np.mean(scores_N) for scores_N in policy.score(pairs)]
    assert found.reference_log_prob.value == pytest.approx(float(np.mean(scores)), rel=1e-5)
    read = sum(len(prompt) + len(ids) for prompt, ids in pairs)
    assert found.spent.scored == report.trained_tokens + read
    assert found.spent.teacher_scored == report.teacher_tokens
