"""Conformance: a beginning that all prompts share is read once, and changes no rollout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.interface import Rollout, RolloutRequest, Sampling
from tests.support import oracle
from tests.support.backend_fixtures import Load
from tests.support.tiny_models import FAMILIES

BEGINNING = (9, 14, 3, 22, 17)
#: What follows it: unequal lengths, twice the same, and a single token, which is drawn from.
OWN = ((5, 6, 7, 8), (12, 4), (7,), (12, 4), (20, 21, 22, 23, 10, 11, 6))
APART = [RolloutRequest(str(n), 0, BEGINNING + own, 7 * n) for n, own in enumerate(OWN)]
SHARED = [replace(request, shared=len(BEGINNING)) for request in APART]
SAMPLING = Sampling(temperature=1.2, max_new_tokens=9)


def in_order(rollouts: list[Rollout]) -> list[Rollout]:
    return sorted(rollouts, key=lambda rollout: rollout.request.problem_id)


@pytest.mark.parametrize("batch_size", [3, 8])
@pytest.mark.parametrize("family", FAMILIES)
def test_shared_beginning_changes_no_rollout(
    load: Load, model_folder: Callable[[str], Path], family: str, batch_size: int
) -> None:
    policy = load(family, trainable=False, rollouts={"batch_size": batch_size})
    apart = in_order(list(policy.generate(APART, SAMPLING)))
    shared = in_order(list(policy.generate(SHARED, SAMPLING)))
    model = oracle.dense(model_folder(family))
    for one, other in zip(apart, shared, strict=True):
        assert one.completion_ids == other.completion_ids
        np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-4)
        logits = model.logits(other.request.prompt_ids, other.completion_ids) / 1.2
        log_p = logits.log_softmax(-1).detach().numpy()
        wanted = log_p[range(len(other.completion_ids)), list(other.completion_ids)]
        np.testing.assert_allclose(other.log_probs, wanted, atol=1e-3)


def test_shared_beginning_is_read_once(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = load(trainable=False, rollouts={"batch_size": 8})
    model: Any = policy._split_model  # type: ignore[attr-defined]
    hidden, read = model.hidden, []

    def counted(ids: Any, *args: Any, **kwargs: Any) -> Any:
        read.append(tuple(ids.shape))
        return hidden(ids, *args, **kwargs)

    monkeypatch.setattr(model, "hidden", counted)
    one_token = replace(SAMPLING, max_new_tokens=1)
    list(policy.generate(SHARED, one_token))
    distinct, longest = len(set(OWN)), max(map(len, OWN)) - 1
    assert read[:2] == [(1, len(BEGINNING)), (distinct, longest)]
    read.clear()
    list(policy.generate(APART, one_token))
    assert read[0] == (distinct, len(BEGINNING) + longest)
