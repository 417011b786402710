"""What a listener is told while rollouts are sampled, by engines that report and by others."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from backends.interface import (
    BatchReport,
    DecodingReport,
    DivergenceBatch,
    DivergenceItem,
    LossBatch,
    Observer,
    Rollout,
    RolloutRequest,
    Sampling,
)
from opsd_cli.losses.divergence import DivergenceSpec
from opsd_cli.rollouts.watching import (
    BackgroundWatch,
    DecodingWatch,
    LearningWatch,
    observed,
    watched,
)
from opsd_cli.tracking.listener import Decoded, Listener
from opsd_cli.training.run_directory import Run
from opsd_cli.training.trainer import train
from tests.support.fakes import FakePolicy
from tests.support.prefetching import OVERLAP, Prefetching, run_config
from tests.support.reports import report
from tests.support.small_problems import SPLITS


class Recorder(Listener):
    def __init__(self) -> None:
        self.decoded: list[Decoded] = []
        self.learned: list[tuple[int, int]] = []
        self.threads: set[threading.Thread] = set()

    def decoding(self, progress: Decoded) -> None:
        self.decoded.append(progress)
        self.threads.add(threading.current_thread())

    def learning(self, done: int, total: int) -> None:
        self.learned.append((done, total))


class Reporting(FakePolicy):
    """Reports five tokens of an unfinished completion before each rollout."""

    observer: Observer | None = None

    def observe(self, observer: Observer | None) -> None:
        self.observer = observer

    def generate(self, requests: Sequence[RolloutRequest], *rest: Any) -> Iterator[Rollout]:
        tokens, finished = 0, 0
        for rollout in super().generate(requests, *rest):
            if self.observer is not None:
                running = [(rollout.request, rollout.completion_ids[:5])]
                report = DecodingReport(tokens + 5, 10**6, finished, finished, running)
                self.observer.decoding(report)
            tokens, finished = tokens + len(rollout.completion_ids), finished + 1
            yield rollout


def requests_of(policy: FakePolicy, count: int) -> list[RolloutRequest]:
    ids = tuple(policy.tokenizer.encode("2 + 3"))
    return [RolloutRequest(f"p{n}", 0, ids, n) for n in range(count)]


@pytest.mark.parametrize("kind", [FakePolicy, Reporting])
def test_rollout_progress_is_monotone_and_ends_with_what_was_sampled(kind: Any) -> None:
    policy, listener, sampling = kind(), Recorder(), Sampling(max_new_tokens=100)
    requests = requests_of(policy, 4)
    begun: list[Any] = []
    rollouts = list(
        watched(
            policy.generate(requests, sampling), requests, sampling, policy, listener, begun.extend
        )
    )
    tokens = sum(len(rollout.completion_ids) for rollout in rollouts)
    told = listener.decoded
    assert told[0] == Decoded(0, 400, 4, 0, 0)
    assert told[-1] == Decoded(tokens, tokens, 4, 4, 4)
    assert [d.tokens for d in told] == sorted(d.tokens for d in told)
    assert [d.most for d in told] == sorted((d.most for d in told), reverse=True)
    assert len(told) == 1 + (8 if kind is Reporting else 4)
    assert len(begun) == (4 if kind is Reporting else 0)
    if kind is Reporting:
        assert told[1].tokens == 5 and policy.observer is None


def test_rollout_progress_counts_the_room_that_the_context_leaves() -> None:
    policy, listener = FakePolicy(), Recorder()
    policy.context_limit = 30
    requests, sampling = requests_of(policy, 2), Sampling(max_new_tokens=100)
    next(watched(policy.generate(requests, sampling), requests, sampling, policy, listener))
    room = 30 - len(requests[0].prompt_ids)
    assert listener.decoded[0].most == 2 * room


def test_prompt_reading_reaches_the_listener_and_ends_with_a_finished_rollout() -> None:
    policy, listener, sampling = FakePolicy(), Recorder(), Sampling(max_new_tokens=100)
    requests = requests_of(policy, 2)
    watch = DecodingWatch(requests, sampling, policy, listener)
    reading = report(0, 200, prompt_tokens=3, prompt_total=12, reading=True)
    watch.decoding(reading)
    assert listener.decoded[-1] == Decoded(0, 200, 2, 0, 0, 3, 12, True)
    rollout = next(iter(policy.generate(requests, sampling)))
    watch.finished(rollout)
    assert listener.decoded[-1].prompt_tokens == 3 and not listener.decoded[-1].reading
    ahead = BackgroundWatch(2)
    ahead.decoding(reading)
    ahead.tell(listener)
    assert listener.decoded[-1] == Decoded(0, 200, 2, 0, 0, 3, 12, True)


def test_abandoned_rollouts_are_given_up_by_their_engine_and_not_observed() -> None:
    policy, sampling = Reporting(), Sampling(max_new_tokens=100)
    requests = requests_of(policy, 4)
    rollouts = policy.generate(requests, sampling)
    seen = watched(rollouts, requests, sampling, policy, Listener())
    next(seen)
    assert policy.observer is not None
    seen.close()  # type: ignore[attr-defined]
    assert policy.observer is None and next(rollouts, None) is None


class Slow(Prefetching):
    """Prefetches in a thread that reports, and goes on once the trainer has been told."""

    def __init__(self, listener: Recorder) -> None:
        super().__init__(skill=0.3)
        self.listener = listener
        self.observer: Observer | None = None

    def observe(self, observer: Observer | None) -> None:
        self.observer = observer

    def prefetch(
        self, requests: Sequence[RolloutRequest], sampling: Sampling
    ) -> Future[list[Rollout]]:
        observer, drawing = self.observer, Future[list[Rollout]]()
        rollouts = list(self.generate(requests, sampling))

        def work() -> None:
            assert observer is not None
            observer.decoding(DecodingReport(7, 1000, 0, 0))
            for _ in range(500):  # five seconds at most
                if any(d.tokens == 7 and d.most == 1000 for d in self.listener.decoded):
                    break
                threading.Event().wait(0.01)
            drawing.set_result(rollouts)

        threading.Thread(target=work).start()
        return drawing


def test_prefetch_progress_is_told_by_the_thread_that_waits(tmp_path: Path) -> None:
    listener = Recorder()
    # A checkpoint would wait for the rollouts.
    config = run_config(
        *OVERLAP, "train.steps=2", "preflight.enabled=false", "train.checkpoint_every=9"
    )
    with Run.create(tmp_path / "run", config, {"packages": {}}) as held:
        train(Slow(listener), SPLITS, held, listener)
    assert Decoded(7, 1000, 5, 0, 0) in listener.decoded
    assert listener.threads == {threading.main_thread()}


class Learning(FakePolicy):
    observer: Observer | None = None

    def observe(self, observer: Observer | None) -> None:
        self.observer = observer

    def accumulate(self, batch: LossBatch) -> BatchReport:
        if self.observer is not None:
            self.observer.learning(1, 2)
        return self.measure(batch)


def test_gradient_progress_runs_over_all_loss_batches_of_a_step() -> None:
    def batch(tokens: int) -> DivergenceBatch:
        item = DivergenceItem((5,) * 3, (5,) * 7, (6,) * tokens)
        return DivergenceBatch((item,), DivergenceSpec())

    batches, listener, policy = [batch(20), batch(5)], Recorder(), Learning()
    watch = LearningWatch(batches, listener)
    for one in batches:
        with observed(policy, watch):
            policy.accumulate(one)
        watch.batch_done()
    assert listener.learned == [(0, 70), (25, 70), (50, 70), (60, 70), (70, 70)]
