"""An anchor in the loop: one optimiser step for both losses, its tokens and its metric."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.interface import BatchReport, LossBatch
from opsd_cli.config.resolve import resolve
from opsd_cli.training import run_directory
from opsd_cli.training.run_directory import Run, read_rows
from opsd_cli.training.trainer import train
from tests.support.fakes import FakePolicy
from tests.support.small_problems import SPLITS


class Counting(FakePolicy):
    """Notes every call that changes the adapter or its gradient."""

    def __init__(self) -> None:
        super().__init__(skill=0.4, gain=0.0)
        self.calls: list[str] = []

    def accumulate(self, batch: LossBatch) -> BatchReport:  # type: ignore[override]
        self.calls.append(type(batch).__name__)
        return self.measure(batch)

    def apply(self, learning_rate: float) -> float:
        self.calls.append("apply")
        return super().apply(learning_rate)


def trained(directory: Path, *assignments: str) -> tuple[Counting, list[dict[str, object]]]:
    fixed = (
        "model=a-model", "train.steps=1", "train.questions_per_step=2", "train.passes=2",
        "preflight.enabled=false",
    )  # fmt: skip
    policy = Counting()
    with Run.create(directory, resolve(None, [*fixed, *assignments]), {"packages": {}}) as run:
        train(policy, SPLITS, run)
    return policy, list(read_rows(directory / run_directory.METRICS))


@pytest.mark.parametrize(
    ("anchor", "batch"), [("kl", "DivergenceBatch"), ("sft", "PolicyGradientBatch")]
)
def test_anchor_shares_the_optimizer_steps_and_is_counted_in_the_ledger(
    anchor: str, batch: str, tmp_path: Path
) -> None:
    plain, (before,) = trained(tmp_path / "plain")
    assert plain.calls == ["DivergenceBatch", "apply"] * 2 and "anchor" not in before
    policy, (row,) = trained(tmp_path / "run", f"train.anchor={anchor}")
    assert policy.calls == ["DivergenceBatch", batch, "apply"] * 2
    assert isinstance(row["anchor"], float)
    # The divergence is that of the loss batch alone, the loss that of both.
    assert row["divergence"] == before["divergence"] and row["loss"] != before["loss"]
    spent, without = row["ledger"], before["ledger"]
    assert isinstance(spent, dict) and isinstance(without, dict)
    assert spent["trained"] > without["trained"]
    # The teacher reads its own sequences once, and so does the initial policy of a kl anchor.
    more = spent["teacher_scored"] - without["teacher_scored"]
    assert 2 * more == (spent["trained"] - without["trained"] if anchor == "kl" else 0)
