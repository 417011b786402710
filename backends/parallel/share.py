"""What one rank does of a call, rank 0 and the workers alike."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

import backends
from backends.interface import (
    BatchReport,
    DivergenceBatch,
    ExchangesGradients,
    GradientExchange,
    LossBatch,
    Policy,
    Sampling,
    SharesGradients,
    TeacherWeights,
    TokenReport,
)
from backends.shared.loss_batches import NOT_READ, filler_of, loss_of, part_of, sequences_of
from backends.shared.micro_batches import FILLER_PAIR, PromptAndCompletion, batched
from opsd_cli.config.schema import Config
from opsd_cli.errors import ModelError, UsageError

Sequences = Sequence[PromptAndCompletion]
Files = dict[str, bytes]
"""The files of a folder, by name: a worker may see no disk of rank 0's."""

#: Token ids that every vocabulary has, to compare the replicas by.
PROBE: Sequences = (((1, 2, 3), (4, 5, 6, 7)),)


@dataclass(frozen=True)
class ShareReport:
    """The tokens of the items that a rank has read, by the items' indices in the batch."""

    tokens: dict[int, TokenReport]
    trained_tokens: int
    teacher_tokens: int


class RecentBatches:
    """The last two batches, in the order in which they came: an update reads at most two.

    Rank 0 and the workers each keep them by this rule, so that a batch which comes again is named
    by its place instead of being sent, and is the same object as before.
    """

    def __init__(self) -> None:
        self._batches: list[LossBatch] = []

    def place(self, batch: LossBatch) -> int | None:
        """Where a batch is; None if it has to be added."""
        return next((n for n, each in enumerate(self._batches) if each is batch), None)

    def add(self, batch: LossBatch) -> None:
        """Keep a batch, and the one before it."""
        self._batches = [*self._batches[-1:], batch]

    def at(self, place: int) -> LossBatch:
        """The batch at a place."""
        return self._batches[place]


class Share:
    """A rank's replica of the model, and its gradients that are not added up yet.

    Args:
        config: the run.
        policy: loaded from it.
        exchange: with the other ranks, for training.
    """

    def __init__(
        self, config: Config, policy: Policy, exchange: GradientExchange | None = None
    ) -> None:
        self.config, self.policy = config, policy
        self._exchange = exchange
        self._recent = RecentBatches()
        self._gradients: list[Any] = []

    def fingerprint(self) -> tuple[str, list[float]]:
        """The digest of the adapter, and log-probabilities of `PROBE`: equal in all replicas.

        Those of `teacher.model` too, where there is one.
        """
        scores = list(self.policy.score(PROBE)[0])
        if self.config.teacher.model is not None:
            scores += list(self.policy.score(PROBE, "teacher", "model")[0])
        return self.digest(), [float(number) for number in scores]

    def digest(self) -> str:
        """SHA-256 of the adapter's file; empty without an adapter."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                self.policy.save_adapter(Path(folder))
            except ModelError:
                return ""
            weights = (Path(folder) / "adapter_model.safetensors").read_bytes()
        return hashlib.sha256(weights).hexdigest()

    def score(
        self,
        units: Sequence[Sequences],
        role: Literal["student", "teacher"],
        teacher: TeacherWeights,
        sampling: Sampling,
        passes: int = 0,
    ) -> list[list[np.ndarray]]:
        """`Policy.score` of each unit by itself; `passes` as `accumulate` has it."""
        scores = [
            self.policy.score(unit, role, teacher, sampling) if unit else [] for unit in units
        ]
        made = passes_of([[[pair] for pair in unit] for unit in units], self.config)
        for _ in range(passes - made):
            self.policy.score([FILLER_PAIR], role, teacher, sampling)
        return scores

    def measure(
        self, batch: LossBatch, units: Sequence[Sequence[int]], passes: int = 0
    ) -> ShareReport:
        """`Policy.measure` of each unit by itself; `passes` as `accumulate` has it."""
        if isinstance(batch, DivergenceBatch):  # no pass over these items follows
            batch = replace(batch, again=False)
        read: dict[int, TokenReport] = {}
        teacher_tokens = 0
        for unit in (each for each in units if each):
            report = self.policy.measure(part_of(batch, unit))
            read |= zip(unit, report.tokens, strict=True)
            teacher_tokens += report.teacher_tokens
        sequences = sequences_of(batch)
        made = passes_of([[sequences[index] for index in unit] for unit in units], self.config)
        for _ in range(passes - made):
            self.policy.measure(filler_of(batch))
        return ShareReport(read, 0, teacher_tokens)

    def accumulate(
        self, batch: LossBatch | int, units: Sequence[Sequence[int]], passes: int = 0
    ) -> ShareReport:
        """Compute the gradients of some units, and keep them.

        Args:
            batch: or the place of a recent one, whose teacher's hidden states may be kept.
            passes: forward passes that every rank makes, where the base is sharded; else 0.
        """
        if isinstance(batch, int):
            batch = self._recent.at(batch)
        else:
            self._recent.add(batch)
        policy = cast(SharesGradients, self.policy)
        report, self._gradients = policy.accumulate_units(batch, units, passes)
        read = {index: report.tokens[index] for unit in units for index in unit}
        return ShareReport(read, report.trained_tokens, report.teacher_tokens)

    def add_up(self) -> None:
        """Add the kept gradients of all ranks to the adapter's gradient."""
        assert self._exchange is not None
        gradients, self._gradients = self._gradients, []
        total = self._exchange.sum(gradients, self.config.train.reduce == "exact")
        cast(SharesGradients, self.policy).add_gradient(total)

    def close(self) -> None:
        """Leave the other ranks."""
        if self._exchange is not None:
            self._exchange.close()


def joined(
    config: Config, rank: int, size: int, host: str, broadcast: Callable[[Any], Any]
) -> GradientExchange:
    """Meet the other ranks, for training; see `backends.interface.ExchangesGradients`.

    Raises:
        UsageError: the config's backend cannot.
    """
    backend = backends.get(config.backend)
    if not isinstance(backend, ExchangesGradients):
        raise UsageError(f"backend {backend.name!r} trains in one process alone")
    return backend.exchange(rank, size, host, broadcast)


def passes_of(units: Sequence[Sequence[Sequence[PromptAndCompletion]]], config: Config) -> int:
    """Forward passes that a rank makes over its units, whose items have these sequences."""
    return sum(len(batched(unit, config.train.micro_batch_tokens)) for unit in units)


def merged(batch: LossBatch, shares: Sequence[ShareReport]) -> BatchReport:
    """The report of a batch that the ranks have read in shares."""
    tokens = [NOT_READ for _ in batch.items]
    for share in shares:
        for index, report in share.tokens.items():
            tokens[index] = report
    return BatchReport(
        loss=loss_of(batch, tokens),
        tokens=tuple(tokens),
        trained_tokens=sum(share.trained_tokens for share in shares),
        teacher_tokens=sum(share.teacher_tokens for share in shares),
    )


def files_of(folder: Path) -> Files:
    """The files of a folder, without those below it."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@contextlib.contextmanager
def folder_of(files: Files) -> Iterator[Path]:
    """A temporary folder with these files."""
    with tempfile.TemporaryDirectory(prefix="opsd-rank-") as folder:
        for name, content in files.items():
            (Path(folder) / Path(name).name).write_bytes(content)
        yield Path(folder)
