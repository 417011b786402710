"""The gradient of a loss whose slope is computed from the forward pass's own value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backends import get
from backends.interface import (
    DivergenceBatch,
    DivergenceItem,
    LossBatch,
    PolicyGradientBatch,
    PolicyGradientItem,
)
from opsd_cli.config.resolve import resolve
from opsd_cli.losses.divergence import DivergenceSpec

mx = pytest.importorskip("mlx.core", exc_type=ImportError)

PROMPTS = [(5, 6, 7, 8), (9, 4)]
COMPLETIONS = [(7, 8, 9), (5, 6, 4, 8, 9)]
SLOPES = (1.0, -0.5, 2.0, 0.25, -1.0)

DIVERGENCE = DivergenceBatch(
    tuple(
        DivergenceItem(prompt, (4, *prompt), completion, 0.2)
        for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True)
    ),
    DivergenceSpec("jsd"),
)
POLICY_GRADIENT = PolicyGradientBatch(
    tuple(
        PolicyGradientItem(prompt, completion, SLOPES[: len(completion)], 0.2)
        for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True)
    )
)


def policy_of(*settings: str) -> Any:
    policy = get("mlx").load(resolve(None, ["lora.rank=4", *settings]), trainable=True)
    random = np.random.default_rng(0)
    adapter = policy._require_adapter()
    adapter.assign(
        {
            name: mx.array(random.normal(0, 0.05, array.shape).astype(np.float32))
            for name, array in adapter.parameters.items()
        }
    )
    return policy


def gradients_of(policy: Any) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in policy._require_optimizer().gradients.items()}


def gradients_by_second_pass(policy: Any, batch: LossBatch) -> dict[str, np.ndarray]:
    """Hidden states by one forward pass, and the gradient of their product with the loss's slope
    by another."""
    import backends.mlx.policy as module

    def vjp(function: Any, primals: Any, shape: Any) -> tuple[Any, Any]:
        value = function(*primals)
        mx.eval(value)

        def pull_back(slope_ND: Any) -> Any:
            def product(*weights: Any) -> Any:
                return (function(*weights) * mx.stop_gradient(slope_ND.astype(mx.float32))).sum()

            return mx.grad(product, argnums=list(range(len(primals))))(*primals)

        return value, pull_back

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "vjp", vjp)
        policy.accumulate(batch)
    found = gradients_of(policy)
    policy._require_optimizer().drop_gradients()
    return found


@pytest.mark.parametrize("batch", [DIVERGENCE, POLICY_GRADIENT], ids=["opsd", "policy_gradient"])
@pytest.mark.parametrize("checkpointing", ["false", "true"])
def test_gradient_equals_that_of_a_second_forward_pass(
    batch: LossBatch, checkpointing: str
) -> None:
    policy = policy_of(f"train.gradient_checkpointing={checkpointing}")
    reference = gradients_by_second_pass(policy, batch)
    policy.accumulate(batch)
    found = gradients_of(policy)
    assert found.keys() == reference.keys()
    largest = max(np.abs(array).max() for array in reference.values())
    assert largest > 1e-4
    for name, array in reference.items():
        np.testing.assert_allclose(found[name], array, atol=1e-5 * largest, rtol=1e-4)


def test_gradient_accumulates_over_micro_batches() -> None:
    gradients = []
    for tokens in ("4096", "8"):
        policy = policy_of(f"train.micro_batch_tokens={tokens}")
        policy.accumulate(DIVERGENCE)
        gradients.append(gradients_of(policy))
    for name, array in gradients[0].items():
        np.testing.assert_allclose(gradients[1][name], array, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("batch", [DIVERGENCE, POLICY_GRADIENT], ids=["opsd", "policy_gradient"])
def test_training_reads_the_student_once(batch: LossBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of()
    passes: list[object] = []
    forward = policy._completion_hidden_states

    def counted(pairs: Any) -> Any:
        passes.append(pairs)
        return forward(pairs)

    monkeypatch.setattr(policy, "_completion_hidden_states", counted)
    policy.accumulate(batch)
    teacher = 1 if batch is DIVERGENCE else 0
    assert len(passes) == 1 + teacher


def test_pull_back_is_the_transposed_jacobian() -> None:
    from backends.mlx.pullback import vjp

    weights = mx.array(np.arange(6, dtype=np.float32).reshape(2, 3))
    value, pull_back = vjp(lambda w: mx.square(w).sum(axis=1), [weights], (2,))
    assert value.tolist() == [5.0, 50.0]
    (gradient,) = pull_back(value)  # the cotangent is made of the value
    np.testing.assert_allclose(
        np.array(gradient), 2 * np.array(weights) * np.array([[5.0], [50.0]])
    )


def test_dropout_is_the_same_in_value_and_gradient() -> None:
    policy = policy_of("lora.dropout=0.5")
    reference = gradients_by_second_pass(policy, DIVERGENCE)
    policy.accumulate(DIVERGENCE)
    found = gradients_of(policy)
    for name, array in reference.items():
        np.testing.assert_allclose(found[name], array, atol=1e-6, rtol=1e-3)
