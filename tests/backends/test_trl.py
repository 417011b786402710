"""Our losses and gradients against TRL's, on the same weights, token ids, rewards and settings.

The other side was recorded by `record_trl.py` with TRL 1.16.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.interface import (
    DivergenceBatch,
    DivergenceItem,
    PolicyGradientBatch,
    PolicyGradientItem,
)
from opsd_cli.divergence import DivergenceSpec
from opsd_cli.methods import token_weights
from opsd_cli.methods.grpo import advantages, sequence_weights
from tests.backends import oracle
from tests.backends.conftest import Load

FOLDER = Path(__file__).parent.parent / "data" / "trl"
RECORDED: dict[str, Any] = json.loads((FOLDER / "recorded.json").read_text())
PROMPTS = [tuple(ids) for ids in RECORDED["prompts"]]
COMPLETIONS = [tuple(ids) for ids in RECORDED["completions"]]
LENGTHS = [len(ids) for ids in COMPLETIONS]
TOLERANCE = 1e-5


@pytest.fixture
def policy(load: Load):  # type: ignore[no-untyped-def]
    loaded = load(model=str(FOLDER / "model"))
    loaded.load_adapter(FOLDER / "adapter")
    return loaded


def shaped(recorded: dict[str, list[float]], like: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.array(recorded[name]).reshape(value.shape) for name, value in like.items()}


@pytest.mark.parametrize(
    "case",
    RECORDED["grpo"]["cases"],
    ids=lambda c: f"{c['loss_type']}-{c['beta']}-{c['scale']}-{'old' if c['old'] else 'fresh'}",
)
def test_grpo_is_trls(policy, case: dict[str, Any], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    groups = np.array(RECORDED["rewards"]).reshape(-1, RECORDED["group"])
    each = np.concatenate([advantages(group, case["scale"]) for group in groups])
    np.testing.assert_allclose(each, case["advantages"], rtol=TOLERANCE, atol=1e-6)
    weights = sequence_weights(LENGTHS, case["loss_type"], RECORDED["longest"])
    items = tuple(
        PolicyGradientItem(
            prompt,
            completion,
            (advantage,) * len(completion),
            weight,
            tuple(old) if case["old"] else (),
            tuple(initial),
        )
        for prompt, completion, advantage, weight, old, initial in zip(
            PROMPTS,
            COMPLETIONS,
            each.tolist(),
            weights,
            RECORDED["grpo"]["old_log_probs"],
            RECORDED["grpo"]["initial_log_probs"],
            strict=True,
        )
    )
    batch = PolicyGradientBatch(items, RECORDED["temperature"], 0.2, 0.28, case["beta"])
    report = policy.accumulate(batch)
    if case["old"]:  # without, TRL's value is -A where ours is -A log p: the same gradient
        assert report.loss == pytest.approx(case["loss"], rel=TOLERANCE, abs=TOLERANCE)
        clipped = np.concatenate([tokens.clipped for tokens in report.tokens])
        assert 0 < clipped.mean() < 1
    found = oracle.gradient(policy, tmp_path / "step")
    oracle.assert_close(found, shaped(case["gradient"], found), TOLERANCE)


@pytest.mark.parametrize("case", RECORDED["sdft"], ids=lambda case: f"alpha-{case['alpha']}")
def test_the_divergence_is_trls(policy, case: dict[str, Any], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    kinds = {
        0.0: DivergenceSpec("forward_kl"),
        0.5: DivergenceSpec("jsd", beta=0.5),
        1.0: DivergenceSpec("reverse_kl"),
    }
    items = tuple(
        DivergenceItem(prompt, tuple(taught), completion, weight)
        for prompt, taught, completion, weight in zip(
            PROMPTS,
            RECORDED["teacher_prompts"],
            COMPLETIONS,
            token_weights(LENGTHS, "sequences"),
            strict=True,
        )
    )
    report = policy.accumulate(DivergenceBatch(items, kinds[case["alpha"]], "initial"))
    for tokens, values in zip(report.tokens, case["values"], strict=True):
        np.testing.assert_allclose(tokens.value, values, rtol=TOLERANCE, atol=TOLERANCE)
    assert report.loss == pytest.approx(case["loss"], rel=TOLERANCE, abs=TOLERANCE)
    found = oracle.gradient(policy, tmp_path / "step")
    oracle.assert_close(found, shaped(case["gradient"], found), TOLERANCE)
