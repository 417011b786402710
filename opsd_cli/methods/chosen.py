"""The rollouts that a step learns from, chosen by their grades (`train.learn_from`).

The grade decides what is distilled. Correct rollouts alone shorten the answers of a thinking model
and keep its accuracy; incorrect ones alone lower it (arXiv 2605.06188). Others distil failed
rollouts and reward correct ones (SRPO, arXiv 2604.02288), so the choice is a setting to compare.
"""

from __future__ import annotations

from collections.abc import Sequence

from opsd_cli.rollouts.types import GradedRollout

#: The value of `train.learn_from` that leaves no rollout out.
ALL = "all"


def chosen_rollouts(
    rollouts: Sequence[GradedRollout], learn_from: str
) -> tuple[Sequence[GradedRollout], dict[str, float]]:
    """The rollouts that are learnt from, in order, and the metric `learnt_share`.

    Args:
        rollouts: those of one step.
        learn_from: `train.learn_from`.

    Returns:
        The chosen rollouts, and their share of all; no metric where none is left out by rule.
    """
    if learn_from == ALL:
        return rollouts, {}
    wanted = learn_from == "correct"
    chosen = [graded for graded in rollouts if graded.correct == wanted]
    return chosen, {"learnt_share": len(chosen) / len(rollouts) if rollouts else 0.0}
