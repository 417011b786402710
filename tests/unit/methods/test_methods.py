"""What each method makes of a step's rollouts, with a policy that has no model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from backends.interface import (
    DivergenceBatch,
    PolicyGradientBatch,
    Rollout,
    RolloutRequest,
)
from opsd_cli import methods
from opsd_cli.config.schema import Config
from opsd_cli.errors import ConfigError, DataError
from opsd_cli.methods.base import LossPlan
from opsd_cli.methods.grpo import advantages
from opsd_cli.methods.hybrid import Hybrid, redistributed
from opsd_cli.methods.sft import target_text
from opsd_cli.problems import Problem
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.rollouts.types import GradedRollout
from tests.support.fakes import STOP, FakePolicy, ScoringPolicy
from tests.support.method_steps import PROBLEMS, loss_plan_of


class Scored(ScoringPolicy):
    """Finds every token likelier with the reference than without, by `gap` nats."""

    gap = math.log(1.2)

    def log_probs(self, prompt: str, completion: tuple[int, ...], role: str) -> np.ndarray:
        return np.full(len(completion), -1.0 + self.gap * (role == "teacher"))

    @property
    def calls(self) -> list[tuple[str, str, float, int]]:
        """Role, teacher's weights, temperature and sequences of each call."""
        return [(a.role, a.teacher, a.temperature, len(a.prompts)) for a in self.asked]


def config_of(method: str, **sections: Any) -> Config:
    return Config(method=method, **{"sampling": {"temperature": 0.8}, **sections})  # type: ignore[arg-type]


def rolled(verdicts: dict[str, Sequence[bool]], config: Config) -> list[GradedRollout]:
    """Rollouts of the given verdicts, question by question, of different lengths."""
    builder = PromptBuilder(config, FakePolicy.tokenizer)
    made = []
    for problem in PROBLEMS:
        for index, correct in enumerate(verdicts.get(problem.id, ())):
            ids = (*range(10, 10 + 2 * index + 1), STOP)
            request = RolloutRequest(problem.id, index, builder.student(problem).ids, 0)
            rollout = Rollout(request, ids, np.zeros(len(ids), np.float32), "stop")
            made.append(GradedRollout(rollout, problem, "", correct))
    return made


def learn(
    config: Config,
    rollouts: Sequence[GradedRollout],
    policy: FakePolicy | None = None,
    step: int = 1,
    questions: Sequence[Problem] = PROBLEMS,
) -> LossPlan:
    return loss_plan_of(config, rollouts, policy or Scored(), step, questions)


def test_advantages_of_a_group() -> None:
    values = advantages([1, 0, 0, 0], "group")
    assert values.sum() == pytest.approx(0)
    assert values[0] == pytest.approx(0.75 / (0.5 + 1e-4))
    np.testing.assert_allclose(advantages([1, 0, 0, 0], "none"), [0.75, -0.25, -0.25, -0.25])
    assert not advantages([1, 1, 1], "group").any()
    assert not advantages([1], "group").any()


@pytest.mark.parametrize(
    ("loss", "weights"),
    [("grpo", [1 / 4, 1 / 8]), ("dapo", [1 / 6, 1 / 6]), ("dr_grpo", [1 / 20, 1 / 20])],
)
def test_grpo_loss_sets_the_completion_weights(loss: str, weights: list[float]) -> None:
    config = config_of("grpo", grpo={"loss": loss}, sampling={"max_new_tokens": 10})
    (batch,) = learn(config, rolled({"p0": [True, False]}, config)).batches
    assert [item.weight for item in batch.items] == weights


def test_grpo_leaves_flat_groups_out_of_the_passes_but_not_of_the_mean() -> None:
    config = config_of("grpo")
    rollouts = rolled({"p0": [True, False], "p1": [True, True], "p2": [False, False]}, config)
    plan = learn(config, rollouts)
    (batch,) = plan.batches
    assert isinstance(batch, PolicyGradientBatch)
    assert [len(item.completion) for item in batch.items] == [2, 4]
    assert [item.weight for item in batch.items] == [1 / (2 * 6), 1 / (4 * 6)]
    assert batch.items[0].advantages[0] > 0 > batch.items[1].advantages[0]
    assert batch.temperature == 0.8 and batch.items[0].old_log_probs == ()
    assert plan.metrics == {"zero_variance_groups": pytest.approx(2 / 3)}
    assert plan.spent.scored == 0


def test_grpo_with_nothing_to_learn_has_no_batch() -> None:
    config = config_of("grpo")
    assert learn(config, rolled({"p0": [True, True]}, config)).batches == ()


