"""On-policy self-distillation (OPSD, arXiv 2601.18734, equation of section 3).

    L = E_x E_{y ~ p_S(.|x)} [ 1/|y| sum_n D(p_T(.|x, y*, y_<n) || p_S(.|x, y_<n)) ]

The student's own completion is scored under both prompts, whether it is right or wrong: no grade
enters the loss, unless `train.learn_from` leaves out the rollouts of one grade. With
`teacher.reference: sibling` y* is another completion of the question that was graded right, with
`feedback` it is what the grader said of y, and a completion without one is left out. The means are
over the completions that are learnt from. Reduction `sequences` is the formula above; `tokens`, as
in the paper's code, divides by the step's token count instead, which gives long completions more
weight.

With `train.passes` above 1 a step takes several updates on the same completions. They are then
slightly off-policy, but the divergence on them is still exact, and a teacher of initial weights
reads them once.

With `divergence.vocabulary` "sampled", only the sampled token is compared: its log-ratio of teacher
to student is an advantage, held constant, in a policy gradient. Its expectation is the gradient of
the reverse KL, estimated from one token where the full vocabulary gives it exactly. With
`teacher.contrast` the log-probability under a wrong reference takes the student's place in the
log-ratio (RLCSD, arXiv 2606.11709): what any reference does to the teacher's style is cancelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from backends.interface import (
    DivergenceBatch,
    DivergenceItem,
    Policy,
    PolicyGradientBatch,
    PolicyGradientItem,
    Sampling,
)
from opsd_cli.config.schema import Config
from opsd_cli.errors import ConfigError
from opsd_cli.losses.reduction import completion_weights
from opsd_cli.methods.base import LossPlan, Method, Needs, RunSizes, StepInputs
from opsd_cli.methods.chosen import chosen_rollouts
from opsd_cli.prompts.references import SIBLING
from opsd_cli.prompts.rendering import Prompt
from opsd_cli.rollouts.contrast import NONE, WRONG_ROLLOUT
from opsd_cli.rollouts.types import GradedRollout
from opsd_cli.token_ledger import TokenLedger

#: Completions of each question with `teacher.reference: sibling`, where `rollouts.per_question` is
#: not set: as many as a group of GRPO has.
SIBLINGS = 8


class Opsd(Method):
    """Divergence between the teacher and the student over the student's rollouts."""

    name = "opsd"
    needs = Needs(teacher=True)
    headline = "tested"
    distils = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config.teacher.contrast != NONE and not self._sampled:
            raise ConfigError(
                f"teacher.contrast is {config.teacher.contrast}, and the divergence over the full "
                "vocabulary has no place for a wrong reference",
                "set divergence.vocabulary=sampled, or --method hybrid",
            )

    def rollouts_per_question(self) -> int:
        teacher = self._config.teacher
        siblings = teacher.reference == SIBLING or teacher.contrast == WRONG_ROLLOUT
        return self._config.rollouts.per_question or (SIBLINGS if siblings else 1)

    def updates_per_step(self) -> int:
        return 1 if self._sampled else self._config.train.passes

    def build_loss(self, inputs: StepInputs, policy: Policy) -> LossPlan:
        chosen, learnt = chosen_rollouts(inputs.rollouts, self._config.train.learn_from)
        if not chosen:
            return LossPlan((), metrics=learnt)
        teacher = inputs.analyst.of_rollouts(chosen, inputs.rollouts)
        metrics = learnt | teacher.metrics
        # Without a reference there is nothing to learn from a rollout: it is not in the mean.
        taught = [(graded, prompt) for graded in chosen if (prompt := teacher.of(graded))]
        if not taught:
            return LossPlan((), teacher.spent, metrics)
        rollouts = [graded for graded, _ in taught]
        lengths = [len(graded.rollout.completion_ids) for graded in rollouts]
        weights = completion_weights(lengths, self._config.train.reduction)
        items = tuple(
            DivergenceItem(
                student_prompt=graded.rollout.request.prompt_ids,
                teacher_prompt=prompt.ids,
                completion=graded.rollout.completion_ids,
                weight=weight,
                token_weights=graded.importance,
            )
            for (graded, prompt), weight in zip(taught, weights, strict=True)
        )
        if self._sampled:
            wrong = [teacher.contrast_of(graded) for graded in rollouts]
            plan = self._policy_gradient(items, rollouts, policy, teacher.spent, wrong)
            return replace(plan, metrics=plan.metrics | metrics)
        passes = self._config.train.passes
        batch = DivergenceBatch(
            items, self._config.divergence.spec(), self._config.teacher.weights, again=passes > 1
        )
        return LossPlan((batch,) * passes, teacher.spent, metrics)

    def tokens_read(self, sizes: RunSizes) -> TokenLedger:
        student = sizes.rollouts * sizes.student_sequence
        teacher = sizes.rollouts * sizes.teacher_sequence
        if self._config.teacher.contrast != NONE:
            return TokenLedger(teacher_scored=2 * teacher, trained=student)
        if self._sampled:
            return TokenLedger(teacher_scored=teacher, scored=student, trained=student)
        passes = self._config.train.passes
        # An initial teacher scores a batch once, however many passes train on it.
        readings = 1 if self._config.teacher.weights == "initial" else passes
        return TokenLedger(teacher_scored=teacher * readings, trained=student * passes)

    @property
    def _sampled(self) -> bool:
        """True if only the sampled token is compared, not the full vocabulary."""
        return self._config.divergence.vocabulary == "sampled"

    def _policy_gradient(
        self,
        items: Sequence[DivergenceItem],
        rollouts: Sequence[GradedRollout],
        policy: Policy,
        analyses: TokenLedger,
        wrong: Sequence[Prompt | None],
    ) -> LossPlan:
        temperature = self._config.divergence.temperature
        gaps, spent = token_gaps(items, wrong, policy, self._config, temperature)
        learnt = tuple(
            PolicyGradientItem(
                item.student_prompt,
                item.completion,
                graded.with_importance(gap_N.tolist()),
                item.weight,
            )
            for item, graded, gap_N in zip(items, rollouts, gaps, strict=True)
        )
        gap = sum(i.weight * float(gap_N.sum()) for i, gap_N in zip(items, gaps, strict=True))
        return LossPlan(
            (PolicyGradientBatch(learnt, temperature),),
            spent + analyses,
            {"sampled_reverse_kl": -gap} if wrong[0] is None else {"contrast_gap": gap},
        )


