"""Successive halving: which arms go on, in how many rounds, and at what cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from opsd_cli.comparison.halving import (
    FRACTION,
    Halving,
    decide,
    halving_of,
    kept_of,
    validation_of,
)
from opsd_cli.comparison.planned_tokens import halving_cost
from opsd_cli.config.resolve import resolve
from opsd_cli.config.schema import Config
from opsd_cli.errors import RunError, UsageError
from opsd_cli.files.jsonl_log import Log
from opsd_cli.planning.token_plan import Lengths, plan_of_sizes
from opsd_cli.training import run_directory


def arms(number: int, steps: int = 16, every: int = 2) -> dict[str, Config]:
    config = resolve(None, [f"train.steps={steps}", f"train.evaluate_every={every}"])
    return {label: config for label in "abcdefghi"[:number]}


def values(**right: int) -> dict[str, np.ndarray]:
    """Arms by the number of problems, of 40, that each has right."""
    return {label: (np.arange(40) < number) * 1.0 for label, number in right.items()}


@pytest.mark.parametrize(
    ("number", "rounds", "pauses"),
    [
        (3, None, [8]),
        (5, None, [8]),
        (9, None, [4, 8]),
        (5, 3, [2, 4, 8]),
        (4, 7, [2, 4, 6, 8, 10, 12, 14]),
    ],
)
def test_halving_rounds_end_at_validated_steps(
    number: int, rounds: int | None, pauses: list[int]
) -> None:
    found = halving_of(arms(number), "a", rounds)
    assert list(found.pauses["a"]) == pauses
    assert found.rounds == len(pauses)
    assert Halving.of_plan({"halving": found.as_dict()}) is not None


def test_halving_takes_the_same_share_of_each_arm_s_own_steps() -> None:
    configs = arms(2) | {"grpo": resolve(None, ["train.steps=40", "train.evaluate_every=10"])}
    assert {label: tuple(steps) for label, steps in halving_of(configs, "a").pauses.items()} == {
        "a": (8,), "b": (8,), "grpo": (20,),
    }  # fmt: skip


def test_halving_keeps_a_share_and_at_least_two() -> None:
    assert [kept_of(n, FRACTION) for n in (2, 3, 4, 5, 8, 9)] == [2, 2, 2, 3, 4, 5]
    assert kept_of(10, 0.3) == 3 and kept_of(10, 0.1) == 2


@pytest.mark.parametrize(
    ("configs", "rounds", "fraction", "message", "hint"),
    [
        (arms(2), None, 0.5, "there are 2", "three arms"),
        (arms(4, every=16), None, 0.5, "a has 0 validations", "train.evaluate_every"),
        (arms(4, every=8), 2, 0.5, "1 validation before its last step", "--halving-rounds"),
        (arms(4), None, 0.9, "ends none of 4 arms", "0.5"),
    ],
)
def test_halving_refuses(
    configs: Mapping[str, Config], rounds: int | None, fraction: float, message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        halving_of(configs, "a", rounds, fraction)
    assert message in caught.value.message and hint in caught.value.hint


def test_halving_ends_the_worse_arms_and_never_the_base() -> None:
    configs = arms(5)
    halving = halving_of(configs, "a")
    found = decide(values(a=2, b=30, c=12, d=34, e=29), halving, 1, configs)
    assert list(found) == ["c", "e"]  # the base, d and b go on
    ended = found["c"]
    assert (ended.round, ended.step, ended.steps, ended.than) == (1, 8, 16, "b")
    assert ended.validation == 12 / 40 and ended.than_validation == 30 / 40
    assert ended.difference["value"] == pytest.approx(-18 / 40)
    assert ended.base_difference["value"] == pytest.approx(10 / 40)


def test_halving_calls_an_arm_worse_only_if_the_interval_says_so() -> None:
    configs = arms(5)
    found = decide(values(a=20, b=30, c=12, d=34, e=29), halving_of(configs, "a"), 1, configs)
    assert found["c"].worse and found["c"].difference["high"] < 0
    assert not found["e"].worse and found["e"].difference["high"] > 0


def test_halving_ends_none_of_equals() -> None:
    configs = arms(5)
    halving = halving_of(configs, "a")
    assert decide(values(a=9, b=0, c=0, d=0, e=0), halving, 1, configs) == {}
    assert list(decide(values(a=9, b=5, c=5, d=7, e=4), halving, 1, configs)) == ["e"]


def test_halving_reads_validation_alone_and_only_until_the_round(tmp_path: Path) -> None:
    log = Log(tmp_path / run_directory.EVALUATIONS)
    for split, step, correct in (
        ("validation", 0, [1.0, 1.0]), ("validation", 2, [0.0, 1.0]),
        ("validation", 4, [0.0, 0.0]), ("validation", 6, [1.0, 1.0]), ("test", 2, [1.0, 1.0]),
    ):  # fmt: skip
        log.append({"split": split, "step": step, "correct": correct})
    assert validation_of(tmp_path, 4).tolist() == [0.0, 1.0]
    log.append({"split": "validation", "step": 3, "correct": [0.0, 0.0], "scores": [0.9, 0.8]})
    assert validation_of(tmp_path, 4).tolist() == [0.9, 0.8]
    with pytest.raises(RunError, match="lost its validation"):
        validation_of(tmp_path, 1)


def test_halving_cost_adds_up_and_is_less_than_all_runs() -> None:
    configs = arms(5, steps=8)
    sizes: dict[str, int | None] = {"train": 100, "validation": 10, "test": 20}
    plans = {k: plan_of_sizes(c, sizes, Lengths(9, 9, 9)) for k, c in configs.items()}
    found = halving_cost(halving_of(configs, "a"), configs, plans, 3)
    one = plans["a"].most
    first, last = found.rounds
    assert (first.arms, first.runs, first.steps["b"]) == (5, 5, 4)
    assert (last.arms, last.runs) == (3, 9)
    assert first.generated == 5 * one.generated // 2
    assert found.generated == 3 * 3 * one.generated + 2 * one.generated // 2
    assert found.full_generated == 15 * one.generated
    assert 0 < found.saving < 1
    # A round samples no test problem: preflight and 3 validations of 10.
    longest = configs["a"].sampling.max_new_tokens
    preflight = one.evaluation // longest - 5 * 10 - 3 * 20
    assert first.evaluation == 5 * (preflight + 3 * 10) * longest
