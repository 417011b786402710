"""The teacher that reasons first: what it is asked, when, and what becomes of what it says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from backends.interface import DivergenceBatch, Rollout, RolloutRequest, Sampling
from opsd_cli import methods
from opsd_cli.config.schema import Config
from opsd_cli.errors import ConfigError
from opsd_cli.methods.base import StepInputs
from opsd_cli.problems import Problem
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.rollouts.teacher_analysis import TeacherAnalyst
from opsd_cli.rollouts.types import GradedRollout
from opsd_cli.token_ledger import TokenLedger
from tests.support.fakes import STOP, FakePolicy

PROBLEMS = [Problem(f"p{n}", f"{n} + 1", f"{n} + 1 = {n + 1}", str(n + 1), "made") for n in (1, 2)]


class Studious(FakePolicy):
    """Writes a numbered analysis, thoughts first, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, str, int, int]] = []

    def generate(
        self,
        requests: Sequence[RolloutRequest],
        sampling: Sampling,
        role: str = "student",
        teacher: str = "initial",
    ) -> Iterator[Rollout]:
        for request in requests:
            self.asked.append((role, teacher, sampling.max_new_tokens, request.seed))
            text = f"<think>hm</think> Because {len(self.asked)}.<|im_end|>"
            ids = tuple(self.tokenizer.encode(text))
            yield Rollout(request, ids, np.zeros(len(ids), np.float32), "stop")


def made(**sections: Any) -> tuple[Config, PromptBuilder, TeacherAnalyst, Studious]:
    config = Config(**{"teacher": {"reason_first": True, "analysis_tokens": 99}, **sections})
    builder, policy = PromptBuilder(config, FakePolicy.tokenizer), Studious()
    return config, builder, TeacherAnalyst(config, policy, builder), policy


def graded(builder: PromptBuilder, seed: int) -> list[GradedRollout]:
    return [
        GradedRollout(
            Rollout(
                RolloutRequest(p.id, index, builder.student(p).ids, seed),
                (9, STOP), np.zeros(2, np.float32), "stop",
            ),
            p, "", True,
        )
        for p in PROBLEMS
        for index in range(2)
    ]  # fmt: skip


def test_an_analysis_joins_the_teachers_prompt_and_is_paid_for() -> None:
    _, builder, analyst, policy = made()
    teacher = analyst.prompts(PROBLEMS)
    assert [asked[:3] for asked in policy.asked] == [("teacher", "initial", 99)] * 2
    text = teacher.of(PROBLEMS[0]).text
    assert text.index("1 + 1 = 2") < text.index("Because 1.") < text.index("[solution ends]")
    assert "hm" not in text
    written = sum(len(policy.tokenizer.encode("<think>hm</think> Because 1.<|im_end|>"))
                  for _ in PROBLEMS)  # fmt: skip
    read = sum(len(builder.analysis_request(problem).ids) for problem in PROBLEMS)
    assert teacher.spent == TokenLedger(generated=written, prompt=read)
    assert analyst.prompts(PROBLEMS).spent == TokenLedger()


def test_nothing_is_asked_where_it_is_off() -> None:
    _, _, analyst, policy = made(teacher={})
    assert analyst.prompts(PROBLEMS).spent == TokenLedger() and not policy.asked


def test_a_teacher_that_learns_studies_anew_at_every_step() -> None:
    config, builder, analyst, policy = made(teacher={"reason_first": True, "weights": "live"})
    method = methods.get(config)
    seen = []
    for seed in (5, 6):
        plan = method.build_loss(
            StepInputs(1, PROBLEMS, graded(builder, seed), builder, analyst), policy
        )
        (batch,) = plan.batches
        assert isinstance(batch, DivergenceBatch)
        seen.append({item.teacher_prompt for item in batch.items})
        assert plan.spent.generated > 0
    assert len(policy.asked) == 4 and len({asked[3] for asked in policy.asked}) == 2
    assert not seen[0] & seen[1]


@pytest.mark.parametrize("method", ["opsd", "hybrid"])
def test_methods_with_a_teacher_study_each_problem_once(method: str) -> None:
    config, builder, analyst, policy = made(method=method)
    rollouts = graded(builder, 5)
    rollouts[0] = GradedRollout(rollouts[0].rollout, PROBLEMS[0], "", False)
    inputs = StepInputs(1, PROBLEMS, rollouts, builder, analyst)
    spent = methods.get(config).build_loss(inputs, policy).spent
    # The hybrid has no use for a teacher where all of a question's rollouts are right.
    assert len(policy.asked) == (2 if method == "opsd" else 1)
    assert spent.generated > 0


def test_a_template_says_where_the_analysis_goes() -> None:
    template = "{analysis} / {question} / {solution}"
    _, _, analyst, _ = made(prompts={"teacher": {"template": template}})
    text = analyst.prompts(PROBLEMS).of(PROBLEMS[0]).text
    assert "Because 1. / 1 + 1 / 1 + 1 = 2" in text


def test_control_tokens_in_an_analysis_stay_text() -> None:
    _, builder, _, _ = made()
    text = builder.teacher(PROBLEMS[0], "so <|im_end|> it is").text
    assert text.count("<|im_end|>") == 1


def test_the_analysis_template_must_have_its_places() -> None:
    with pytest.raises((ConfigError, ValueError), match="analysis_template"):
        Config(prompts={"teacher": {"analysis_template": "why?"}})  # type: ignore[arg-type]
