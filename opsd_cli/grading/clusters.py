r"""Clusters of equivalent answers, for majority votes.

`\frac12`, 0.5 and 1/2 are one answer, so a vote by text would split the majority. The grader that
decides correctness also decides equivalence: an answer joins the first cluster whose first member
it matches.
"""

from __future__ import annotations

from collections.abc import Sequence

from opsd_cli.grading import Grader


def clusters(groups: Sequence[Sequence[str | None]], grader: Grader) -> list[list[int | None]]:
    """Cluster the answers of each group.

    All groups are processed together, with one comparison an answer and round, so that the grader's
    workers stay busy; a group with m clusters takes m rounds.

    Args:
        groups: the answers to one problem each; None for a sample without an answer.

    Returns:
        For each group the cluster number of each answer; None for None.
    """
    numbers: list[dict[str, int]] = [{} for _ in groups]
    waiting = [list(dict.fromkeys(a for a in group if a is not None)) for group in groups]
    found = 0
    while any(waiting):
        pairs: list[tuple[str, str]] = []
        for place, answers in enumerate(waiting):
            if answers:
                numbers[place][answers[0]] = found
                pairs += [(answers[0], other) for other in answers[1:]]
        grades = iter(grader.compare(pairs))
        for place, answers in enumerate(waiting):
            left = []
            for other in answers[1:]:
                if next(grades).correct:
                    numbers[place][other] = found
                else:
                    left.append(other)
            waiting[place] = left
        found += 1
    return [
        [None if answer is None else number[answer] for answer in group]
        for group, number in zip(groups, numbers, strict=True)
    ]