def test_grpo_passes_keep_the_old_log_probs() -> None:
    config = config_of("grpo", train={"passes": 2}, grpo={"minibatches": 2, "clip_high": 0.28})
    policy = Scored()
    rollouts = rolled({name: [True, False] for name in ("p0", "p1", "p2")}, config)
    plan = learn(config, rollouts, policy)
    assert [len(batch.items) for batch in plan.batches] == [4, 2, 4, 2]
    assert policy.calls == [("student", "initial", 0.8, 6)]
    assert all(len(i.old_log_probs) == len(i.completion) for i in plan.batches[0].items)
    assert isinstance(plan.batches[0], PolicyGradientBatch)
    assert plan.batches[0].clip_high == 0.28
    # Each minibatch is a mean of its own.
    for batch in plan.batches:
        assert sum(i.weight * len(i.completion) for i in batch.items) == pytest.approx(1)
    assert plan.spent.scored == sum(
        len(g.rollout.request.prompt_ids) + len(g.rollout.completion_ids) for g in rollouts
    )


def test_grpo_with_a_penalty_reads_flat_groups_too() -> None:
    config = config_of("grpo", grpo={"kl": 0.1})
    policy = Scored()
    plan = learn(config, rolled({"p0": [True, True]}, config), policy)
    assert [len(batch.items) for batch in plan.batches] == [2]
    assert policy.calls == [("teacher", "initial", 0.8, 2)]
    assert all(i.initial_log_probs for i in plan.batches[0].items)


def test_opsd_covers_every_rollout_with_weights_of_one() -> None:
    for reduction in ("tokens", "sequences"):
        config = config_of("opsd", train={"reduction": reduction})
        (batch,) = learn(config, rolled({"p0": [True], "p1": [False, True]}, config)).batches
        assert isinstance(batch, DivergenceBatch) and len(batch.items) == 3
        assert sum(i.weight * len(i.completion) for i in batch.items) == pytest.approx(1)


def test_opsd_passes_learn_from_the_same_rollouts_again() -> None:
    config = config_of("opsd", train={"passes": 3})
    batches = learn(config, rolled({"p0": [True]}, config)).batches
    assert len(batches) == 3 and batches[0] == batches[1] == batches[2]


def test_sampled_token_opsd_is_a_policy_gradient_of_the_log_ratio() -> None:
    config = config_of("opsd", divergence={"vocabulary": "sampled", "temperature": 1.3})
    policy = Scored()
    plan = learn(config, rolled({"p0": [True]}, config), policy)
    (batch,) = plan.batches
    assert isinstance(batch, PolicyGradientBatch) and batch.temperature == 1.3
    assert batch.items[0].advantages == pytest.approx([Scored.gap] * 2)
    assert policy.calls == [("teacher", "initial", 1.3, 1), ("student", "initial", 1.3, 1)]
    assert plan.spent.teacher_scored > plan.spent.scored > 0
    assert plan.metrics["sampled_reverse_kl"] == pytest.approx(-Scored.gap)


def test_hybrid_keeps_the_verdicts_sign_and_takes_the_teachers_size() -> None:
    gap = np.array([2.0, 0.1, 0.0, -0.1, -2.0])
    for advantage in (1.5, -0.7):
        values = np.array(redistributed(advantage, gap, mix=1.0, spread=0.5))
        assert (np.sign(values) == np.sign(advantage)).all()
        assert values[2] == pytest.approx(advantage)
        grows = np.abs(values) if advantage > 0 else np.abs(values)[::-1]
        assert (np.diff(grows) < 0).all()
        assert np.abs(values).max() == pytest.approx(1.5 * abs(advantage))
        assert redistributed(advantage, gap, mix=0.0, spread=0.5) == pytest.approx([advantage] * 5)
    assert np.isfinite(redistributed(1.0, np.array([1e6, -1e6]), 1.0, 0.5)).all()


def test_hybrid_asks_the_teacher_only_where_there_is_a_sign() -> None:
    config = config_of("hybrid", hybrid={"mix": 1.0})
    policy = Scored()
    rollouts = rolled({"p0": [True, False], "p1": [True, True]}, config)
    (batch,) = learn(config, rollouts, policy).batches
    assert [asked[3] for asked in policy.calls] == [2, 2]
    right, wrong = batch.items
    plain = advantages([1, 0], "group")
    assert right.advantages == pytest.approx([plain[0] * 1.2] * 2)
    assert wrong.advantages == pytest.approx([plain[1] / 1.2] * 4)


def test_hybrid_leaves_the_teacher_behind_over_so_many_updates() -> None:
    config = config_of(
        "hybrid",
        hybrid={"mix": 0.5, "spread": 0.2, "decay_updates": 50},
        train={"passes": 2},
    )
    shares = [Hybrid(config).mix(step) for step in (1, 2, 13, 25, 26, 400)]
    assert shares == pytest.approx([0.5, 0.48, 0.26, 0.02, 0.0, 0.0])
    assert Hybrid(config_of("hybrid")).mix(400) == 0.5
    rollouts = rolled({"p0": [True, False]}, config)
    plain = advantages([1, 0], "group")
    for step, share in ((1, 0.5), (13, 0.26), (26, 0.0)):
        plan = learn(config, rollouts, step=step)
        assert plan.metrics["teacher_mix"] == pytest.approx(share)
        batch = plan.batches[0]
        assert isinstance(batch, PolicyGradientBatch)
        # The gap is log 1.2: a weight of 1.2 for the right one, of 1/1.2 for the wrong one.
        assert batch.items[0].advantages[0] == pytest.approx(plain[0] * (1 + share * 0.2))
        assert (plan.spent.teacher_scored > 0) == (share > 0)


