"""Our losses and gradients against those that TRL 1.16 computed from the same weights and ids.

The other side was recorded by `record_trl.py`, whose docstring has TRL's conventions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from backends.interface import (
    DivergenceBatch,
    DivergenceItem,
    Policy,
    PolicyGradientBatch,
    PolicyGradientItem,
    Rollout,
    RolloutRequest,
    Sampling,
)
from backends.pytorch.head import Head
from backends.pytorch.loss_head import chunked_divergence
from opsd_cli.config.schema import Config
from opsd_cli.losses.divergence import DivergenceSpec, value_and_gradient
from opsd_cli.losses.reduction import GRPO_LOSS_REDUCTIONS, completion_weights
from opsd_cli.methods.base import StepInputs
from opsd_cli.methods.grpo import Grpo, advantages
from opsd_cli.problems import Problem
from opsd_cli.rollouts.types import GradedRollout
from tests.support import oracle
from tests.support.backend_fixtures import Load
from tests.support.tiny_models import build_tokenizer

FILE = Path(__file__).with_name("trl.safetensors")
TENSORS = load_file(FILE)
with safe_open(FILE, "pt") as opened:
    RECORDED: dict[str, Any] = json.loads(opened.metadata()["recorded"])
PROMPTS = [tuple(ids) for ids in RECORDED["prompts"]]
TAUGHT = [tuple(ids) for ids in RECORDED["teacher_prompts"]]
COMPLETIONS = [tuple(ids) for ids in RECORDED["completions"]]
PAIRS = list(zip(PROMPTS, COMPLETIONS, strict=True))
LENGTHS = [len(ids) for ids in COMPLETIONS]
GROUP, TEMPERATURE = RECORDED["group"], RECORDED["temperature"]
CASES = list(enumerate(RECORDED["grpo"]["cases"]))
SDFT = list(enumerate(RECORDED["sdft"]))
TOLERANCE = 1e-5


def case_name(case: tuple[int, dict[str, Any]]) -> str:
    settings = case[1]
    if "alpha" in settings:
        return f"alpha-{settings['alpha']}"
    kind = "corrected" if settings["bias_corrected"] else "stale" if settings["stale"] else "fresh"
    return f"{settings['loss_type']}-{settings['scale']}-{settings['beta']}-{kind}"


def part(prefix: str) -> dict[str, torch.Tensor]:
    named = TENSORS.items()
    return {name.removeprefix(prefix): t for name, t in named if name.startswith(prefix)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded model, with both states of its adapter in folders "before" and "after"."""
    folder = tmp_path_factory.mktemp("trl")
    build_tokenizer(folder, pad_is_end=False)
    (folder / "config.json").write_text(json.dumps(RECORDED["config"]))
    save_file(part("model."), folder / "model.safetensors", metadata={"format": "pt"})
    for state in ("before", "after"):
        (folder / state).mkdir()
        (folder / state / "adapter_config.json").write_text(json.dumps(RECORDED["adapter"]))
        save_file(part(f"{state}."), folder / state / "adapter_model.safetensors")
    return folder


@pytest.fixture
def policy(load: Load, model: Path) -> Policy:
    """With the adapter that is trained."""
    loaded = load(model=str(model))
    loaded.load_adapter(model / "after")
    return loaded


def scored(policy: Policy, model: Path, adapter: str) -> list[np.ndarray]:
    """Our log-probabilities under a state of the adapter; the policy is left with "after"."""
    policy.load_adapter(model / adapter)
    found = policy.score(PAIRS, sampling=Sampling(TEMPERATURE))
    policy.load_adapter(model / "after")
    return found


def gradient_of(policy: Policy, folder: Path) -> np.ndarray:
    """What was accumulated, flat, in order of name."""
    found = oracle.gradient(policy, folder)
    return np.concatenate([tensor.ravel() for _, tensor in sorted(found.items())])


def assert_same_gradient(found: np.ndarray, wanted: torch.Tensor) -> None:
    """Within the tolerance of the largest entry."""
    largest = float(wanted.abs().max())
    assert largest > 0
    np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=TOLERANCE * largest)


