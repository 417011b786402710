"""What the methods with a teacher learn where the reference is another rollout of the question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from backends.interface import DivergenceBatch, PolicyGradientBatch, Rollout, RolloutRequest
from opsd_cli import methods
from opsd_cli.config.schema import Config
from opsd_cli.methods.base import LossPlan, StepInputs
from opsd_cli.methods.grpo import advantages
from opsd_cli.problems import Problem
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.rollouts.teacher_analysis import TeacherAnalyst
from opsd_cli.rollouts.types import GradedRollout
from tests.support.fakes import STOP, FakePolicy, ScoringPolicy

PROBLEMS = [Problem(f"p{n}", f"{n} + 1", None, str(n + 1), "made") for n in range(2)]
#: Rollouts of the first question: text, length in tokens, grade. The second has no right one.
FIRST = [("right a", 5, True), ("wrong", 3, False), ("right b", 4, True)]
SECOND = [("wrong", 2, False), ("wrong too", 3, False), ("no", 3, False)]


def config_of(method: str, **sections: Any) -> Config:
    teacher = {"reference": "sibling", **sections.pop("teacher", {})}
    return Config.model_validate({"method": method, "teacher": teacher, **sections})


def rolled(builder: PromptBuilder, *groups: Sequence[tuple[str, int, bool]]) -> list[GradedRollout]:
    return [
        GradedRollout(
            Rollout(
                RolloutRequest(problem.id, index, builder.student(problem).ids, 7 + index),
                (*range(10, 9 + length), STOP), np.zeros(length, np.float32), "stop",
            ),
            problem, text, correct,
        )
        for problem, group in zip(PROBLEMS, groups, strict=False)
        for index, (text, length, correct) in enumerate(group)
    ]  # fmt: skip


def learn(config: Config, *groups: Sequence[tuple[str, int, bool]]) -> tuple[LossPlan, list[str]]:
    """The loss plan of a step, and the teacher's prompt of each item, as text."""
    policy = FakePolicy()
    builder = PromptBuilder(config, policy.tokenizer)
    inputs = StepInputs(
        1, PROBLEMS, rolled(builder, *groups), builder, TeacherAnalyst(config, policy, builder)
    )
    plan = methods.get(config).build_loss(inputs, policy)
    items = [item for b in plan.batches if isinstance(b, DivergenceBatch) for item in b.items]
    return plan, [policy.tokenizer.decode(item.teacher_prompt) for item in items]


def test_opsd_gives_each_rollout_a_right_sibling_and_skips_the_rest() -> None:
    plan, prompts = learn(config_of("opsd"), FIRST, SECOND)
    read = [text.partition("[solution begins]\n")[2].partition("\n")[0] for text in prompts]
    assert read == ["right b", "right b", "right a"]
    (batch,) = plan.batches
    assert [len(item.completion) for item in batch.items] == [5, 3, 4]
    # The mean is over the rollouts that are trained on.
    assert sum(i.weight * len(i.completion) for i in batch.items) == pytest.approx(1)
    assert plan.metrics == {"siblings_missing": 0.5, "rollouts_skipped": 0.5}


@pytest.mark.parametrize("vocabulary", ["full", "sampled"])
def test_opsd_without_any_sibling_has_no_loss_batch(vocabulary: str) -> None:
    plan, _ = learn(config_of("opsd", divergence={"vocabulary": vocabulary}), SECOND)
    assert plan.batches == ()
    assert plan.metrics == {"siblings_missing": 1.0, "rollouts_skipped": 1.0}


def test_opsd_of_the_sampled_token_counts_missing_siblings_too() -> None:
    plan, _ = learn(config_of("opsd", divergence={"vocabulary": "sampled"}), FIRST, SECOND)
    (batch,) = plan.batches
    assert len(batch.items) == 3
    assert plan.metrics.keys() == {"sampled_reverse_kl", "siblings_missing", "rollouts_skipped"}


def test_opsd_falls_back_to_the_answer_where_that_is_asked_for() -> None:
    config = config_of("opsd", teacher={"without_reference": "answer"})
    plan, prompts = learn(config, FIRST[:2], SECOND[:1])
    assert "[answer begins]\n1\n" in prompts[0]  # the only right one
    assert "[solution begins]\nright a\n" in prompts[1]
    assert "[answer begins]\n2\n" in prompts[2]
    assert plan.metrics == {"siblings_missing": pytest.approx(2 / 3), "rollouts_skipped": 0.0}


