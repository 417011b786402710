"""What methods learn where the teacher's right reference is contrasted with a wrong one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backends.interface import PolicyGradientBatch, Rollout, RolloutRequest
from opsd_cli import methods
from opsd_cli.config.schema import Config
from opsd_cli.errors import ConfigError
from opsd_cli.methods.base import LossPlan, RunSizes, StepInputs
from opsd_cli.problems import Problem
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.rollouts.teacher_analysis import TeacherAnalyst
from opsd_cli.rollouts.types import GradedRollout
from tests.support.fakes import STOP, ScoringPolicy

PROBLEMS = [Problem(f"p{n}", f"{n} + 1", f"sum {n + 1}", str(n + 1), "made") for n in range(2)]
#: Text and grade of each rollout, by question.
GROUPS = [[("so 1", True), ("so 9", False), ("so 8", False)], [("so 2", True), ("so 2!", True)]]


class ReadsPrompts(ScoringPolicy):
    """Gives a token -1 nat, and to the teacher 0.5 more with a right reference, 0.1 with others."""

    def log_probs(self, prompt: str, completion: tuple[int, ...], role: str) -> np.ndarray:
        n = int(prompt.partition(" + ")[0][-1])
        extra = 0.5 if f"sum {n + 1}\n" in prompt else 0.1
        return np.full(len(completion), -1 + extra * (role == "teacher"))


def config_of(contrast: str, method: str = "opsd", **sections: Any) -> Config:
    divergence = {"vocabulary": "sampled"} if method == "opsd" else {}
    teacher = {"contrast": contrast, **sections.pop("teacher", {})}
    return Config.model_validate(
        {"method": method, "teacher": teacher, "divergence": divergence, **sections}
    )


def learn(config: Config) -> tuple[LossPlan, ReadsPrompts]:
    policy = ReadsPrompts()
    builder = PromptBuilder(config, policy.tokenizer)
    graded = [
        GradedRollout(
            Rollout(
                RolloutRequest(problem.id, index, builder.student(problem).ids, 7 + index),
                (10, 11, STOP), np.zeros(3, np.float32), "stop",
            ),
            problem, text, correct,
        )
        for problem, group in zip(PROBLEMS, GROUPS, strict=True)
        for index, (text, correct) in enumerate(group)
    ]  # fmt: skip
    analyst = TeacherAnalyst(config, policy, builder)
    inputs = StepInputs(1, PROBLEMS, graded, builder, analyst)
    return methods.get(config).build_loss(inputs, policy), policy


def test_contrast_takes_the_wrong_references_score_from_the_right_ones() -> None:
    plan, policy = learn(config_of("other_problem"))
    (batch,) = plan.batches
    assert isinstance(batch, PolicyGradientBatch) and len(batch.items) == 5
    assert batch.items[0].advantages == pytest.approx([0.4] * 3)
    assert [asked.role for asked in policy.asked] == ["teacher", "teacher"]
    right, wrong = (asked.prompts for asked in policy.asked)
    assert ["sum 1\n" in each for each in right] == [True] * 3 + [False] * 2
    assert [a.replace("sum 1", "sum 2") for a in right[:3]] == list(wrong[:3])  # the same words
    skipped = {"contrast_missing": 0.0, "rollouts_skipped": 0.0}
    assert plan.metrics == {**skipped, "contrast_gap": pytest.approx(0.4)}
    lengths = [len(policy.tokenizer.encode(each)) + 3 for each in (*right, *wrong)]
    assert plan.spent.teacher_scored == sum(lengths) and plan.spent.scored == 0


def test_contrast_with_wrong_rollouts_never_shows_a_rollout_itself() -> None:
    plan, policy = learn(config_of("wrong_rollout"))
    (batch,) = plan.batches
    assert isinstance(batch, PolicyGradientBatch) and len(batch.items) == 3
    wrong = policy.asked[1].prompts
    assert "so 9\n" in wrong[0] or "so 8\n" in wrong[0]
    assert "so 8\n" in wrong[1] and "so 9\n" in wrong[2]
    # The second question has no wrong rollout: its two are not learnt from.
    assert plan.metrics["contrast_missing"] == pytest.approx(2 / 5)
    assert plan.metrics["rollouts_skipped"] == pytest.approx(2 / 5)


def test_contrast_in_hybrid_redistributes_the_advantage() -> None:
    plan, policy = learn(config_of("wrong_rollout", "hybrid"))
    assert [asked.role for asked in policy.asked] == ["teacher", "teacher"]
    (batch,) = plan.batches
    assert isinstance(batch, PolicyGradientBatch)
    right, wrong = (batch.items[row].advantages[0] for row in (0, 1))
    # A right rollout's group has twice its advantage; weights are 1 + (exp(+-0.4) - 1) / 2.
    more, less = 0.5 + 0.5 * np.exp(0.4), 0.5 + 0.5 * np.exp(-0.4)
    assert right / wrong == pytest.approx(-2 * more / less, rel=1e-3)


def test_contrast_is_planned_as_two_readings_of_the_teacher() -> None:
    sizes = RunSizes(10, 100, 300, 50, 20)
    read = methods.get(config_of("other_problem")).tokens_read(sizes)
    assert (read.teacher_scored, read.scored, read.trained) == (6000, 0, 1000)
    assert methods.get(config_of("wrong_rollout")).rollouts_per_question() == 8
    assert methods.get(config_of("other_problem")).rollouts_per_question() == 1


def test_contrast_with_the_full_vocabulary_is_refused() -> None:
    config = Config.model_validate({"teacher": {"contrast": "other_problem"}})
    with pytest.raises(ConfigError, match="no place for a wrong reference"):
        methods.get(config)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"teacher": {"reason_first": True}}, "no analysis of a wrong reference"),
        ({"teacher": {"reference": "none", "model": "embedded"}}, "teacher.reference is none"),
        ({"rollouts": {"per_question": 1}}, "several rollouts of a question"),
    ],
)
def test_contrast_that_does_not_go_with_other_settings_is_refused(
    sections: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        config_of("wrong_rollout", **sections)