def assert_same_numbers(found: Sequence[np.ndarray], wanted: Sequence[Sequence[float]]) -> None:
    flat = np.concatenate([np.asarray(row) for row in wanted])
    np.testing.assert_allclose(np.concatenate(found), flat, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("case", RECORDED["grpo"]["advantages"])
def test_advantages(case: dict[str, Any]) -> None:
    groups = np.array(case["rewards"]).reshape(-1, GROUP)
    found = np.concatenate([advantages(group, case["scale"]) for group in groups])
    np.testing.assert_allclose(found, case["advantages"], rtol=0, atol=TOLERANCE)


def test_old_and_initial_log_probabilities(policy: Policy, model: Path) -> None:
    assert_same_numbers(scored(policy, model, "before"), RECORDED["grpo"]["old_log_probs"])
    initial = policy.score(PAIRS, "teacher", "initial", Sampling(TEMPERATURE))
    assert_same_numbers(initial, RECORDED["grpo"]["initial_log_probs"])


def grpo_batch(
    case: dict[str, Any], old: Sequence[np.ndarray] | None, initial: Sequence[np.ndarray]
) -> PolicyGradientBatch:
    groups = np.array(RECORDED["rewards"]).reshape(-1, GROUP)
    each = np.concatenate([advantages(group, case["scale"]) for group in groups])
    reduction = GRPO_LOSS_REDUCTIONS[case["loss_type"]]
    weights = completion_weights(LENGTHS, reduction, RECORDED["longest"])
    items = tuple(
        PolicyGradientItem(
            *PAIRS[row],
            (float(each[row]),) * LENGTHS[row],
            weights[row],
            () if old is None else tuple(old[row].tolist()),
            tuple(initial[row].tolist()),
        )
        for row in range(len(PAIRS))
    )
    return PolicyGradientBatch(items, TEMPERATURE, 0.2, 0.28, case["beta"])


@pytest.mark.parametrize("case", [c for c in CASES if not c[1]["bias_corrected"]], ids=case_name)
def test_grpo(policy: Policy, model: Path, case: tuple[int, dict[str, Any]], tmp_path) -> None:  # type: ignore[no-untyped-def]
    place, settings = case
    # All log-probabilities are our own: of the state that sampled the completions, and of the base.
    old = scored(policy, model, "before" if settings["stale"] else "after")
    initial = policy.score(PAIRS, "teacher", "initial", Sampling(TEMPERATURE))
    report = policy.accumulate(grpo_batch(settings, old, initial))
    assert report.loss == pytest.approx(settings["loss"], rel=0, abs=TOLERANCE)
    assert_same_gradient(gradient_of(policy, tmp_path / "step"), TENSORS[f"grpo.{place}"])
    clipped = np.concatenate([tokens.clipped for tokens in report.tokens])
    share = settings["clipped_low"] + settings["clipped_high"]
    assert clipped.mean() == pytest.approx(share, abs=1e-6)
    assert (settings["clipped_low"] > 0.05 and settings["clipped_high"] > 0.05) == settings["stale"]
    if not settings["stale"]:
        # Without old log-probabilities the value is another, -A log p, and the gradient the same.
        policy.accumulate(grpo_batch(settings, None, initial))
        assert_same_gradient(gradient_of(policy, tmp_path / "plain"), TENSORS[f"grpo.{place}"])


@pytest.mark.parametrize(
    "case", [c for c in CASES if not (c[1]["stale"] or c[1]["bias_corrected"])], ids=case_name
)
def test_grpo_loss_plan(policy: Policy, case: tuple[int, dict[str, Any]], tmp_path) -> None:  # type: ignore[no-untyped-def]
    """The method as a whole, which leaves a group of equal rewards out of the forward pass."""
    place, settings = case
    config = Config(
        method="grpo",
        grpo={"loss": settings["loss_type"], "scale": settings["scale"], "kl": settings["beta"]},
        sampling={"temperature": TEMPERATURE, "max_new_tokens": RECORDED["longest"]},
    )
    rollouts = [
        GradedRollout(
            Rollout(RolloutRequest(str(row // GROUP), row, prompt, 0), ids, np.zeros(0), "stop"),
            Problem(str(row // GROUP), "", None, "", "made"),
            "",
            RECORDED["rewards"][row] == 1.0,
        )
        for row, (prompt, ids) in enumerate(PAIRS)
    ]
    plan = Grpo(config).build_loss(StepInputs(1, (), rollouts, None, None), policy)  # type: ignore[arg-type]
    (batch,) = plan.batches
    assert len(batch.items) == (len(PAIRS) if settings["beta"] else len(PAIRS) - GROUP)
    policy.accumulate(batch)
    assert_same_gradient(gradient_of(policy, tmp_path / "step"), TENSORS[f"grpo.{place}"])


def test_the_penalty_is_the_papers_and_not_the_corrected_one() -> None:
    """By default TRL multiplies the penalty by the ratio, which is another gradient, on purpose."""
    ((corrected, _),) = [c for c in CASES if c[1]["bias_corrected"]]
    ((plain, _),) = [c for c in CASES if case_name(c) == "grpo-group-0.04-fresh"]
    ours, theirs = TENSORS[f"grpo.{plain}"], TENSORS[f"grpo.{corrected}"]
    assert (ours - theirs).abs().max() > 100 * TOLERANCE * theirs.abs().max()


def spec_of(alpha: float, temperature: float = 1.0) -> DivergenceSpec:
    """`alpha` is the teacher's share, and its ends name the two KLs."""
    kind = {0.0: "forward_kl", 1.0: "reverse_kl"}.get(alpha, "jsd")
    return DivergenceSpec(kind, beta=alpha, temperature=temperature)  # type: ignore[arg-type]


@pytest.mark.parametrize("case", SDFT, ids=case_name)
def test_divergence_of_logits(case: tuple[int, dict[str, Any]]) -> None:
    """In float64, in NumPy and in torch; then by the loss head, whose logits these are."""
    place, settings = case
    student_NV, teacher_NV = TENSORS["sdft.student_logits"], TENSORS["sdft.teacher_logits"]
    wanted_N = TENSORS[f"sdft.{place}.values"]
    wanted_NV = TENSORS[f"sdft.{place}.logit_gradient"]
    spec = spec_of(settings["alpha"])
    for found_N, found_NV in (
        value_and_gradient(student_NV.numpy(), teacher_NV.numpy(), spec, np),
        value_and_gradient(student_NV, teacher_NV, spec, torch),
    ):
        np.testing.assert_allclose(found_N, wanted_N, rtol=0, atol=1e-12)
        np.testing.assert_allclose(found_NV, wanted_NV, rtol=0, atol=1e-12)
    hidden_NV = student_NV.float().requires_grad_()
    tokens, vocabulary = hidden_NV.shape
    found = chunked_divergence(
        hidden_NV, teacher_NV.float(), Head(torch.eye(vocabulary)), torch.ones(tokens), spec
    )
    found.loss.backward()
    np.testing.assert_allclose(found.value_N, wanted_N, rtol=0, atol=TOLERANCE)
    assert hidden_NV.grad is not None
    assert_same_gradient(hidden_NV.grad.numpy(), wanted_NV)


@pytest.mark.parametrize("case", SDFT, ids=case_name)
def test_self_distillation(policy: Policy, case: tuple[int, dict[str, Any]], tmp_path) -> None:  # type: ignore[no-untyped-def]
    """The whole loss of weights and ids: two prompts, a base teacher, the mean over sequences."""
    place, settings = case
    weights = completion_weights(LENGTHS, "sequences")
    items = tuple(
        DivergenceItem(*row) for row in zip(PROMPTS, TAUGHT, COMPLETIONS, weights, strict=True)
    )
    spec = spec_of(settings["alpha"], TEMPERATURE)
    report = policy.accumulate(DivergenceBatch(items, spec, "initial"))
    values = np.concatenate([tokens.value for tokens in report.tokens])
    # Of float32 logits on both sides, so that a token's rounding grows with its value.
    wanted = TENSORS[f"sdft.{place}.values"]
    np.testing.assert_allclose(values, wanted, rtol=TOLERANCE, atol=TOLERANCE)
    assert report.loss == pytest.approx(settings["loss"], rel=0, abs=TOLERANCE)
    assert_same_gradient(gradient_of(policy, tmp_path / "step"), TENSORS[f"sdft.{place}"])