def token_gaps(
    items: Sequence[DivergenceItem],
    wrong: Sequence[Prompt | None],
    policy: Policy,
    config: Config,
    temperature: float,
) -> tuple[list[np.ndarray], TokenLedger]:
    """The teacher's log-probability of each token minus the student's, and what that costs.

    Args:
        wrong: with `teacher.contrast`, each item's teacher prompt with a wrong reference; the
            log-probability under it takes the student's place. Otherwise None for each.

    Returns:
        float32 [N] an item, in nats, and the tokens read.
    """
    contrast = [
        (prompt.ids, item.completion)
        for prompt, item in zip(wrong, items, strict=True)
        if prompt is not None
    ]
    if not contrast:
        teacher, student, spent = teacher_and_student_scores(items, policy, config, temperature)
        return [t - s for t, s in zip(teacher, student, strict=True)], spent
    right = [(item.teacher_prompt, item.completion) for item in items]
    scores = [
        policy.score(pairs, "teacher", config.teacher.weights, Sampling(temperature))
        for pairs in (right, contrast)
    ]
    read = sum(len(prompt) + len(completion) for prompt, completion in (*right, *contrast))
    return [r - w for r, w in zip(*scores, strict=True)], TokenLedger(teacher_scored=read)


def teacher_and_student_scores(
    items: Sequence[DivergenceItem], policy: Policy, config: Config, temperature: float
) -> tuple[list[np.ndarray], list[np.ndarray], TokenLedger]:
    """Log-probabilities of every completion's tokens under both prompts, and what they cost.

    Returns:
        The teacher's and the student's, float32 [N] an item, and the tokens read.
    """
    sampling = Sampling(temperature)
    teacher = policy.score(
        [(item.teacher_prompt, item.completion) for item in items],
        "teacher",
        config.teacher.weights,
        sampling,
    )
    student = policy.score(
        [(item.student_prompt, item.completion) for item in items], sampling=sampling
    )
    spent = TokenLedger(
        teacher_scored=sum(len(i.teacher_prompt) + len(i.completion) for i in items),
        scored=sum(len(i.student_prompt) + len(i.completion) for i in items),
    )
    return teacher, student, spent