@pytest.mark.parametrize("method", ["opsd", "hybrid"])
def test_each_rollout_has_the_feedback_on_itself(method: str) -> None:
    said = ["test 1 fails", "test 2 fails", " \n"]  # of three rollouts of one question
    grading = {"grader": "code"}
    config = config_of(method, teacher={"reference": "feedback"}, grading=grading)
    policy = FakePolicy()
    builder = PromptBuilder(config, policy.tokenizer)
    rollouts = [
        replace(graded, correct=place == 2, score=None, feedback=said[place])
        for place, graded in enumerate(rolled(builder, FIRST))
    ]
    analyst = TeacherAnalyst(config, policy, builder)
    inputs = StepInputs(1, PROBLEMS, rollouts, builder, analyst)
    plan = methods.get(config).build_loss(inputs, policy)
    taught = analyst.take_taught()
    read = [taught[graded.key] for graded in rollouts]
    assert [each and each.reference for each in read] == ["test 1 fails", "test 2 fails", None]
    assert all(f"[feedback begins]\n{e.reference}\n" in e.prompt.text for e in read if e)
    shares = {"feedback_missing": pytest.approx(1 / 3), "rollouts_skipped": pytest.approx(1 / 3)}
    assert plan.metrics | shares == plan.metrics and "siblings_missing" not in plan.metrics
    assert methods.get(config).reads_solutions() is False


def test_completions_a_question_with_feedback() -> None:
    feedback = config_of("opsd", teacher={"reference": "feedback"}, grading={"grader": "code"})
    assert methods.get(feedback).rollouts_per_question() == 1


def test_hybrid_keeps_the_advantage_of_a_rollout_without_a_sibling() -> None:
    class Higher(ScoringPolicy):
        def log_probs(self, prompt: str, completion: tuple[int, ...], role: str) -> np.ndarray:
            return np.full(len(completion), 1.0 * (role == "teacher"))

    config = config_of("hybrid", hybrid={"mix": 1.0, "spread": 0.5})
    policy = Higher()
    builder = PromptBuilder(config, policy.tokenizer)
    rollouts = rolled(builder, FIRST[:2])
    analyst = TeacherAnalyst(config, policy, builder)
    inputs = StepInputs(1, PROBLEMS, rollouts, builder, analyst)
    plan = methods.get(config).build_loss(inputs, policy)
    (batch,) = plan.batches
    assert isinstance(batch, PolicyGradientBatch)
    plain = advantages([1, 0], "group")
    assert batch.items[0].advantages == pytest.approx([plain[0]] * 5)
    assert batch.items[1].advantages == pytest.approx([plain[1] * 0.5] * 3)
    assert plan.metrics["siblings_missing"] == 0.5


@pytest.mark.parametrize("method", ["opsd", "hybrid"])
def test_a_reference_of_the_problem_is_one_teacher_prompt_for_its_rollouts(method: str) -> None:
    config = config_of(method, teacher={"reference": "answer"})
    policy = FakePolicy()
    builder = PromptBuilder(config, policy.tokenizer)
    analyst = TeacherAnalyst(config, policy, builder)
    rollouts = rolled(builder, FIRST)
    plan = methods.get(config).build_loss(
        StepInputs(1, PROBLEMS, rollouts, builder, analyst), policy
    )
    assert "siblings_missing" not in plan.metrics
    taught = analyst.take_taught()
    assert taught.keys() == {graded.key for graded in rollouts}
    assert {read and (read.reference, read.own) for read in taught.values()} == {("1", False)}
    assert not analyst.take_taught()


def test_completions_a_question_with_siblings() -> None:
    assert methods.get(config_of("opsd")).rollouts_per_question() == 8
    chosen = config_of("opsd", rollouts={"per_question": 3})
    assert methods.get(chosen).rollouts_per_question() == 3


@pytest.mark.parametrize(
    ("method", "reference", "needed"),
    [
        ("opsd", "solution", True), ("opsd", "sibling", False), ("hybrid", "answer", False),
        ("hybrid", "solution", True), ("grpo", "solution", False), ("sft", "answer", True),
    ],
)  # fmt: skip
def test_which_methods_need_solutions(method: str, reference: str, needed: bool) -> None:
    config = config_of(method, teacher={"reference": reference})
    assert methods.get(config).reads_solutions() == needed
