"""Which weights the methods ask for where another model teaches, and the prompts it reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backends.interface import DivergenceBatch, Rollout, RolloutRequest
from opsd_cli import methods
from opsd_cli.config.schema import Config
from opsd_cli.methods.base import RunSizes, StepInputs
from opsd_cli.problems import Problem
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.prompts.other_model import OtherModel
from opsd_cli.rollouts.teacher_analysis import TeacherAnalyst
from opsd_cli.rollouts.types import GradedRollout
from tests.support.fakes import STOP, FakePolicy, ScoringPolicy
from tests.support.small_tokenizers import CharacterTokenizer

PROBLEM = Problem("p", "1 + 1", "1 + 1 = 2", "2", "made")


class Shouting(CharacterTokenizer):
    """The chat template of another model, with the same ids."""

    def render_chat(self, messages: Any, generation_prompt: bool, **arguments: Any) -> str:
        return super().render_chat(messages, generation_prompt, **arguments).upper()


@pytest.fixture(autouse=True)
def shouting(monkeypatch: pytest.MonkeyPatch) -> None:
    """`teacher.model` has another chat template, and a context of 400."""
    other = OtherModel(Shouting(), 400)
    monkeypatch.setattr("opsd_cli.prompts.builder.other_model", lambda config: other)


def config_of(method: str = "opsd", reference: str = "none", **sections: Any) -> Config:
    teacher = {"model": "org/teacher", "reference": reference}
    return Config.model_validate({"method": method, "teacher": teacher, **sections})


def learnt(config: Config, policy: FakePolicy) -> Any:
    builder = PromptBuilder(config, policy.tokenizer)
    rollouts = [
        GradedRollout(
            Rollout(
                RolloutRequest("p", index, builder.student(PROBLEM).ids, index),
                (10, 11, STOP), np.zeros(3, np.float32), "stop",
            ),
            PROBLEM, "", bool(index),
        )
        for index in range(2)
    ]  # fmt: skip
    inputs = StepInputs(1, [PROBLEM], rollouts, builder, TeacherAnalyst(config, policy, builder))
    return methods.get(config).build_loss(inputs, policy)


def test_opsd_reads_the_question_alone_by_the_teachers_own_chat_template() -> None:
    config = config_of(train={"passes": 2})
    plan = learnt(config, FakePolicy())
    assert [batch.teacher for batch in plan.batches] == ["model", "model"]
    batch = plan.batches[0]
    assert isinstance(batch, DivergenceBatch) and batch.again
    item = batch.items[0]
    student = FakePolicy.tokenizer.decode(item.student_prompt)
    assert FakePolicy.tokenizer.decode(item.teacher_prompt) == student.upper() != student
    # The teacher does not change, so it reads a batch once for both passes.
    sizes = RunSizes(4, student_sequence=10, teacher_sequence=20, student_prompt=5, reference=9)
    read = methods.get(config).tokens_read(sizes)
    assert (read.teacher_scored, read.trained) == (80, 80)


def test_teacher_prompt_of_another_model_has_the_reference_and_its_own_context() -> None:
    config = config_of(
        reference="solution",
        sampling={"max_new_tokens": 100},
        prompts={"teacher": {"template": "{question} with {solution}"}},
    )
    builder = PromptBuilder(config, FakePolicy.tokenizer, context_limit=10_000)
    prompt = builder.teacher(PROBLEM)
    assert "1 + 1 WITH 1 + 1 = 2" in prompt.text and not prompt.shortened
    long = Problem("q", "1 + 1", "x" * 400, "2", "made")
    fitted = builder.teacher(long)
    assert fitted.shortened and len(fitted.ids) <= 300  # the context less a completion


def test_hybrid_asks_the_other_model_and_its_penalty_the_initial_weights() -> None:
    policy = ScoringPolicy()
    learnt(config_of("hybrid", grpo={"kl": 0.1}), policy)
    weights = [(asked.role, asked.teacher) for asked in policy.asked]
    assert weights == [("teacher", "model"), ("student", "initial"), ("teacher", "initial")]


def test_sampled_divergence_asks_the_other_model() -> None:
    policy = ScoringPolicy()
    learnt(config_of(divergence={"vocabulary": "sampled", "kind": "reverse_kl"}), policy)
    assert ("teacher", "model") in [(asked.role, asked.teacher) for asked in policy.asked]
