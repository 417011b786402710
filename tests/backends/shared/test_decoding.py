"""The decoding loop over a batch without a model: which rows are admitted, finished and dropped."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from backends.interface import Rollout, RolloutRequest, Sampling
from backends.shared.decoding import Row, ShareRead, distinct_prompts, generate
from opsd_cli.errors import TrainingError

STOP = 0


class CountingBatch:
    """Draws token 1 until a row has as many tokens as its seed says, then the stop token."""

    def __init__(self, compacts: bool = True, log_prob: float = -0.5) -> None:
        self.rows: list[Row | None] = []
        self.compacts = compacts
        self.log_prob = log_prob
        self.admitted: list[list[str]] = []
        self.sizes: list[int] = []

    @property
    def admits(self) -> bool:
        return None not in self.rows

    def admit(self, rows: list[Row], read: ShareRead | None = None, shared: int = 0) -> None:
        self.admitted.append([row.request.problem_id for row in rows])
        self.shared = shared
        self.rows = [*self.rows, *rows]

    def draw(self) -> tuple[list[int], list[float]]:
        self.sizes.append(len(self.rows))
        last = [row is not None and len(row.ids) + 1 >= row.request.seed for row in self.rows]
        return [STOP if ends else 1 for ends in last], [self.log_prob] * len(self.rows)

    def compact(self) -> None:
        if self.compacts or not any(self.rows):
            self.rows = [row for row in self.rows if row is not None]


def request(name: str, prompt: int, tokens: int, sample: int = 0) -> RolloutRequest:
    """A prompt of so many tokens whose completion has so many."""
    return RolloutRequest(name, sample, tuple(range(5, 5 + prompt)), tokens)


def drawn(
    batch: CountingBatch,
    requests: Sequence[RolloutRequest],
    size: int,
    context: int | None = None,
    new: int = 100,
) -> list[Rollout]:
    sampling = Sampling(max_new_tokens=new)
    return list(generate(batch, requests, sampling, frozenset([STOP]), context, size))


def test_decoding_finishes_every_request_and_yields_in_the_order_of_ending() -> None:
    requests = [request("long", 3, 7), request("short", 2, 2), request("middle", 1, 4)]
    found = drawn(CountingBatch(), requests, 8)
    assert [rollout.request.problem_id for rollout in found] == ["short", "middle", "long"]
    assert [len(rollout.completion_ids) for rollout in found] == [2, 4, 7]
    assert all(rollout.completion_ids[-1] == STOP for rollout in found)
    assert all(rollout.finish_reason == "stop" for rollout in found)


def test_decoding_reads_the_longest_prompts_first_and_samples_of_a_prompt_together() -> None:
    requests = [request("a", 2, 3, k) for k in range(2)] + [request("b", 4, 3, k) for k in range(2)]
    batch = CountingBatch()
    drawn(batch, requests, 2)
    assert batch.admitted == [["b", "b"], ["a", "a"]]


def test_decoding_admits_waiting_rows_once_a_quarter_of_the_batch_is_free() -> None:
    requests = [request(f"p{n}", 20 - n, 2 + n) for n in range(16)]
    batch = CountingBatch()
    drawn(batch, requests, 8)
    assert [len(names) for names in batch.admitted[:3]] == [8, 2, 2]
    assert max(batch.sizes) == 8


def test_decoding_admits_no_rows_beside_finished_ones_that_the_batch_keeps() -> None:
    requests = [request(f"p{n}", 20 - n, 2 + n) for n in range(6)]
    batch = CountingBatch(compacts=False)
    found = drawn(batch, requests, 3)
    assert [len(names) for names in batch.admitted] == [3, 3]
    assert len(found) == 6


def test_decoding_ends_at_max_new_tokens_and_at_the_context_limit() -> None:
    requests = [request("full", 9, 5), request("near", 7, 5), request("free", 2, 9)]
    found = {r.request.problem_id: r for r in drawn(CountingBatch(), requests, 4, 9, 4)}
    assert {name: len(r.completion_ids) for name, r in found.items()} == {
        "full": 0, "near": 2, "free": 4,
    }  # fmt: skip
    assert all(rollout.finish_reason == "length" for rollout in found.values())


def test_decoding_refuses_nan_log_probabilities() -> None:
    with pytest.raises(TrainingError, match=r"not numbers \(problem a\)"):
        drawn(CountingBatch(log_prob=float("nan")), [request("a", 2, 3)], 4)


def test_distinct_prompts_are_read_once() -> None:
    rows = [Row(request(name, size, 3), 3) for name, size in (("a", 3), ("b", 2), ("a", 3))]
    prompts, of_row = distinct_prompts(rows)
    assert prompts == [(5, 6, 7), (5, 6)] and of_row == [0, 1, 0]


def test_decoding_tells_the_batch_what_its_prompts_share() -> None:
    batch = CountingBatch()
    drawn(batch, [RolloutRequest(str(n), 0, (*range(100), n), 1) for n in (101, 102)], size=1)
    assert batch.admitted == [["101"], ["102"]] and batch.shared == 96
