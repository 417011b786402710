"""Token plans are upper bounds: runs of random configs never spend more than was planned."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from opsd_cli.config.resolve import resolve
from opsd_cli.errors import PreflightFailed
from opsd_cli.methods.sft import target_text
from opsd_cli.planning.token_plan import Lengths, token_plan
from opsd_cli.problems import Problem
from opsd_cli.problems.sources import Splits
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.prompts.references import Reference
from opsd_cli.prompts.rendering import Prompt
from opsd_cli.training.run_directory import Run
from opsd_cli.training.trainer import train
from tests.support.fakes import FakePolicy
from tests.support.small_problems import SPLITS, problem_set

KINDS = ("rollouts", "generated", "prompt", "teacher_scored", "trained", "scored", "evaluation")
#: The fake policy answers in about 20 tokens, so 8 truncates its completions and 40 does not.
CHOICES: dict[str, tuple[Any, ...]] = {
    "method": ("opsd", "grpo", "sft", "hybrid"),
    "train.steps": (1, 2, 3, 5),
    "train.questions_per_step": (1, 4, 7),
    "train.passes": (1, 2, 3),
    "train.evaluate_every": (1, 2, 3, 10),
    "train.patience": ("null", 1, 2),
    "train.curve": ("true", "false"),
    "sampling.max_new_tokens": (8, 40),
    "evaluation.max_new_tokens": ("null", 8, 60),
    "evaluation.samples": (1, 2),
    "rollouts.per_question": ("null", 2, 3),
    "grpo.zero_variance": ("keep", "resample"),
    "grpo.resampling_rounds": (1, 2, 4),
    "grpo.minibatches": (1, 2),
    "grpo.kl": (0, 0.1),
    "hybrid.decay_updates": ("null", 1, 3),
    "hybrid.mix": (0, 0.5),
    "teacher.weights": ("initial", "live", "ema"),
    "teacher.reason_first": ("true", "false"),
    "teacher.analysis_tokens": (5, 30),
    "divergence.vocabulary": ("full", "sampled"),
    "preflight.enabled": ("true", "false"),
    "preflight.problems": (3, 100),
    "sft.max_tokens": ("null", 30, 150),
    "teacher.reference": ("solution", "answer", "sibling", "feedback"),
    "teacher.without_reference": ("skip", "answer", "solution"),
}
TRAINED_ON = (8, 30)
TRIALS = 60


def random_settings(rng: random.Random) -> list[str]:
    settings = [f"{key}={rng.choice(values)}" for key, values in CHOICES.items()]
    if "teacher.reference=sibling" in settings:
        settings.append("teacher.reason_first=false")  # they exclude each other
    if "teacher.reference=feedback" in settings:
        # Completions of the fake policy hold no JSON, and are told so.
        settings += ["teacher.reason_first=false", "grading.grader=json"]
    return settings


def exact_lengths(settings: list[str], splits: Splits, policy: FakePolicy) -> Lengths:
    """Lengths in tokens of the longest prompts that a run can render, without the analysis."""
    config = resolve(None, ["model=a-model", *settings])
    config = config.model_copy(
        update={"teacher": config.teacher.model_copy(update={"reason_first": False})}
    )
    builder = PromptBuilder(config, policy.tokenizer)
    problems = splits.train.problems
    longest = {
        "sibling": Reference("x" * config.sampling.max_new_tokens, "sibling"),
        "feedback": Reference("there is no JSON value in the completion", "feedback"),
    }

    def requests(problem: Problem) -> list[Prompt]:
        """The longest prompts of the teacher for a problem."""
        if config.teacher.reference not in longest:
            return [builder.teacher(problem), builder.analysis_request(problem)]
        own = builder.reference(problem)
        found = [builder.teacher(problem, reference=longest[config.teacher.reference])]
        return found + ([builder.teacher(problem, reference=own)] if own else [])

    heading = len("\n\nYour analysis of this solution:\n")
    return Lengths(
        max(len(builder.student(p).ids) for p in problems),
        max(max(len(prompt.ids) for prompt in requests(problem)) + heading for problem in problems),
        max(len(policy.tokenizer.encode(target_text(p))) + 1 for p in problems),
    )


def spent_and_planned(directory: Path, settings: list[str], splits: Splits, skill: float) -> Any:
    policy = FakePolicy(skill=skill, gain=0.05)
    config = resolve(None, ["model=a-model", *settings])
    plan = token_plan(config, splits, exact_lengths(settings, splits, policy))
    with Run.create(directory, config, {"packages": {}}) as run:
        return train(policy, splits, run).tokens, plan


@pytest.mark.parametrize("trial", range(TRIALS))
def test_token_plan_is_an_upper_bound_of_the_ledger(trial: int, tmp_path: Path) -> None:
    rng = random.Random(f"token plan {trial}")
    settings = random_settings(rng)
    splits = replace(SPLITS, train=problem_set("train", range(rng.choice(TRAINED_ON))))
    # Some students are nearly always right or wrong, so that zero-variance groups are resampled.
    skill = rng.choice((0.0, 0.02, 0.5, 0.9))
    try:
        spent, plan = spent_and_planned(tmp_path / "run", settings, splits, skill)
    except PreflightFailed:  # an answer cut at 8 tokens is never right
        settings.append("preflight.enabled=false")
        spent, plan = spent_and_planned(tmp_path / "again", settings, splits, skill)
    for kind in KINDS:
        assert getattr(spent, kind) <= getattr(plan.most, kind), (kind, settings)


TIGHT = ["evaluation.max_new_tokens=8", "sampling.max_new_tokens=8", "train.patience=null"]


@pytest.mark.parametrize(
    "settings",
    [
        ["method=opsd", "train.passes=3"],
        ["method=opsd", "train.passes=3", "teacher.weights=live"],
        ["method=opsd", "train.curve=true", "train.steps=5", "train.evaluate_every=2"],
        ["method=grpo", "train.passes=2", "grpo.kl=0.1"],
        ["method=grpo", "grpo.zero_variance=resample", "grpo.resampling_rounds=2"],
        ["method=sft", "train.passes=2", "train.curve=true"],
    ],
    ids=" ".join,
)
def test_token_plan_equals_the_ledger_when_every_completion_is_truncated(
    settings: list[str], tmp_path: Path
) -> None:
    """With completions at their limit the counts of rollouts are exact, not merely bounds."""
    splits = replace(
        SPLITS,
        **{
            name: problem_set(name, range(start, start + 30))
            for name, start in (("train", 10), ("validation", 40), ("test", 70))
        },
    )
    settings = ["train.steps=4", "train.evaluate_every=2", *TIGHT, *settings]
    settings += ["train.questions_per_step=3", "preflight.enabled=false"]
    spent, plan = spent_and_planned(tmp_path / "run", settings, splits, skill=0.0)
    assert (spent.rollouts, spent.generated) == (plan.most.rollouts, plan.most.generated)
    # The best checkpoint is the first, so it is measured twice at most where there is no curve.
    short = 0 if "train.curve=true" in settings else 30 * 8
    assert spent.evaluation == plan.most.evaluation - short
    assert spent.teacher_scored <= plan.most.teacher_scored
    if "method=opsd" in settings:
        assert spent.teacher_scored > 0.9 * plan.most.teacher_scored
        assert spent.trained > 0.9 * plan.most.trained


def test_token_plan_trials_cover_every_method_and_setting() -> None:
    drawn = [random_settings(random.Random(f"token plan {trial}")) for trial in range(TRIALS)]
    wanted = itertools.product(
        ("method=opsd", "method=grpo", "method=hybrid"),
        ("teacher.reason_first=true", "train.curve=true", "grpo.zero_variance=resample"),
    )
    for method, hazard in wanted:
        assert any(method in settings and hazard in settings for settings in drawn)


def test_token_plan_of_hybrid_needs_no_teacher_once_its_share_is_zero(tmp_path: Path) -> None:
    settings = [
        "method=hybrid", "train.steps=6", "train.questions_per_step=4", "train.passes=2",
        "hybrid.decay_updates=4", "train.patience=null", "preflight.enabled=false",
    ]  # fmt: skip
    spent, plan = spent_and_planned(tmp_path / "run", settings, SPLITS, skill=0.5)
    always, planned = spent_and_planned(
        tmp_path / "always", [*settings, "hybrid.decay_updates=null"], SPLITS, skill=0.5
    )
    assert 0 < spent.teacher_scored < always.teacher_scored
    assert plan.most.teacher_scored * 3 == planned.most.teacher_scored
