"""Rank 0's policy: every call of the seam, dealt over the ranks.

Rollouts depend on their seeds alone, so dealing them changes none. Log-probabilities, measurements
and gradients are dealt by fixed units (`dealing`). What must be one happens on rank 0: saving and
merging. Where the ranks divide the base among them (`train.shard`), every forward pass is made by
all at once: they are told how many to make. Weights are never sent but at the start and when a
checkpoint is restored: every rank takes the same optimiser step with the same gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from backends.interface import (
    PLAIN,
    BatchReport,
    GradientExchange,
    LossBatch,
    Memory,
    Observable,
    Observer,
    Policy,
    Rollout,
    RolloutRequest,
    Sampling,
    TeacherWeights,
)
from backends.parallel.control import Workers
from backends.parallel.dealing import UNITS, block, deal, deal_requests
from backends.parallel.messages import Call, Cancel, Done, Failed
from backends.parallel.progress import MergedProgress, RankProgress
from backends.parallel.sharding import is_sharded
from backends.parallel.share import RecentBatches, Share, files_of, merged, passes_of
from backends.shared.delegation import DelegatingPolicy
from backends.shared.loss_batches import sequences_of
from backends.shared.micro_batches import PromptAndCompletion, require_readable
from opsd_cli.config.schema import Config
from opsd_cli.errors import ModelError, TrainingError, UsageError

T = TypeVar("T")
#: Nats by which the probe's log-probabilities may differ between machines of other hardware.
TOLERANCE = 0.05


class ParallelPolicy(DelegatingPolicy):
    """See `backends.interface.Policy`.

    Args:
        config: the run; the workers have loaded the same.
        inner: rank 0's own replica.
        workers: the other ranks; None computes alone, by units where `train.reduce` is exact.
        exchange: rank 0's with the other ranks, for training.

    Raises:
        UsageError: the number of ranks does not divide the units of `train.reduce: exact`.
        ModelError: a worker has loaded other weights.
        TrainingError: a worker has ended.
    """

    def __init__(
        self,
        config: Config,
        inner: Policy,
        workers: Workers | None,
        exchange: GradientExchange | None,
    ) -> None:
        super().__init__(inner)
        self._config, self._workers = config, workers
        self._share = Share(config, inner, exchange)
        self._size = 1 if workers is None else len(workers.ranks) + 1
        self._sharded = is_sharded(config, self._size)
        self._units = units_of(config, self._size)
        self._progress: MergedProgress | None = None
        self._recent = RecentBatches()
        #: CPU seconds of each worker, as of its last result.
        self._cpu_seconds: dict[int, float] = {}
        self._require_equal()

    @property
    def description(self) -> str:
        ranks = f"; {self._size} ranks" if self._size > 1 else ""
        return f"{self._inner.description}{ranks}"

    @property
    def processes(self) -> int:
        """Ranks that share the work."""
        return self._size

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds of the workers so far."""
        return sum(self._cpu_seconds.values())

    def observe(self, observer: Observer | None) -> None:
        """As `Observable.observe`; what it is told is of all ranks together."""
        check = (lambda: None) if self._workers is None else self._workers.check
        self._progress = None if observer is None else MergedProgress(observer, check)
        if isinstance(self._inner, Observable):
            self._inner.observe(self._progress)

    # -- rollouts ------------------------------------------------------------------------------

    def generate(
        self,
        requests: Sequence[RolloutRequest],
        sampling: Sampling,
        role: Literal["student", "teacher"] = "student",
        teacher: TeacherWeights = "initial",
    ) -> Iterator[Rollout]:
        """As `Policy.generate`.

        Raises:
            UsageError: the base is sharded. The ranks' sequences end at different times, so they
                cannot make the same passes.
        """
        if self._sharded:
            raise UsageError(
                "a base that is sharded samples no rollouts: a rollout engine of its own does, for "
                "the student and for a teacher with the base's weights",
                "set rollouts.engine=vllm; without an adapter of its own and with teacher.weights "
                "initial, or with train.shard=none",
            )
        if self._workers is None:
            yield from self._inner.generate(requests, sampling, role, teacher)
            return
        shares = deal_requests(requests, self._size)
        if self._progress is not None:
            self._progress.begin(self._size)
        for rank in self._workers.ranks:
            call = Call("generate", (shares[rank], sampling, role, teacher))
            self._workers.send(call, rank)
        waiting = set(self._workers.ranks)
        whole = False
        try:
            for rollout in self._inner.generate(shares[0], sampling, role, teacher):
                yield rollout
                yield from self._arrived(waiting, 0.0)
            while waiting:
                yield from self._arrived(waiting, 0.5)
            whole = True
        finally:
            # Abandoned: the workers stop too, and what they still send is not of the next call.
            if waiting and not whole:
                self._abandon(waiting)

    def _arrived(self, waiting: set[int], seconds: float) -> Iterator[Rollout]:
        """Rollouts of the workers that have arrived, after at most `seconds` of waiting."""
        assert self._workers is not None
        while waiting and (received := self._workers.receive(seconds)) is not None:
            rank, message = received
            if isinstance(message, Failed):
                waiting.discard(rank)
                raise self._workers.failed(rank, message)
            if isinstance(message, Done):
                self._cpu_seconds[rank] = message.cpu_seconds
                waiting.discard(rank)
            elif isinstance(message.value, Rollout):
                yield message.value
            else:
                self._news(rank, message.value)
            seconds = 0.0

    def _abandon(self, waiting: set[int]) -> None:
        assert self._workers is not None
        with suppress(TrainingError):  # the error that ends the run is on its way
            self._workers.send(Cancel())
            while waiting:
                received = self._workers.receive()
                if received is not None and isinstance(received[1], Done | Failed):
                    waiting.discard(received[0])

    # -- log-probabilities and gradients ---------------------------------------------------------

    def score(
        self,
        sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
        role: Literal["student", "teacher"] = "student",
        teacher: TeacherWeights = "initial",
        sampling: Sampling = PLAIN,
    ) -> list[np.ndarray]:
        lengths = [len(prompt) + len(completion) for prompt, completion in sequences]
        units = deal(lengths, self._units)
        passes = self._passes(units, [[pair] for pair in sequences])

        def arguments(rank: int) -> tuple[Any, ...]:
            own = [[sequences[i] for i in unit] for unit in self._own(units, rank)]
            return own, role, teacher, sampling, passes

        answers = self._everywhere("score", arguments, self._share.score)
        scores = [np.zeros(0, np.float32) for _ in sequences]
        for rank, answer in enumerate(answers):
            for unit, found in zip(self._own(units, rank), answer, strict=True):
                for index, scores_N in zip(unit, found, strict=True):
                    scores[index] = scores_N
        return scores

    def measure(self, batch: LossBatch) -> BatchReport:
        units, passes = self._dealt(batch)

        def arguments(rank: int) -> tuple[Any, ...]:
            return batch, self._own(units, rank), passes

        return merged(batch, self._everywhere("measure", arguments, self._share.measure))

    def accumulate(self, batch: LossBatch) -> BatchReport:
        units, passes = self._dealt(batch)
        place = self._recent.place(batch)
        if place is None:
            self._recent.add(batch)
        if self._progress is not None:
            self._progress.begin(self._size)

        def arguments(rank: int) -> tuple[Any, ...]:
            return batch if place is None else place, self._own(units, rank), passes

        answers = self._everywhere("accumulate", arguments, self._share.accumulate)
        self._everywhere("add_up", lambda rank: (), self._share.add_up)
        return merged(batch, answers)

    def apply(self, learning_rate: float) -> float:
        return self._everywhere("apply", lambda rank: (learning_rate,), self._inner.apply)[0]

    # -- state ---------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """As `Policy.save`; the ranks' adapters must be equal, bit for bit.

        Raises:
            TrainingError: they are not.
        """
        digests = self._everywhere("digest", lambda rank: (), self._share.digest)
        for rank, digest in enumerate(digests):
            if digest != digests[0]:
                raise TrainingError(
                    f"the adapter of rank {rank} has become another than rank 0's",
                    "this is a fault of a device or of opsd; --resume goes on from the newest "
                    "checkpoint, from which all were equal",
                )
        super().save(folder)

    def restore(self, folder: Path) -> None:
        self._with_files("restore", folder, super().restore)

    def load_adapter(self, folder: Path) -> None:
        self._with_files("load_adapter", folder, super().load_adapter)

    def _with_files(self, method: str, folder: Path, own: Callable[[Path], None]) -> None:
        own(folder)  # where it is refused here, nothing is sent
        if self._workers is not None:
            files = files_of(folder)
            self._everywhere(method, lambda rank: (files,), lambda _: None)

    def memory(self) -> Memory:
        """As `Policy.memory`, of the rank whose peak is highest."""
        found: list[Memory] = self._everywhere("memory", lambda rank: (), self._inner.memory)
        return max(found, key=lambda memory: memory.peak)

    # -- calls ---------------------------------------------------------------------------------

    def _dealt(self, batch: LossBatch) -> tuple[list[list[int]], int]:
        sequences = sequences_of(batch)
        units = deal([max(len(p) + len(c) for p, c in pairs) for pairs in sequences], self._units)
        return units, self._passes(units, sequences)

    def _own(self, units: Sequence[T], rank: int) -> list[T]:
        return [units[index] for index in block(len(units), self._size, rank)]

    def _passes(
        self, units: Sequence[Sequence[int]], sequences: Sequence[Sequence[PromptAndCompletion]]
    ) -> int:
        """Forward passes of the rank that makes most, for the others to make as many.

        0 where each rank has the whole base, so that none waits for another.

        Args:
            units: indices of items.
            sequences: of each item.

        Raises: as `require_readable`. A rank that fails alone would keep the others waiting.
        """
        if not self._sharded:
            return 0
        filled = [pair for pairs in sequences for pair in pairs if pair[1]]
        require_readable(filled, self.context_limit)
        read = [[sequences[index] for index in unit] for unit in units]
        return max(passes_of(self._own(read, rank), self._config) for rank in range(self._size))

    def _everywhere(
        self, method: str, arguments: Callable[[int], tuple[Any, ...]], own: Callable[..., T]
    ) -> list[T]:
        """Call a method on all ranks at once; returns the results by rank.

        Raises: as `Workers.call`.
        """
        if self._workers is None:
            return [own(*arguments(0))]
        result, answers = self._workers.call(
            method, arguments, lambda: own(*arguments(0)), self._news
        )
        self._cpu_seconds |= {rank: answer.cpu_seconds for rank, answer in answers.items()}
        return [result] + [answers[rank].value for rank in self._workers.ranks]

    def _news(self, rank: int, progress: RankProgress) -> None:
        if self._progress is not None:
            self._progress.of_worker(rank, progress)

    # -- the beginning -------------------------------------------------------------------------

    def _require_equal(self) -> None:
        """Check that every worker has loaded what this rank has.

        Raises:
            ModelError: one has not.
        """
        if self._workers is None:
            return
        found = self._everywhere("fingerprint", lambda rank: (), self._share.fingerprint)
        adapter, scores = found[0]
        for rank, (digest, others) in enumerate(found):
            apart = max(abs(a - b) for a, b in zip(scores, others, strict=True))
            if digest != adapter or not apart <= TOLERANCE:
                what = "adapter" if digest != adapter else "model"
                other = self._config.teacher.model
                taught = "" if other is None else f" and of its teacher {other}"
                raise ModelError(
                    f"rank {rank} has loaded another {what} than rank 0",
                    f"give each machine the same files of {self._config.model}{taught}",
                )


def units_of(config: Config, size: int) -> int:
    """Into how many units a batch is dealt.

    Raises:
        UsageError: `train.reduce` is exact, and that many ranks cannot share its units.
    """
    if config.train.reduce != "exact":
        return size
    if UNITS % size:
        raise UsageError(
            f"train.reduce=exact adds gradients up in {UNITS} units, which {size} ranks cannot "
            "share evenly",
            f"use a number of devices that divides {UNITS}, or train.reduce=fast",
        )
    return UNITS
