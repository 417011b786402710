"""The sibling of a rollout: another rollout of its question that was graded right in the same step.

The teacher reads it in place of a worked solution (`teacher.reference: sibling`), so that questions
with an answer alone are enough. It is in the model's own words (SDPO, arXiv 2601.20802).
"""

from __future__ import annotations

from collections.abc import Sequence

from opsd_cli.prompts.references import Reference
from opsd_cli.prompts.rendering import after_thinking
from opsd_cli.rollouts.types import GradedRollout
from opsd_cli.seeds import derive_seed


def sibling_of(
    graded: GradedRollout, group: Sequence[GradedRollout], choice: str
) -> Reference | None:
    """The text of a right rollout among a question's rollouts, without its think block.

    A rollout never has itself for a sibling, nor one with the same text, from which the teacher
    could copy the scored completion token by token.

    Args:
        graded: the rollout that is scored.
        group: all rollouts of its question in the step.
        choice: `teacher.sibling`. Of equal lengths, in tokens, the lowest sample index is chosen.

    Returns:
        None if there is no such rollout.
    """
    own = after_thinking(graded.text)
    others = [
        (len(other.rollout.completion_ids), after_thinking(other.text))
        for other in sorted(group, key=lambda each: each.rollout.request.sample_index)
        if other.correct and other.key != graded.key
    ]
    seed = derive_seed(graded.rollout.request.seed, "sibling")
    text = chosen([each for each in others if each[1] not in ("", own)], choice, seed)
    return None if text is None else Reference(text, "sibling")


def chosen(candidates: Sequence[tuple[int, str]], choice: str, seed: int) -> str | None:
    """The text of one of several right completions; None if there are none.

    Args:
        candidates: length in tokens and text of each; of equal lengths the first is chosen.
        choice: `teacher.sibling`: shortest, longest or random.
        seed: for a random choice.
    """
    if not candidates:
        return None
    if choice == "random":
        return candidates[seed % len(candidates)][1]
    sign = -1 if choice == "longest" else 1
    return min(candidates, key=lambda each: sign * each[0])[1]
