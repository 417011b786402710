"""Arms whose teacher reads different columns are trained and measured on the same problems."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opsd_cli.comparison.common_rows import common_rows, sentence
from opsd_cli.comparison.session import measured_alike
from opsd_cli.comparison.variants import arms_of, require_measured_alike
from opsd_cli.config.resolve import resolve
from opsd_cli.config.schema import Config
from opsd_cli.problems.sources import load_splits


@pytest.fixture
def problems(tmp_path: Path) -> str:
    """60 rows: every third lacks a solution, every fifth a hint."""
    rows = [
        {
            "question": f"What is {n} + 1?",
            "answer": str(n + 1),
            **({"solution": f"{n} + 1 = {n + 1}"} if n % 3 else {}),
            **({"hint": "add one"} if n % 5 else {}),
        }
        for n in range(60)
    ]
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def arms(problems: str, vary: str, *more: str, method: str = "opsd") -> dict[str, Config]:
    def config_with(assignments: object) -> Config:
        return resolve(
            None,
            [f"data.train={problems}", *more, *assignments],
            {"method": method},  # type: ignore[misc]
        )

    configs, variation = arms_of(method, [vary], False, config_with)
    alike = measured_alike(configs, 1)
    require_measured_alike(alike, variation)
    return alike


@pytest.mark.parametrize(
    ("reference", "left_out"), [("answer", 20), ('"Hint: {hint}"', 28), ("hint", 28)]
)
def test_common_rows_of_references_are_those_that_every_arm_can_use(
    problems: str, reference: str, left_out: int
) -> None:
    found = arms(problems, f"teacher.reference={reference}")
    splits = {label: load_splits(config) for label, config in found.items()}
    one, other = splits.values()
    for split in ("train", "validation", "test"):  # the last two are held out of the same rows
        assert one.named()[split].digest() == other.named()[split].digest()
    rows = common_rows(found, splits)
    assert rows is not None and (rows.used, rows.left_out) == (len(one.train.problems), left_out)
    said = sentence(rows.as_dict())
    assert f"{left_out} rows are left out of every arm" in said and "needed: solution" in said
    assert "{" not in said


def test_common_rows_of_arms_that_need_the_same_change_nothing(problems: str) -> None:
    found = arms(problems, "divergence.kind=jsd")
    assert all(config.data.usable_for == () for config in found.values())
    assert common_rows(found, dict.fromkeys(found)) is None


def test_common_rows_of_methods(problems: str) -> None:
    configs = {
        name: resolve(
            None, [f"data.train={problems}", "teacher.reference=answer"], {"method": name}
        )
        for name in ("opsd", "grpo", "sft")
    }
    digests = {load_splits(c).train.digest() for c in measured_alike(configs, 1).values()}
    assert len(digests) == 1
    assert len({load_splits(c).train.digest() for c in configs.values()}) == 2


def test_common_rows_that_are_not_at_hand_have_no_count(problems: str) -> None:
    found = arms(problems, "teacher.reference=answer")
    rows = common_rows(found, dict.fromkeys(found))
    assert rows is not None and rows.left_out is None
    assert sentence(rows.as_dict()) == "All arms train on the rows that have a value of: solution."