def test_sft_learns_the_reference_with_its_answer_and_end() -> None:
    config = config_of("sft")
    method = methods.get(config)
    assert method.rollouts_per_question() == 0 and not method.needs.teacher
    (batch,) = learn(config, []).batches
    assert isinstance(batch, PolicyGradientBatch) and len(batch.items) == len(PROBLEMS)
    item = batch.items[1]
    assert item.completion[-1] == STOP and set(item.advantages) == {1.0}
    text = FakePolicy.tokenizer.decode(item.completion)
    assert text == "1 + 1 = 2\n\\boxed{2}<|im_end|>"
    assert batch.temperature == 1.0
    boxed = Problem("b", "q", r"so \boxed{5}", "5", "made")
    assert target_text(boxed) == r"so \boxed{5}"
    with pytest.raises(DataError, match="no reference solution"):
        target_text(Problem("n", "q", None, "5", "made"))


def test_a_completion_is_cut_to_the_context() -> None:
    config = config_of("sft")
    policy = Scored()
    prompt = len(PromptBuilder(config, policy.tokenizer).student(PROBLEMS[0]).ids)
    policy.context_limit = prompt + 4
    (batch,) = learn(config, [], policy, questions=PROBLEMS[:1]).batches
    assert len(batch.items[0].completion) == 4
    limited = config_of("sft", sft={"max_tokens": prompt + 2})
    (batch,) = learn(limited, []).batches
    assert isinstance(batch, PolicyGradientBatch)
    assert [len(item.completion) for item in batch.items] == [2] * len(PROBLEMS)
    assert learn(config_of("sft", sft={"max_tokens": prompt}), []).batches == ()


@pytest.mark.parametrize(("method", "default"), [("opsd", 1), ("grpo", 8), ("hybrid", 8)])
def test_completions_a_question(method: str, default: int) -> None:
    assert methods.get(config_of(method)).rollouts_per_question() == default
    chosen = config_of(method, rollouts={"per_question": 4})
    assert methods.get(chosen).rollouts_per_question() == 4


def test_learn_from_chooses_the_rollouts_by_grade_and_weighs_them_among_themselves() -> None:
    verdicts = {"p0": [True], "p1": [False, True], "p2": [False]}
    for learn_from, lengths in (("correct", [2, 4]), ("incorrect", [2, 2])):
        config = config_of("opsd", train={"learn_from": learn_from})
        plan = learn(config, rolled(verdicts, config))
        (batch,) = plan.batches
        assert isinstance(batch, DivergenceBatch)
        assert [len(item.completion) for item in batch.items] == lengths
        assert [item.weight for item in batch.items] == [1 / sum(lengths)] * 2
        assert plan.metrics == {"learnt_share": 0.5}


def test_learn_from_all_is_the_whole_step_without_a_metric() -> None:
    config = config_of("opsd")
    plan = learn(config, rolled({"p0": [True], "p1": [False]}, config))
    assert len(plan.batches[0].items) == 2 and plan.metrics == {}


def test_learn_from_applies_to_the_sampled_token_and_to_every_pass() -> None:
    sampled = config_of(
        "opsd", divergence={"vocabulary": "sampled"}, train={"learn_from": "correct"}
    )
    plan = learn(sampled, rolled({"p0": [True], "p1": [False]}, sampled))
    assert [len(batch.items) for batch in plan.batches] == [1]
    assert plan.metrics.keys() == {"learnt_share", "sampled_reverse_kl"}
    twice = config_of("opsd", train={"learn_from": "correct", "passes": 2})
    plan = learn(twice, rolled({"p0": [True], "p1": [False]}, twice))
    assert [len(batch.items) for batch in plan.batches] == [1, 1]


def test_learn_from_asks_the_teacher_nothing_about_rollouts_that_are_left_out() -> None:
    config = config_of("opsd", train={"learn_from": "correct"})
    plan = learn(config, rolled({"p0": [False], "p1": [False]}, config))
    assert plan.batches == () and plan.metrics == {"learnt_share": 0.0}
    assert plan.spent.teacher_scored == 0


@pytest.mark.parametrize("method", ["grpo", "sft", "hybrid"])
def test_learn_from_is_refused_where_completions_cannot_be_left_out(method: str) -> None:
    with pytest.raises(ConfigError, match=f"learn_from is correct, and {method}") as caught:
        methods.get(config_of(method, train={"learn_from": "correct"}))
    assert "methods: {opsd: {train: {learn_from: correct}}}" in caught.value.hint
