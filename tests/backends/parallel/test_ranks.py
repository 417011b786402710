"""Several ranks do what one does: the same rollouts, log-probabilities, gradients and steps."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from backends.interface import (
    BatchReport,
    LossBatch,
    Policy,
    RolloutRequest,
    Sampling,
)
from backends.parallel.share import PROBE
from backends.shared.policy_base import PolicyBase
from opsd_cli.errors import ModelError, UsageError
from tests.support.ragged_batches import divergence_batch, gradient_batch, tokens
from tests.support.ranks import Loaded
from tests.support.tiny_models import build_teacher

SAMPLING = Sampling(temperature=0.8, top_p=0.9, max_new_tokens=6)


#: 33 items do not divide; 3 leave units, and ranks of four, without any.
BATCHES: dict[str, list[LossBatch]] = {
    "divergence": [divergence_batch(33), divergence_batch(33, "live")],
    "few items": [divergence_batch(3), divergence_batch(1)],
    "policy gradient": [gradient_batch(9), gradient_batch(5)],
    "both": [divergence_batch(5), gradient_batch(5)],
}


def trained(policy: Policy, batches: Sequence[LossBatch], folder: Path) -> tuple[str, list[Any]]:
    """The digest of the adapter after a step on each batch, and what the policy reported."""
    reports: list[Any] = []
    for batch in batches:
        report = policy.accumulate(batch)
        reports += [numbers(report), policy.apply(0.05)]
    policy.save(folder)
    weights = (folder / "adapter_model.safetensors").read_bytes()
    return hashlib.sha256(weights).hexdigest(), reports


def numbers(report: BatchReport) -> list[Any]:
    return [
        report.loss, report.trained_tokens, report.teacher_tokens,
        [[column.tolist() for column in (t.value, t.student_entropy, t.teacher_entropy, t.clipped)]
         for t in report.tokens],
    ]  # fmt: skip


@pytest.mark.parametrize("name", BATCHES)
def test_exact_sums_are_the_same_bits_on_every_number_of_ranks(
    loaded: Loaded, sizes: Sequence[int], name: str, tmp_path: Path
) -> None:
    found = []
    for size in sizes:
        with loaded(size) as policy:
            found.append(trained(policy, BATCHES[name], tmp_path / str(size)))
    assert all(each == found[0] for each in found)


def test_an_average_as_the_teacher_is_the_same_bits_too(
    loaded: Loaded, sizes: Sequence[int], tmp_path: Path
) -> None:
    batches = [divergence_batch(9), divergence_batch(9, "ema"), divergence_batch(10, "ema")]
    found = []
    for size in sizes:
        with loaded(size, teacher={"weights": "ema", "ema_decay": 0.5}) as policy:
            found.append(trained(policy, batches, tmp_path / str(size)))
    assert all(each == found[0] for each in found)


def test_another_model_as_the_teacher_is_the_same_bits_on_two_ranks(
    loaded: Loaded, tmp_path: Path
) -> None:
    teacher = {"model": str(build_teacher(tmp_path / "teacher"))}
    batches = [divergence_batch(9, "model"), divergence_batch(7)]
    found = []
    for size in (1, 2):
        with loaded(size, teacher=teacher) as policy:
            found.append(trained(policy, batches, tmp_path / str(size)))
            found[-1][1].append(policy.score(PROBE, "teacher", "model")[0].tolist())
    assert found[0] == found[1]


def test_dropout_is_the_same_on_every_number_of_ranks(
    loaded: Loaded, sizes: Sequence[int], tmp_path: Path
) -> None:
    found = []
    for size in sizes:
        with loaded(size, lora={"dropout": 0.3}) as policy:
            found.append(trained(policy, [divergence_batch(9)] * 2, tmp_path / str(size)))
    with loaded(1) as policy:
        without = trained(policy, [divergence_batch(9)] * 2, tmp_path / "without")
    assert all(each == found[0] for each in found)
    assert found[0] != without


def test_fast_sums_are_those_of_a_process_alone_to_rounding(
    loaded: Loaded, sizes: Sequence[int], tmp_path: Path
) -> None:
    """One process is then the plain policy, without units."""
    numbers_of: dict[int, list[float]] = {}
    adapters = {}
    for size in sizes:
        numbers_of[size] = []
        with loaded(size, "fast") as policy:
            for items in (33, 9):
                report = policy.accumulate(divergence_batch(items))
                assert len(report.tokens) == items
                numbers_of[size] += [report.loss, policy.apply(0.05)]
            policy.save_adapter(tmp_path / str(size))
        adapters[size] = load_file(tmp_path / str(size) / "adapter_model.safetensors")
    for size in sizes[1:]:
        np.testing.assert_allclose(numbers_of[size], numbers_of[1], rtol=1e-6)
        assert adapters[size].keys() == adapters[1].keys()
        for name, weights in adapters[1].items():
            np.testing.assert_allclose(adapters[size][name], weights, rtol=0, atol=1e-6)
    # Far more than that bound: AdamW moves a weight by up to the learning rate a step.
    assert max(abs(w).max() for name, w in adapters[1].items() if "lora_B" in name) > 0.01


def test_two_batches_before_a_step_add_up(loaded: Loaded, sizes: Sequence[int]) -> None:
    found = []
    for size in sizes[:2]:
        with loaded(size) as policy:
            policy.accumulate(divergence_batch(5))
            policy.accumulate(gradient_batch(4))
            found.append(policy.apply(0.05))
    with loaded(1, "fast") as policy:
        policy.accumulate(divergence_batch(5))
        policy.accumulate(gradient_batch(4))
        alone = policy.apply(0.05)
    assert found[0] == found[1]
    assert found[0] == pytest.approx(alone, rel=1e-5)


def test_rollouts_and_log_probabilities_do_not_depend_on_the_ranks(
    loaded: Loaded, sizes: Sequence[int]
) -> None:
    requests = [RolloutRequest(f"p{n // 2}", n % 2, tokens(n // 2, 4), n) for n in range(11)]
    found = []
    for size in sizes:
        with loaded(size) as policy:
            rollouts = {
                (r.request.problem_id, r.request.sample_index): r
                for r in policy.generate(requests, SAMPLING)
            }
            pairs = [(r.request.prompt_ids, r.completion_ids) for _, r in sorted(rollouts.items())]
            scores = policy.score(pairs, sampling=SAMPLING)
            found.append(([pair[1] for pair in pairs], [s.tolist() for s in scores]))
    assert all(each == found[0] for each in found)
    assert len(found[0][0]) == 11


def test_a_batch_that_comes_again_needs_no_second_pass_of_the_teacher(
    loaded: Loaded, sizes: Sequence[int]
) -> None:
    batch, anchor = divergence_batch(9, again=True), divergence_batch(9, again=True)
    for size in sizes[:2]:
        with loaded(size) as policy:
            first = [policy.accumulate(each).teacher_tokens for each in (batch, anchor)]
            policy.apply(0.01)
            second = [policy.accumulate(each).teacher_tokens for each in (batch, anchor)]
        assert min(first) > 0
        assert second == [0, 0]


def test_measurements_are_dealt_and_the_same_bits_on_every_number_of_ranks(
    loaded: Loaded, sizes: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = [divergence_batch(9), divergence_batch(1), gradient_batch(5)]
    here: list[int] = []
    measure = PolicyBase.measure

    def counting(self: Any, batch: LossBatch) -> BatchReport:
        here.append(len(batch.items))
        return measure(self, batch)

    monkeypatch.setattr(PolicyBase, "measure", counting)  # rank 0's alone
    found, read = [], []
    for size in sizes:
        here.clear()
        with loaded(size) as policy:
            found.append([numbers(policy.measure(batch)) for batch in batches])
        read.append(sum(here))
    assert all(each == found[0] for each in found)
    assert read[0] == sum(len(batch.items) for batch in batches)
    assert read == sorted(read, reverse=True) and read[0] > read[1]
    with loaded(1, "fast") as policy:
        alone = [policy.measure(batch).loss for batch in batches]
    assert [loss for loss, *_ in found[0]] == pytest.approx(alone, rel=1e-5)


def test_abandoned_rollouts_do_not_reach_the_next_call(loaded: Loaded) -> None:
    requests = [RolloutRequest(f"p{n}", 0, tokens(n, 4), n) for n in range(8)]
    with loaded(2) as policy:
        drawing = policy.generate(requests, SAMPLING)
        next(drawing)
        drawing.close()
        rest = [r.request.problem_id for r in policy.generate(requests[:3], SAMPLING)]
    assert sorted(rest) == ["p0", "p1", "p2"]


def test_a_checkpoint_moves_between_numbers_of_ranks(
    loaded: Loaded, sizes: Sequence[int], tmp_path: Path
) -> None:
    batches = BATCHES["divergence"]
    with loaded(1) as policy:
        whole, _ = trained(policy, [*batches, *batches], tmp_path / "whole")
    with loaded(sizes[-1]) as policy:
        trained(policy, batches, tmp_path / "half")
    with loaded(2) as policy:
        policy.restore(tmp_path / "half")
        rest, _ = trained(policy, batches, tmp_path / "rest")
    assert rest == whole


def test_what_a_worker_refuses_is_told_with_its_rank(loaded: Loaded) -> None:
    pairs = [((), (5,))] + [(tokens(n, 9), tokens(n, 5)) for n in range(7)]
    refused = pytest.raises(ModelError, match=r"^rank 1 of 2 .*: a prompt has no tokens")
    with loaded(2) as policy, refused:
        policy.score(pairs)


def test_a_number_of_ranks_that_does_not_divide_the_units_is_refused(loaded: Loaded) -> None:
    refused = pytest.raises(UsageError, match="8 units, which 3 ranks cannot share")
    with refused, loaded(3):
        pass


def test_another_model_on_a_rank_is_refused(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stand-in for a machine with other files: rank 0 takes its own replica for another one."""
    monkeypatch.setattr(
        "backends.parallel.share.Share.fingerprint", lambda self: ("", [-9.0, -9.0, -9.0, -9.0])
    )
    refused = pytest.raises(ModelError, match="rank 1 has loaded another adapter than rank 0")
    with refused, loaded(2):
        pass
