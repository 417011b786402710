"""What holds a run near its beginning, added to the loss of every update (`train.anchor`).

    kl    anchor_weight * mean KL(p(. | x, y_<n) || p_0(. | x, y_<n))
    sft   anchor_weight * mean -log p(y*_n | x, y*_<n)

p is the student, p_0 the policy at the start of the run, x the student's prompt, y its own
completions, y* the reference solution; the means are `train.reduction`'s.

*kl* is exact over the vocabulary: a divergence batch whose teacher has the initial weights and the
student's own prompt. SDPG (arXiv 2606.04036) adds a KL term of this kind too; its code estimates it
from the sampled token, by default as (log p - log p_0)^2 / 2. *sft* is the loss of method sft. At
the published lengths, of about a hundred steps, OPSD's recipes have neither.

Each costs a second forward and backward pass in every update: kl of the completions, with one pass
of the initial policy a step, which does not change between updates, and sft of the references.
"""

from __future__ import annotations

from collections.abc import Sequence

from backends.interface import DivergenceBatch, DivergenceItem, LossBatch, Policy
from opsd_cli.config.schema import Config
from opsd_cli.losses.divergence import DivergenceSpec
from opsd_cli.losses.reduction import completion_weights
from opsd_cli.methods.base import NONE, RunSizes, StepInputs
from opsd_cli.methods.sft import supervised_batch, supervised_tokens
from opsd_cli.rollouts.types import GradedRollout
from opsd_cli.token_ledger import TokenLedger

#: The value of `train.anchor` that reads the references; every other one reads the rollouts.
SFT = "sft"


def anchor_batch(
    rollouts: Sequence[GradedRollout],
    inputs: StepInputs,
    policy: Policy,
    config: Config,
    updates: int,
) -> LossBatch | None:
    """The anchor's loss batch of a step; None without one.

    Args:
        rollouts: those that the step learns from.
        updates: optimiser updates of the step, each of which has the anchor.

    Raises:
        DataError: with sft, a training problem has no reference solution.
    """
    weight = config.train.anchor_weight
    if config.train.anchor == NONE or weight == 0:
        return None
    if config.train.anchor == SFT:
        return supervised_batch(inputs, policy, config, weight)
    lengths = [len(graded.rollout.completion_ids) for graded in rollouts]
    items = tuple(
        DivergenceItem(
            student_prompt=graded.rollout.request.prompt_ids,
            teacher_prompt=graded.rollout.request.prompt_ids,
            completion=graded.rollout.completion_ids,
            weight=weight * each,
            token_weights=graded.importance,
        )
        for graded, each in zip(
            rollouts, completion_weights(lengths, config.train.reduction), strict=True
        )
    )
    spec = DivergenceSpec("reverse_kl", temperature=config.divergence.temperature)
    return DivergenceBatch(items, spec, "initial", again=updates > 1)


def anchor_tokens(config: Config, sizes: RunSizes, updates: int) -> TokenLedger:
    """The most tokens that a run's anchor reads.

    Args:
        updates: optimiser updates a step.
    """
    if config.train.anchor == NONE or config.train.anchor_weight == 0:
        return TokenLedger()
    if config.train.anchor == SFT:
        return TokenLedger(trained=supervised_tokens(config, sizes) * updates)
    read = sizes.rollouts * sizes.student_sequence
    return TokenLedger(teacher_scored=read, trained=read * updates)


def keeps_initial_policy(config: Config, updates: int) -> bool:
    """True if the hidden states of the initial policy are kept from update to update.

    Args:
        updates: optimiser updates a step.
    """
    train = config.train
    return train.anchor not in (NONE, SFT) and train.anchor_weight > 0 and updates > 1
