"""What a step leaves behind: its row of `metrics.jsonl` and its lines of `rollouts.jsonl`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends.interface import BatchReport, Policy
from opsd_cli.config.schema import Config
from opsd_cli.evaluation.samples import judged
from opsd_cli.methods.base import LossPlan
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.rollouts.teacher_analysis import Taught
from opsd_cli.rollouts.types import GradedRollout, RolloutKey, StepRollouts
from opsd_cli.token_ledger import TokenLedger
from opsd_cli.tracking.listener import StepRow
from opsd_cli.training.collapse_metrics import (
    divergence_of_completions,
    loss_metrics,
    rollout_metrics,
)
from opsd_cli.training.state import RunState


@dataclass(frozen=True)
class Learnt:
    """What a step's updates report.

    Attributes:
        reports: one for each of the plan's batches.
        anchors: one for each of them too, of the plan's anchor; empty without one.
        grad_norm: the largest gradient norm of the updates, before clipping.
    """

    reports: list[BatchReport]
    anchors: list[BatchReport]
    grad_norm: float

    @property
    def loss(self) -> float:
        """The mean loss of an update, the anchor's included; 0 without an update."""
        loss = float(np.mean([report.loss for report in self.reports])) if self.reports else 0.0
        if self.anchors:
            loss += float(np.mean([report.loss for report in self.anchors]))
        return loss

    @property
    def tokens(self) -> TokenLedger:
        """Tokens that the updates have read."""
        reports = [*self.reports, *self.anchors]
        return TokenLedger(
            teacher_scored=sum(report.teacher_tokens for report in reports),
            trained=sum(report.trained_tokens for report in reports),
        )

    @property
    def metrics(self) -> dict[str, float]:
        """`anchor`: the mean of the anchor's tokens, in nats and without its weight."""
        found = [tokens.value for report in self.anchors for tokens in report.tokens]
        values_N = np.concatenate(found) if found else np.zeros(0)
        return {"anchor": float(values_N.mean())} if len(values_N) else {}


def step_tokens(rollouts: StepRollouts, plan: LossPlan, learnt: Learnt) -> TokenLedger:
    """All tokens of one step: sampled, compared, scored for the method, and trained on."""
    return plan.spent + rollouts.spent + rollouts.sampled + learnt.tokens


def step_row(
    config: Config,
    state: RunState,
    rollouts: StepRollouts,
    plan: LossPlan,
    learnt: Learnt,
    rate: float,
    builder: PromptBuilder,
    policy: Policy,
    taught: Mapping[RolloutKey, Taught | None],
) -> StepRow:
    """The row of the step that `state` has just completed.

    Args:
        learnt: of its updates.
        rate: the step's learning rate.
        builder: the prompts of training.
        taught: what the teacher read of each rollout.
    """
    seconds = rollouts.seconds if rollouts.everything else None
    return StepRow(
        step=state.step,
        steps=config.train.steps,
        loss=learnt.loss,
        grad_norm=learnt.grad_norm,
        learning_rate=rate,
        reward=rollouts.reward,
        metrics=_metrics(rollouts, plan, learnt, builder, policy, taught),
        ledger=state.ledger,
        seconds=state.seconds,
        cpu_seconds=state.cpu_seconds,
        tokens_per_second=rollouts.sampled.generated / seconds if seconds else None,
        memory_peak=policy.memory().peak,
    )


def _metrics(
    rollouts: StepRollouts,
    plan: LossPlan,
    learnt: Learnt,
    builder: PromptBuilder,
    policy: Policy,
    taught: Mapping[RolloutKey, Taught | None],
) -> dict[str, Any]:
    """A step's metrics beyond its loss and its tokens."""
    found: dict[str, Any] = {**plan.metrics, **learnt.metrics}
    if rollouts.graded:
        found |= rollout_metrics(
            [g.rollout for g in rollouts.graded],
            [g.text for g in rollouts.graded],
            [
                read.reference if (read := taught.get(g.key)) else g.problem.solution or ""
                for g in rollouts.graded
            ],
        )
    if any(g.numeric for g in rollouts.everything):
        found["correct"] = float(np.mean([bool(g.correct) for g in rollouts.everything]))
    if ungraded := sum(g.ungraded for g in rollouts.everything):
        found["ungraded"] = float(ungraded)
    found |= loss_metrics(plan.batches, learnt.reports, policy.tokenizer, policy.stop_ids)
    found["references_shortened"] = builder.shortened
    return found | rollouts.metrics


def rollout_rows(
    step: int,
    rollouts: StepRollouts,
    plan: LossPlan,
    reports: Sequence[BatchReport],
    builder: PromptBuilder,
    taught: Mapping[RolloutKey, Taught | None],
    contrasted: bool = False,
) -> list[dict[str, Any]]:
    """The lines of `rollouts.jsonl` of one step; `divergence` is a completion's mean, in nats.

    The first rollout of each question has the prompts as they were sent: `prompt`, and
    `teacher_prompt` where the teacher read one, with `contrast_prompt`, the one with the wrong
    reference, under `teacher.contrast`. Where each rollout has a reference of its own, right or
    wrong, each has both prompts, null for one without a reference.

    Args:
        builder: the student's prompts.
        taught: what the teacher read of each rollout of this step.
        contrasted: True under `teacher.contrast`.
    """
    divergence = divergence_of_completions(plan.batches, reports)
    return [
        {
            "step": step,
            "problem_id": g.problem.id,
            "sample_index": g.rollout.request.sample_index,
            "completion": g.text,
            "tokens": len(g.rollout.completion_ids),
            "finish_reason": g.rollout.finish_reason,
            "correct": g.correct,
            "divergence": divergence.get((g.rollout.request.prompt_ids, g.rollout.completion_ids)),
            **judged(g.score if g.numeric else None, g.feedback),
            **_prompts_of(g, builder, taught, contrasted),
        }
        for g in rollouts.everything
    ]


def _prompts_of(
    graded: GradedRollout,
    builder: PromptBuilder,
    taught: Mapping[RolloutKey, Taught | None],
    contrasted: bool,
) -> dict[str, str | None]:
    first = graded.rollout.request.sample_index == 0
    found: dict[str, str | None] = {}
    if first:
        found["prompt"] = builder.student(graded.problem).text
    if graded.key in taught:
        read = taught[graded.key]
        if read is None or read.own or first:
            found["teacher_prompt"] = None if read is None else read.prompt.text
            if contrasted:
                found["contrast_prompt"] = read.contrast.text if read and read.contrast else None
    return found
