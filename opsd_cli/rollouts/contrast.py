"""A wrong reference for the teacher, to contrast the right one with (RLCSD, arXiv 2606.11709).

Whatever a prompt holds beside the question changes how the teacher writes: shorter, more direct.
The same happens with a wrong reference in the same words. So with `teacher.contrast` a token's
signal is log p_T(token | right) - log p_T(token | wrong), in which that part is cancelled. The
paper takes the mean probability under several wrong rollouts; here it is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from opsd_cli.prompts.references import Reference
from opsd_cli.prompts.rendering import after_thinking
from opsd_cli.rollouts.siblings import chosen
from opsd_cli.rollouts.types import GradedRollout, RolloutKey
from opsd_cli.seeds import derive_seed

#: Values of `teacher.contrast`.
NONE, WRONG_ROLLOUT, OTHER_PROBLEM = "none", "wrong_rollout", "other_problem"


def wrong_rollout(
    graded: GradedRollout, step: Sequence[GradedRollout], kind: Reference
) -> Reference | None:
    """Another rollout of the question that was graded wrong, chosen at random by the seed.

    A rollout never has itself for a hint, nor one with the same text.

    Args:
        graded: the rollout that is scored.
        step: all rollouts of the step.
        kind: the right reference, in whose words the wrong one is put.

    Returns:
        None if there is no such rollout.
    """
    own = after_thinking(graded.text)
    others = [
        (len(other.rollout.completion_ids), after_thinking(other.text))
        for other in sorted(step, key=lambda each: each.rollout.request.sample_index)
        if other.problem.key == graded.problem.key
        and not (other.correct or other.ungraded or other.key == graded.key)
    ]
    seed = derive_seed(graded.rollout.request.seed, "contrast")
    text = chosen([each for each in others if each[1] not in ("", own)], "random", seed)
    return None if text is None else Reference(text, kind.kind)


def other_problem(
    graded: GradedRollout, references: Mapping[RolloutKey, Reference]
) -> Reference | None:
    """The reference of the next question of the step whose reference has another text.

    Args:
        graded: the rollout that is scored.
        references: the right reference of each rollout, in the order of the step.

    Returns:
        None if there is no such question.
    """
    keys = list(references)
    place = keys.index(graded.key)
    for key in (*keys[place + 1 :], *keys[:place]):
        if key[:2] != graded.problem.key and references[key].text != references[graded.key].text:
            return Reference(references[key].text, references[graded.key].kind)
    return None
