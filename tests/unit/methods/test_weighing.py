"""Token weights, pass-rate weights and the anchor of opsd, with a policy that has no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from backends.interface import (
    DivergenceBatch,
    PolicyGradientBatch,
    Rollout,
    RolloutRequest,
)
from opsd_cli import methods
from opsd_cli.config.schema import Config
from opsd_cli.errors import ConfigError, DataError
from opsd_cli.losses.token_weights import token_weights
from opsd_cli.methods.base import LossPlan, RunSizes
from opsd_cli.problems import Problem
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.rollouts.types import GradedRollout
from tests.support.fakes import STOP, FakePolicy, ScoringPolicy
from tests.support.method_steps import PROBLEMS, loss_plan_of

#: What the sampler, the student's forward pass and the teacher's give the tokens of a completion.
SAMPLED, STUDENT, TEACHER = (-0.5, -0.25, -1.0), (-0.6, -0.25, -1.0), (-0.1, -1.25, -1.0)


class Scored(ScoringPolicy):
    """Gives the first three tokens the log-probabilities above, and entropies of 1, 2, 3."""

    def log_probs(self, prompt: str, completion: tuple[int, ...], role: str) -> np.ndarray:
        return np.array((TEACHER if role == "teacher" else STUDENT)[: len(completion)])

    def measure(self, batch: Any) -> Any:
        report = super().measure(batch)
        ramps = [np.arange(1.0, 1 + len(item.completion)) for item in batch.items]
        tokens = [
            replace(each, student_entropy=ramp)
            for each, ramp in zip(report.tokens, ramps, strict=True)
        ]
        return replace(report, tokens=tuple(tokens))


def config_of(**sections: Any) -> Config:
    plain = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
    divergence = {"temperature": 1.0, **sections.pop("divergence", {})}
    return Config.model_validate(
        {"method": "opsd", "sampling": plain, "divergence": divergence, **sections}
    )


def rolled(
    verdicts: dict[str, Sequence[bool]], config: Config, importance: tuple[float, ...] = ()
) -> list[GradedRollout]:
    """Rollouts of three tokens, and of the given grades, question by question."""
    builder = PromptBuilder(config, FakePolicy.tokenizer)
    made = []
    for problem in PROBLEMS:
        for index, correct in enumerate(verdicts.get(problem.id, ())):
            request = RolloutRequest(problem.id, index, builder.student(problem).ids, 0)
            ids = (10 + index, 20, STOP)
            rollout = Rollout(request, ids, np.array(SAMPLED, np.float32), "stop")
            made.append(GradedRollout(rollout, problem, "", correct, importance))
    return made


def learn(
    config: Config,
    rollouts: Sequence[GradedRollout],
    policy: Scored | None = None,
    questions: Sequence[Problem] = PROBLEMS,
) -> LossPlan:
    return loss_plan_of(config, rollouts, policy or Scored(), questions=questions)


def roles_asked(policy: Scored) -> list[str]:
    return [asked.role for asked in policy.asked]


def weights_of(plan: LossPlan) -> list[tuple[float, ...]]:
    batch = plan.batches[0]
    assert isinstance(batch, DivergenceBatch)
    return [item.token_weights for item in batch.items]


@pytest.mark.parametrize(
    ("name", "asked", "gap"),
    [
        ("position", [], None),
        # The sampler draws from the student's own distribution: its numbers are the student's.
        ("gap", ["teacher"], np.subtract(TEACHER, SAMPLED)),
        ("drift", ["teacher"], np.subtract(TEACHER, SAMPLED)),
        ("entropy", ["measure"], None),
    ],
)
def test_opsd_weighs_tokens_once_a_step_and_counts_what_it_reads_in_the_ledger(
    name: str, asked: list[str], gap: Any
) -> None:
    config = config_of(divergence={"weigh": name}, train={"passes": 2})
    policy = Scored()
    rollouts = rolled({"p0": [True]}, config)
    plan = learn(config, rollouts, policy)
    wanted = token_weights(name, None, 3, np.zeros(0) if gap is None else gap, np.array([1, 2, 3]))
    assert len(plan.batches) == 2 and plan.batches[0] is plan.batches[1]
    np.testing.assert_allclose(weights_of(plan)[0], wanted, rtol=1e-5)
    assert plan.metrics == {"token_weight_max": pytest.approx(wanted.max(), rel=1e-5)}
    assert roles_asked(policy) == asked
    student = len(rollouts[0].rollout.request.prompt_ids) + 3
    assert plan.spent.scored == (student if name == "entropy" else 0)
    assert (plan.spent.teacher_scored > student) == (gap is not None)


def test_opsd_asks_the_student_for_the_gap_where_the_sampler_drew_from_another_distribution() -> (
    None
):
    config = config_of(divergence={"weigh": "gap", "temperature": 1.3})
    policy = Scored()
    plan = learn(config, rolled({"p0": [True]}, config), policy)
    wanted = token_weights("gap", None, 3, np.subtract(TEACHER, STUDENT))
    np.testing.assert_allclose(weights_of(plan)[0], wanted, rtol=1e-5)
    assert roles_asked(policy) == ["teacher", "student"] and plan.spent.scored > 0


def test_token_weights_multiply_importance_weights() -> None:
    config = config_of(divergence={"weigh": "position"})
    plan = learn(config, rolled({"p0": [True]}, config, importance=(0.5, 1.0, 2.0)))
    wanted = token_weights("position", None, 3) * (0.5, 1.0, 2.0)
    np.testing.assert_allclose(weights_of(plan)[0], wanted)


def test_token_weights_multiply_the_advantages_of_the_sampled_token_without_another_pass() -> None:
    config = config_of(divergence={"weigh": "drift", "vocabulary": "sampled"})
    policy = Scored()
    (batch,) = learn(config, rolled({"p0": [True]}, config), policy).batches
    gap = np.subtract(TEACHER, STUDENT)
    assert isinstance(batch, PolicyGradientBatch)
    wanted = gap * token_weights("drift", None, 3, gap)
    np.testing.assert_allclose(batch.items[0].advantages, wanted, rtol=1e-5)
    assert roles_asked(policy) == ["teacher", "student"]


def test_opsd_without_weighing_asks_nothing_and_has_no_token_weights() -> None:
    config = config_of()
    policy = Scored()
    plan = learn(config, rolled({"p0": [True], "p1": [False]}, config), policy)
    assert roles_asked(policy) == [] and weights_of(plan) == [(), ()]
    assert plan.anchor is None and plan.metrics == {} and plan.spent.scored == 0


def test_weigh_by_is_refused_where_a_weight_would_be_negative() -> None:
    with pytest.raises(ValidationError, match="weigh_by is 2, and position takes at most 1"):
        config_of(divergence={"weigh": "position", "weigh_by": 2})
    assert config_of(divergence={"weigh": "gap", "weigh_by": 20}).divergence.weigh_by == 20


VERDICTS = {"p0": [True, False], "p1": [True, True], "p2": [True, False, False, False]}


@pytest.mark.parametrize("reduction", ["tokens", "sequences"])
def test_pass_rate_weighs_questions_and_leaves_zero_variance_groups_out(reduction: str) -> None:
    config = config_of(
        rollouts={"per_question": 2},
        train={"weigh_groups": "pass_rate", "reduction": reduction},
    )
    plan = learn(config, rolled(VERDICTS, config))
    (batch,) = plan.batches
    assert isinstance(batch, DivergenceBatch) and len(batch.items) == 6
    weights = [item.weight for item in batch.items]
    assert sum(weights) * 3 == pytest.approx(1)
    assert weights[0] / weights[2] == pytest.approx(0.5 / np.sqrt(0.25 * 0.75))
    assert plan.metrics == {"zero_variance_groups": pytest.approx(1 / 3)}


def test_pass_rate_of_all_rollouts_counts_where_learn_from_leaves_some_out() -> None:
    config = config_of(
        rollouts={"per_question": 2},
        train={"weigh_groups": "pass_rate", "learn_from": "correct"},
    )
    plan = learn(config, rolled(VERDICTS, config))
    weights = [item.weight for item in plan.batches[0].items]
    assert len(weights) == 2
    assert weights[0] / weights[1] == pytest.approx(0.5 / np.sqrt(0.25 * 0.75))


def test_pass_rate_with_zero_variance_groups_alone_asks_the_teacher_nothing() -> None:
    config = config_of(rollouts={"per_question": 2}, train={"weigh_groups": "pass_rate"})
    plan = learn(config, rolled({"p0": [True, True], "p1": [False, False]}, config))
    assert plan.batches == () and plan.metrics == {"zero_variance_groups": 1.0}
    assert plan.spent.teacher_scored == 0


def test_pass_rate_is_refused_for_one_rollout_a_question() -> None:
    with pytest.raises(ConfigError, match="several rollouts of a question") as caught:
        methods.get(config_of(train={"weigh_groups": "pass_rate"}))
    assert "rollouts.per_question=8" in caught.value.hint
    siblings = config_of(train={"weigh_groups": "pass_rate"}, teacher={"reference": "sibling"})
    assert methods.get(siblings).rollouts_per_question() == 8


def test_kl_anchor_compares_the_students_own_rollouts_with_the_initial_teacher() -> None:
    config = config_of(
        divergence={"weigh": "position"},
        teacher={"weights": "ema"},
        train={"anchor": "kl", "anchor_weight": 0.5, "passes": 2},
    )
    plan = learn(config, rolled({"p0": [True], "p1": [False]}, config))
    anchor = plan.anchor
    assert isinstance(anchor, DivergenceBatch) and len(plan.batches) == 2
    assert anchor.teacher == "initial" and anchor.spec.kind == "reverse_kl"
    assert anchor.again  # the initial policy reads the rollouts once for both passes
    one = learn(config.model_copy(update={"train": config.train.model_copy(update={"passes": 1})}),
                rolled({"p0": [True]}, config)).anchor  # fmt: skip
    assert isinstance(one, DivergenceBatch) and not one.again
    for item, main in zip(anchor.items, plan.batches[0].items, strict=True):
        assert item.teacher_prompt == item.student_prompt == main.student_prompt
        assert item.completion == main.completion and item.token_weights == ()
        assert item.weight == 0.5 * main.weight


def test_sft_anchor_is_the_loss_of_sft_times_its_weight() -> None:
    config = config_of(train={"anchor": "sft", "anchor_weight": 0.25})
    anchor = learn(config, rolled({"p0": [True]}, config)).anchor
    (whole,) = learn(config_of(method="sft"), []).batches
    assert isinstance(anchor, PolicyGradientBatch) and isinstance(whole, PolicyGradientBatch)
    assert [i.completion for i in anchor.items] == [i.completion for i in whole.items]
    assert [i.weight for i in anchor.items] == [0.25 * i.weight for i in whole.items]


def test_sft_anchor_needs_solutions_where_the_teacher_does_not() -> None:
    answers = {"teacher": {"reference": "answer"}}
    assert not methods.get(config_of(**answers)).reads_solutions()
    config = config_of(train={"anchor": "sft"}, **answers)
    assert methods.get(config).reads_solutions()
    bare = [replace(problem, solution=None) for problem in PROBLEMS]
    with pytest.raises(DataError, match="no reference solution"):
        learn(config, rolled({"p0": [True]}, config), questions=bare)


@pytest.mark.parametrize("method", ["grpo", "sft", "hybrid"])
@pytest.mark.parametrize(("key", "value"), [("anchor", "kl"), ("weigh_groups", "pass_rate")])
def test_anchor_and_pass_rates_are_refused_for_other_methods_than_opsd(
    method: str, key: str, value: str
) -> None:
    with pytest.raises(ConfigError, match=f"train.{key} is {value}, and {method}") as caught:
        methods.get(config_of(method=method, train={key: value}))
    assert f"methods: {{opsd: {{train: {{{key}: {value}}}}}}}" in caught.value.hint


@pytest.mark.parametrize(
    ("sections", "teacher", "scored", "trained"),
    [
        ({"divergence": {"weigh": "position"}}, 20, 0, 3 * 10),
        ({"divergence": {"weigh": "gap"}}, 2 * 20, 0, 3 * 10),
        ({"divergence": {"weigh": "gap", "temperature": 1.1}}, 2 * 20, 10, 3 * 10),
        ({"divergence": {"weigh": "entropy"}}, 20, 10, 3 * 10),
        ({"divergence": {"weigh": "gap", "vocabulary": "sampled"}}, 20, 10, 10),
        ({"train": {"anchor": "kl"}}, 20 + 10, 0, 6 * 10),
        ({"train": {"anchor": "sft"}}, 20, 0, 3 * 10 + 3 * 2 * (4 + 5)),
    ],
)
def test_token_plan_counts_what_weights_and_anchors_read(
    sections: dict[str, Any], teacher: int, scored: int, trained: int
) -> None:
    train = {"passes": 3, "steps": 2, "questions_per_step": 1, **sections.pop("train", {})}
    method = methods.get(config_of(train=train, **sections))
    read = method.tokens_read(RunSizes(1, 10, 20, 4, 5))
    assert (read.teacher_scored, read.scored, read.trained) == (teacher, scored, trained)


def test_control_without_a_teacher_gives_the_least_probable_tokens_a_negative_advantage() -> None:
    config = config_of(divergence={"vocabulary": "no_teacher", "temperature": 1.2})
    policy = Scored()
    plan = learn(config, rolled({"p0": [True, False], "p1": [False, True]}, config), policy)
    (batch,) = plan.batches
    assert isinstance(batch, PolicyGradientBatch) and batch.temperature == 1.2
    # A fifth of twelve tokens is two; the third token of each completion is the least probable.
    advantages = [item.advantages for item in batch.items]
    assert advantages == [(0.0, 0.0, -1.0)] * 2 + [(0.0, 0.0, 0.0)] * 2
    assert {item.weight for item in batch.items} == {0.5}
    assert roles_asked(policy) == ["student"] and plan.spent.teacher_scored == 0 < plan.spent.scored
    method = methods.get(config)
    assert method.steps_with_teacher() == 0 and method.updates_per_step() == 1
    read = method.tokens_read(RunSizes(1, 10, 20, 4, 5))
    assert (read.teacher_scored, read.scored, read.trained) == (0, 10, 10)


def test_control_without_a_teacher_refuses_weights() -> None:
    control = {"vocabulary": "no_teacher"}
    with pytest.raises(ConfigError, match=r"divergence\.weigh weighs what"):
        methods.get(config_of(divergence={**control, "weigh": "gap"}))
    grouped = {"divergence": control, "train": {"weigh_groups": "pass_rate"}}
    with pytest.raises(ConfigError, match=r"train\.weigh_groups weighs what"):
        methods.get(config_of(rollouts={"per_question": 4}, **grouped))
