"""Conformance: what an observer is told while a policy decodes and learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from backends.interface import (
    DecodingReport,
    DivergenceBatch,
    DivergenceItem,
    Observable,
    Policy,
    Rollout,
    RolloutRequest,
    Sampling,
)
from backends.shared import decoding
from opsd_cli.losses.divergence import DivergenceSpec
from tests.support.backend_fixtures import Load

REQUESTS = tuple(
    RolloutRequest(f"problem-{n}", 0, tuple(range(3, 5 + n % 3)), seed=n) for n in range(9)
)
SAMPLING = Sampling(temperature=1.5, max_new_tokens=24)


@dataclass
class Observer:
    reports: list[DecodingReport] = field(default_factory=list)
    begun: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)
    learnt: list[tuple[int, int]] = field(default_factory=list)

    def decoding(self, report: DecodingReport) -> None:
        self.reports.append(report)
        for request, ids in report.unfinished:
            self.begun.setdefault(request.problem_id, []).append(tuple(ids))

    def learning(self, done: int, total: int) -> None:
        self.learnt.append((done, total))


def contents(rollouts: Sequence[Rollout]) -> dict[str, tuple[Any, ...]]:
    return {r.request.problem_id: (r.completion_ids, r.log_probs.tolist()) for r in rollouts}


def observe(policy: Policy, observer: Observer | None) -> None:
    assert isinstance(policy, Observable)
    policy.observe(observer)


def test_rollout_reports_count_the_tokens_and_change_no_sample(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "REPORT_SECONDS", 0.0)
    policy = load(rollouts={"batch_size": 4})
    unobserved = list(policy.generate(REQUESTS, SAMPLING))
    # Some completions have to end early.
    stop = unobserved[0].completion_ids[2]
    monkeypatch.setattr(policy, "_stop_ids", frozenset([stop]))
    unobserved = list(policy.generate(REQUESTS, SAMPLING))
    observer = Observer()
    observe(policy, observer)
    observed = list(policy.generate(REQUESTS, SAMPLING))
    observe(policy, None)
    assert contents(observed) == contents(unobserved)
    list(policy.generate(REQUESTS, SAMPLING))

    reports = [report for report in observer.reports if not report.reading]
    lengths = [len(r.completion_ids) for r in observed]
    assert min(lengths) < SAMPLING.max_new_tokens
    tokens, most = [r.tokens for r in reports], [r.most for r in reports]
    assert tokens == sorted(tokens) and len(set(tokens)) == len(tokens)
    assert most == sorted(most, reverse=True) and most[0] <= 9 * SAMPLING.max_new_tokens
    assert tokens[-1] == most[-1] == sum(lengths)  # also: nothing was reported afterwards
    assert reports[-1].finished == 9
    assert reports[-1].stopped == sum(r.finish_reason == "stop" for r in observed)
    for rollout in observed:
        for begun in observer.begun.get(rollout.request.problem_id, []):
            assert begun == rollout.completion_ids[: len(begun)]


def test_prompt_reading_is_reported_before_the_first_token_and_reaches_all_prompts(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "REPORT_SECONDS", 0.0)
    policy = load(rollouts={"batch_size": 6})
    prompts = [tuple(range(3, 5 + n % 5)) for n in range(4)]
    requests = [
        RolloutRequest(str(n), sample, prompt, seed=10 * n + sample)
        for n, prompt in enumerate(prompts)
        for sample in range(3)
    ]
    observer = Observer()
    observe(policy, observer)
    list(policy.generate(requests, SAMPLING))
    reports = observer.reports
    first, last = reports[0], reports[-1]
    assert (first.reading, first.prompt_tokens, first.tokens) == (True, 0, 0)
    read = [report.prompt_tokens for report in reports]
    assert read == sorted(read) and len(set(read)) > 2
    # Three samples share the reading of their prompt.
    assert {report.prompt_total for report in reports} == {sum(map(len, prompts))}
    assert not last.reading and last.prompt_tokens == last.prompt_total


def test_decoding_reports_are_limited_by_time() -> None:
    now, observer = [0.0], Observer()
    row = decoding.Row(REQUESTS[0], 8)
    reporter = decoding.DecodingReporter([row], observer, lambda: now[0])
    for _ in range(4):
        row.take(5, 0.0, frozenset())
        reporter.report([row])
        now[0] += decoding.REPORT_SECONDS * 0.6
    assert [report.tokens for report in observer.reports] == [1, 3]


@pytest.mark.parametrize("again", [False, True])
def test_micro_batch_reports_reach_the_tokens_of_the_batch(load: Load, again: bool) -> None:
    policy = load(train={"micro_batch_tokens": 16})
    items = tuple(
        DivergenceItem((3, 4, n), (5, 6, 7, n), tuple(range(8, 8 + n))) for n in (2, 0, 5, 3)
    )
    batch = DivergenceBatch(items, DivergenceSpec(), "initial", again)
    plain = policy.measure(batch)
    observer = Observer()
    observe(policy, observer)
    reported = policy.measure(batch)
    assert reported.loss == plain.loss
    assert all(
        np.array_equal(a.value, b.value) for a, b in zip(reported.tokens, plain.tokens, strict=True)
    )
    total = sum(7 + 2 * n for n in (2, 5, 3))  # an empty completion is not read
    done = [done for done, _ in observer.learnt]
    assert len(done) > 1 and done == sorted(done) and done[-1] == total
    assert {of for _, of in observer.learnt} == {total}
