"""On-policy self-distillation (OPSD, arXiv 2601.18734, equation of section 3).

    L = E_x E_{y ~ p_S(.|x)} [ 1/|y| sum_n D(p_T(.|x, y*, y_<n) || p_S(.|x, y_<n)) ]

The student's own completion is scored under both prompts, whether it is right or wrong: no grade
enters the loss, unless `train.learn_from` leaves out the rollouts of one grade. With
`teacher.reference: sibling` y* is another completion of the question that was graded right, with
`feedback` it is what the grader said of y, and a completion without one is left out. The means are
over the completions that are learnt from. Reduction `sequences` is the formula above; `tokens`, as
in the paper's code, divides by the step's token count instead, which gives long completions more
weight.

With `teacher.model` p_T is another model of the same vocabulary; with `teacher.reference: none` as
well y* is empty, which is on-policy distillation (GKD, arXiv 2306.13649).

With `train.passes` above 1 a step takes several updates on the same completions. They are then
slightly off-policy, but the divergence on them is still exact, and a teacher whose weights do not
change reads them once.

With `divergence.vocabulary` "sampled", only the sampled token is compared: its log-ratio of teacher
to student is an advantage, held constant, in a policy gradient. Its expectation is the gradient of
the reverse KL, estimated from one token where the full vocabulary gives it exactly. With
`teacher.contrast` the log-probability under a wrong reference takes the student's place in the
log-ratio (RLCSD, arXiv 2606.11709): what any reference does to the teacher's style is cancelled.

"no_teacher" is a control without a teacher (`opsd_cli.methods.without_teacher`).

Tokens can be weighed (`divergence.weigh`: `opsd_cli.losses.token_weights`), questions by their pass
rate (`train.weigh_groups`: `opsd_cli.methods.pass_rates`), and an anchor can hold the student near
its beginning (`train.anchor`: `opsd_cli.methods.anchor`). Token weights are computed once a step,
and multiply importance weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from backends.interface import (
    FIXED_TEACHERS,
    DivergenceBatch,
    DivergenceItem,
    Policy,
    PolicyGradientBatch,
    PolicyGradientItem,
)
from opsd_cli.config.schema import Config
from opsd_cli.errors import ConfigError
from opsd_cli.losses.reduction import completion_weights
from opsd_cli.methods.anchor import SFT, anchor_batch, anchor_tokens
from opsd_cli.methods.base import NONE, LossPlan, Method, Needs, RunSizes, StepInputs
from opsd_cli.methods.chosen import chosen_rollouts
from opsd_cli.methods.pass_rates import (
    PASS_RATE,
    group_weights,
    weighed_completions,
    zero_variance_metric,
)
from opsd_cli.methods.scores import (
    token_gaps,
    tokens_read_for_scores,
    tokens_read_to_weigh,
    weighed_tokens,
)
from opsd_cli.methods.without_teacher import control_plan
from opsd_cli.prompts.references import SIBLING
from opsd_cli.prompts.rendering import Prompt
from opsd_cli.rollouts.contrast import WRONG_ROLLOUT
from opsd_cli.rollouts.types import GradedRollout
from opsd_cli.token_ledger import TokenLedger

#: Completions of each question with `teacher.reference: sibling`, where `rollouts.per_question` is
#: not set: as many as a group of GRPO has.
SIBLINGS = 8


class Opsd(Method):
    """Divergence between the teacher and the student over the student's rollouts.

    Raises:
        ConfigError: as `Method`; `train.weigh_groups` is set for one rollout a question; weights
            are set for the control without a teacher; or a wrong reference for anything but the
            sampled vocabulary.
    """

    name = "opsd"
    needs = Needs(teacher=True)
    headline = "tested"
    distils = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config.teacher.contrast != NONE and not self._sampled:
            raise ConfigError(
                f"teacher.contrast is {config.teacher.contrast}, and divergence.vocabulary="
                f"{config.divergence.vocabulary} has no place for a wrong reference",
                "set divergence.vocabulary=sampled, or --method hybrid",
            )
        if self._control and (self._weighs_groups or config.divergence.weigh != NONE):
            key = "train.weigh_groups" if self._weighs_groups else "divergence.weigh"
            raise ConfigError(
                f"{key} weighs what a teacher teaches, and divergence.vocabulary=no_teacher has no "
                "teacher",
                f"leave {key} out",
            )
        if self._weighs_groups and self.rollouts_per_question() == 1:
            raise ConfigError(
                "train.weigh_groups=pass_rate needs several rollouts of a question, and "
                "rollouts.per_question is 1",
                "set rollouts.per_question=8, or leave train.weigh_groups out",
            )

    def rollouts_per_question(self) -> int:
        teacher = self._config.teacher
        siblings = teacher.reference == SIBLING or teacher.contrast == WRONG_ROLLOUT
        return self._config.rollouts.per_question or (SIBLINGS if siblings else 1)

    def updates_per_step(self) -> int:
        return 1 if self._sampled or self._control else self._config.train.passes

    def steps_with_teacher(self) -> int:
        return 0 if self._control else super().steps_with_teacher()

    def reads_solutions(self) -> bool:
        return super().reads_solutions() or self._config.train.anchor == SFT

    def build_loss(self, inputs: StepInputs, policy: Policy) -> LossPlan:
        config = self._config
        chosen, metrics = chosen_rollouts(inputs.rollouts, config.train.learn_from)
        groups: dict[tuple[str, str], float] = {}
        if self._weighs_groups and inputs.rollouts:
            groups = group_weights(inputs.rollouts)
            metrics |= zero_variance_metric(groups)
            chosen = [graded for graded in chosen if groups[graded.problem.key]]
        if not chosen:
            return LossPlan((), metrics=metrics)
        if self._control:
            plan = control_plan(chosen, policy, config)
            anchor = anchor_batch(chosen, inputs, policy, config, self.updates_per_step())
            return replace(plan, metrics=metrics, anchor=anchor)
        teacher = inputs.analyst.of_rollouts(chosen, inputs.rollouts)
        metrics |= teacher.metrics
        # Without a reference there is nothing to learn from a rollout: it is not in the mean.
        taught = [(graded, prompt) for graded in chosen if (prompt := teacher.of(graded))]
        if not taught:
            return LossPlan((), teacher.spent, metrics)
        rollouts = [graded for graded, _ in taught]
        lengths = [len(graded.rollout.completion_ids) for graded in rollouts]
        weights = completion_weights(lengths, config.train.reduction)
        if groups:
            factors = [groups[graded.problem.key] for graded in rollouts]
            weights = weighed_completions(weights, factors, lengths)
        items = [
            DivergenceItem(
                student_prompt=graded.rollout.request.prompt_ids,
                teacher_prompt=prompt.ids,
                completion=graded.rollout.completion_ids,
                weight=weight,
                token_weights=graded.importance,
            )
            for (graded, prompt), weight in zip(taught, weights, strict=True)
        ]
        if self._sampled:
            wrong = [teacher.contrast_of(graded) for graded in rollouts]
            plan = self._policy_gradient(items, rollouts, policy, wrong)
        else:
            plan = self._divergence(items, rollouts, policy)
        return replace(
            plan,
            spent=plan.spent + teacher.spent,
            metrics=plan.metrics | metrics,
            anchor=anchor_batch(rollouts, inputs, policy, config, self.updates_per_step()),
        )

    def tokens_read(self, sizes: RunSizes) -> TokenLedger:
        student = sizes.rollouts * sizes.student_sequence
        teacher = sizes.rollouts * sizes.teacher_sequence
        updates = self.updates_per_step()
        more = tokens_read_to_weigh(self._config, sizes)
        more += anchor_tokens(self._config, sizes, updates)
        if self._control:
            return more + tokens_read_for_scores(self._config, sizes) + TokenLedger(trained=student)
        if self._config.teacher.contrast != NONE:
            return more + TokenLedger(teacher_scored=2 * teacher, trained=student)
        if self._sampled:
            return more + TokenLedger(teacher_scored=teacher, scored=student, trained=student)
        # A teacher that does not change scores a batch once, however many passes train on it.
        readings = 1 if self._config.teacher.acting in FIXED_TEACHERS else updates
        return more + TokenLedger(teacher_scored=teacher * readings, trained=student * updates)

    @property
    def _sampled(self) -> bool:
        """True if only the sampled token is compared, not the full vocabulary."""
        return self._config.divergence.vocabulary == "sampled"

    @property
    def _control(self) -> bool:
        """True for the control that asks no teacher."""
        return self._config.divergence.vocabulary == "no_teacher"

    @property
    def _weighs_groups(self) -> bool:
        return self._config.train.weigh_groups == PASS_RATE

    def _divergence(
        self, items: Sequence[DivergenceItem], rollouts: Sequence[GradedRollout], policy: Policy
    ) -> LossPlan:
        config, passes = self._config, self._config.train.passes
        weighed = weighed_tokens(items, rollouts, policy, config)
        if weighed.weights is not None:
            items = [
                replace(item, token_weights=graded.with_importance(weights_N.tolist()))
                for item, graded, weights_N in zip(items, rollouts, weighed.weights, strict=True)
            ]
        batch = DivergenceBatch(
            tuple(items), config.divergence.spec(), config.teacher.acting, again=passes > 1
        )
        return LossPlan((batch,) * passes, weighed.spent, weighed.metrics)

    def _policy_gradient(
        self,
        items: Sequence[DivergenceItem],
        rollouts: Sequence[GradedRollout],
        policy: Policy,
        wrong: Sequence[Prompt | None],
    ) -> LossPlan:
        temperature = self._config.divergence.temperature
        gaps, spent = token_gaps(items, wrong, policy, self._config, temperature)
        weighed = weighed_tokens(items, rollouts, policy, self._config, gaps)
        advantages = gaps
        if weighed.weights is not None:
            advantages = [g * w for g, w in zip(gaps, weighed.weights, strict=True)]
        learnt = tuple(
            PolicyGradientItem(
                item.student_prompt,
                item.completion,
                graded.with_importance(advantage_N.tolist()),
                item.weight,
            )
            for item, graded, advantage_N in zip(items, rollouts, advantages, strict=True)
        )
        gap = sum(i.weight * float(gap_N.sum()) for i, gap_N in zip(items, gaps, strict=True))
        metrics = {"sampled_reverse_kl": -gap} if wrong[0] is None else {"contrast_gap": gap}
        return LossPlan(
            (PolicyGradientBatch(learnt, temperature),),
            spent + weighed.spent,
            {**metrics, **weighed.metrics},
        )
