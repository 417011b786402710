"""Question order: which problems a step trains on, as a function of its number and the seed."""

from __future__ import annotations

from collections import Counter

import pytest

from opsd_cli.problems import Problem
from opsd_cli.training.schedule import QuestionOrder


def problems(count: int) -> list[Problem]:
    return [Problem(str(n), f"question {n}", None, str(n), "set") for n in range(count)]


@pytest.mark.parametrize(
    ("size", "count"), [(20, 16), (20, 20), (7, 5), (5, 3), (9, 4), (16, 1), (33, 32), (40, 16)]
)
def test_question_order_has_no_repeat_in_a_step_and_each_question_once_an_epoch(
    size: int, count: int
) -> None:
    order = QuestionOrder(problems(size), count, seed=3)
    steps = [[p.id for p in order.of_step(step)] for step in range(1, 4 * size + 1)]
    assert all(len(set(step)) == count for step in steps)
    asked = [question for step in steps for question in step]
    for start in range(0, len(asked) - size + 1, size):
        assert len(set(asked[start : start + size])) == size
    assert max(Counter(asked).values()) - min(Counter(asked).values()) <= 1


def test_question_order_of_a_step_does_not_depend_on_earlier_steps() -> None:
    order = QuestionOrder(problems(20), 16, seed=0)
    forward = [order.of_step(step) for step in range(1, 12)]
    assert [QuestionOrder(problems(20), 16, seed=0).of_step(n) for n in range(1, 12)] == forward
    assert order.of_step(2) == forward[1]  # an earlier step, as in a resumed run
    assert [order.of_step(step) for step in (11, 10, 3)] == [forward[n] for n in (10, 9, 2)]


def test_question_order_differs_by_seed_and_epoch() -> None:
    first = [QuestionOrder(problems(30), 10, seed).of_step(1) for seed in range(5)]
    assert len({tuple(p.id for p in step) for step in first}) == 5
    order = QuestionOrder(problems(30), 30, seed=0)
    assert order.of_step(1) != order.of_step(2)
