"""Which right rollout of a question the teacher reads for another one."""

from __future__ import annotations

import numpy as np
import pytest

from backends.interface import Rollout, RolloutRequest
from opsd_cli.problems import Problem
from opsd_cli.prompts.references import Reference
from opsd_cli.rollouts.siblings import sibling_of
from opsd_cli.rollouts.types import GradedRollout

PROBLEM = Problem("p", "1 + 1", None, "2", "made")


def group(*rollouts: tuple[str, int, bool]) -> list[GradedRollout]:
    """Rollouts of one question, each with its text, its length in tokens and its grade."""
    return [
        GradedRollout(
            Rollout(
                RolloutRequest("p", index, (1,), 100 + index), tuple(range(length)),
                np.zeros(length, np.float32), "stop",
            ),
            PROBLEM, text, correct,
        )
        for index, (text, length, correct) in enumerate(rollouts)
    ]  # fmt: skip


def siblings(rollouts: list[GradedRollout], choice: str = "shortest") -> list[str | None]:
    found = [sibling_of(each, rollouts, choice) for each in rollouts]
    assert all(each is None or each.kind == "sibling" for each in found)
    return [each and each.text for each in found]


def test_the_shortest_right_rollout_is_the_sibling_of_all_others() -> None:
    made = group(("a", 9, True), ("b", 1, False), ("c", 4, True), ("d", 7, True))
    assert siblings(made) == ["c", "c", "d", "c"]
    assert siblings(made, "longest") == ["d", "a", "a", "a"]


def test_rollouts_of_equal_length_are_taken_by_sample_index_in_any_order() -> None:
    made = group(("a", 4, True), ("b", 4, True), ("c", 4, False))
    for choice in ("shortest", "longest"):
        assert siblings(made, choice) == ["b", "a", "a"]
        assert siblings(made[::-1], choice) == ["a", "a", "b"]


def test_the_only_right_rollout_has_no_sibling_and_a_wrong_one_is_none() -> None:
    assert siblings(group(("a", 4, True), ("b", 2, False))) == [None, "a"]
    assert siblings(group(("a", 4, False), ("b", 2, False))) == [None, None]


def test_a_rollout_of_the_same_text_is_no_sibling() -> None:
    assert siblings(group(("a", 4, True), ("a", 4, True), ("b", 9, True))) == ["b", "b", "a"]
    assert siblings(group(("a", 4, True), ("a", 4, True))) == [None, None]


def test_the_think_block_of_a_sibling_is_removed() -> None:
    made = group(("<think>hm</think> so 2", 9, True), ("b", 1, False), ("<think></think>", 2, True))
    assert siblings(made) == [None, "so 2", "so 2"]


def test_a_random_sibling_depends_on_the_seed_of_the_rollout_alone() -> None:
    made = group(*((str(n), n + 1, True) for n in range(6)), *[("w", 1, False)] * 30)
    found = siblings(made, "random")
    assert found == siblings(made, "random")
    assert set(found[6:]) == set("012345")
    assert all(text != str(n) for n, text in enumerate(found[:6]))


@pytest.mark.parametrize("choice", ["shortest", "longest", "random"])
def test_a_sibling_is_a_reference(choice: str) -> None:
    made = group(("a", 4, True), ("b", 2, False))
    assert sibling_of(made[1], made, choice) == Reference("a", "sibling")
