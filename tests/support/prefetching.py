"""Short runs with prefetched rollouts, on a policy without a model."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from backends.interface import BatchReport, LossBatch, Rollout, RolloutRequest, Sampling
from opsd_cli.config.resolve import resolve
from opsd_cli.config.schema import Config
from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.training import run_directory
from opsd_cli.training.result import TrainResult
from opsd_cli.training.run_directory import Run
from opsd_cli.training.trainer import train
from tests.support.fakes import FakePolicy
from tests.support.small_problems import SPLITS

OVERLAP = ("rollouts.engine=vllm", "rollouts.overlap=true")


class Prefetching(FakePolicy):
    """Prefetches with the skill it has when it is asked, and keeps the batches that it learnt."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.learnt: list[LossBatch] = []
        self.prefetch_requests: list[Sequence[RolloutRequest]] = []

    def prefetch(
        self, requests: Sequence[RolloutRequest], sampling: Sampling
    ) -> Future[list[Rollout]]:
        self.prefetch_requests.append(requests)
        drawing: Future[list[Rollout]] = Future()
        drawing.set_result(list(self.generate(requests, sampling)))
        return drawing

    def accumulate(self, batch: LossBatch) -> BatchReport:
        self.learnt.append(batch)
        return self.measure(batch)


def run_config(*assignments: str) -> Config:
    return resolve(
        None,
        [
            "model=a-model", "train.steps=6", "train.questions_per_step=5", "train.patience=null",
            "train.evaluate_every=2", "train.checkpoint_every=1", *assignments,
        ],
    )  # fmt: skip


def run_training(
    directory: Path, policy: FakePolicy, *assignments: str
) -> tuple[TrainResult, list[dict[str, Any]]]:
    with Run.create(directory, run_config(*assignments), {"packages": {}}) as held:
        result = train(policy, SPLITS, held)
    return result, list(read_rows(directory / run_directory.METRICS))


def drawn_rollouts(directory: Path) -> list[tuple[int, str, bool]]:
    rows = read_rows(directory / run_directory.ROLLOUTS)
    return [(row["step"], row["problem_id"], row["correct"]) for row in rows]
