"""Conformance: steps of the optimiser, checkpoints, and adapters in PEFT's format."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from backends.interface import (
    DivergenceBatch,
    DivergenceItem,
    Policy,
    RolloutRequest,
    Sampling,
)
from opsd_cli.errors import ModelError, TrainingError
from opsd_cli.losses.divergence import DivergenceSpec
from tests.support import oracle
from tests.support.backend_fixtures import LORA, Load

ITEMS = (
    DivergenceItem((5, 6, 7), (8, 9, 10, 11), (12, 13, 14, 0), 0.5),
    DivergenceItem((4,), (9, 4), (0,), 1.0),
)
BATCH = DivergenceBatch(ITEMS, DivergenceSpec("jsd"), "initial")
PAIRS = [(item.student_prompt, item.completion) for item in ITEMS]


def step(policy: Policy, rate: float = 0.05, batch: DivergenceBatch = BATCH) -> float:
    policy.accumulate(batch)
    return policy.apply(rate)


def scores(policy: Policy) -> np.ndarray:
    return np.concatenate(policy.score(PAIRS))


def test_two_optimizer_steps_equal_adamw(load: Load, tmp_path: Path) -> None:
    """Against AdamW written out in float64, with decay, moments and clipping at work."""
    beta1, beta2, decay, limit = 0.8, 0.95, 0.1, 0.01
    policy = load(
        optimizer={"betas": (beta1, beta2), "weight_decay": decay, "max_grad_norm": limit}
    )
    plain = load()
    policy.save_adapter(tmp_path / "start")
    weights = {k: v.astype(np.float64) for k, v in oracle.weights(tmp_path / "start").items()}
    first = {name: np.zeros_like(w) for name, w in weights.items()}
    second = {name: np.zeros_like(w) for name, w in weights.items()}
    for number, rate in ((1, 0.05), (2, 0.02)):
        policy.save_adapter(tmp_path / "now")
        plain.load_adapter(tmp_path / "now")
        plain.accumulate(BATCH)
        gradient = oracle.gradient(plain, tmp_path / "plain")
        norm = float(np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradient.values())))
        assert norm > limit
        assert step(policy, rate) == pytest.approx(norm, rel=1e-5)
        for name, w in weights.items():
            g = gradient[name] * (limit / norm)
            first[name] = beta1 * first[name] + (1 - beta1) * g
            second[name] = beta2 * second[name] + (1 - beta2) * g**2
            m, v = first[name] / (1 - beta1**number), second[name] / (1 - beta2**number)
            weights[name] = w * (1 - rate * decay) - rate * m / (np.sqrt(v) + 1e-8)
    policy.save(tmp_path / "end")
    # Entries whose gradient is nothing but rounding may move by as much as the others.
    found = oracle.weights(tmp_path / "end")
    for name, w in weights.items():
        close = np.isclose(found[name], w, rtol=1e-4, atol=1e-5)
        assert (close | (np.sqrt(second[name]) < 1e-7)).all(), name
    oracle.assert_close(oracle.optimizer_state(tmp_path / "end", "exp_avg"), first, 1e-3)


def test_gradient_below_max_grad_norm_is_not_clipped(load: Load, tmp_path: Path) -> None:
    policy = load(optimizer={"max_grad_norm": 1e6})
    policy.accumulate(BATCH)
    norm = policy.apply(0.0)
    policy.save(tmp_path)
    first = oracle.optimizer_state(tmp_path, "exp_avg")
    assert np.sqrt(sum((g**2).sum() for g in first.values())) == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_non_finite_gradient_changes_nothing(load: Load, tmp_path: Path, bad: float) -> None:
    policy = load(teacher={"weights": "ema", "ema_decay": 0.5})
    step(policy)
    policy.save(tmp_path / "before")
    broken = DivergenceItem((4,), (9, 4), (12, 13), bad)
    policy.accumulate(DivergenceBatch((*ITEMS, broken), DivergenceSpec(), "initial"))
    with pytest.raises(TrainingError, match="not finite"):
        policy.apply(0.05)
    policy.save(tmp_path / "after")
    for name in ("adapter_model.safetensors", "optimizer.safetensors"):
        assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes()
    # The gradient is gone too: the next step is the one of its own batch.
    again = load(teacher={"weights": "ema", "ema_decay": 0.5})
    again.restore(tmp_path / "before")
    assert step(policy) == step(again)
    np.testing.assert_array_equal(scores(policy), scores(again))


@pytest.mark.parametrize("start", [False, True], ids=["fresh", "started"])
def test_restored_policy_continues_bit_for_bit(
    load: Load, model_folder: Callable[[str], Path], tmp_path: Path, start: bool
) -> None:
    sections = {
        "lora": {"dropout": 0.4},
        "teacher": {"weights": "ema", "ema_decay": 0.5},
        "optimizer": {"betas": (0.9, 0.99), "max_grad_norm": 0.1},
    }
    if start:
        folder = oracle.random_adapter(model_folder("qwen3"), tmp_path / "start", 4, 0.1)
        sections["adapter"] = str(folder)
    batches = [DivergenceBatch(ITEMS, DivergenceSpec(), w) for w in ("ema", "initial")]
    policy = load(**sections)
    step(policy, batch=batches[0])
    policy.save(tmp_path / "middle")
    for batch in batches:
        step(policy, batch=batch)
    policy.save(tmp_path / "end")
    resumed = load(**sections)
    step(resumed)
    resumed.restore(tmp_path / "middle")
    resumed.save(tmp_path / "middle-again")
    for batch in batches:
        step(resumed, batch=batch)
    resumed.save(tmp_path / "end-again")
    for folder in ("middle", "end"):
        for name in ("adapter_model.safetensors", "adapter_config.json", "optimizer.safetensors"):
            one, other = tmp_path / folder / name, tmp_path / f"{folder}-again" / name
            assert one.read_bytes() == other.read_bytes(), (folder, name)
    assert (tmp_path / "middle" / "adapter_model.safetensors").read_bytes() != (
        tmp_path / "end" / "adapter_model.safetensors"
    ).read_bytes()


def test_policy_saved_before_its_first_step_can_be_restored(load: Load, tmp_path: Path) -> None:
    policy = load()
    policy.save(tmp_path)
    step(policy)
    wanted = scores(policy)
    policy.restore(tmp_path)
    assert np.abs(scores(policy) - wanted).max() > 1e-3
    step(policy)
    np.testing.assert_array_equal(scores(policy), wanted)


def test_restore_of_a_missing_or_damaged_state_is_refused(load: Load, tmp_path: Path) -> None:
    plain, averaged = load(), load(teacher={"weights": "ema"})
    with pytest.raises(ModelError, match="cannot be read"):
        plain.restore(tmp_path / "nothing")
    plain.save(tmp_path / "plain")
    with pytest.raises(ModelError, match=r"ema\..* is missing"):
        averaged.restore(tmp_path / "plain")
    (tmp_path / "plain" / "optimizer.safetensors").write_bytes(b"cut off")
    with pytest.raises(ModelError, match="cannot be read"):
        plain.restore(tmp_path / "plain")


def test_fresh_adapter_is_reproducible_from_the_seed(load: Load, tmp_path: Path) -> None:
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        load(seed=seed).save_adapter(tmp_path / name)
    a, b, c = ((tmp_path / n / "adapter_model.safetensors").read_bytes() for n in "abc")
    assert a == b != c


@pytest.mark.parametrize("family", ["qwen3", "gemma2"])
@pytest.mark.parametrize("variant", [{}, {"rslora": True}, {"dora": True}], ids=str)
def test_peft_loads_a_saved_adapter(
    load: Load, model_folder: Callable[[str], Path], tmp_path: Path, family: str, variant: dict
) -> None:
    policy = load(family, lora=variant)
    for _ in range(3):
        step(policy)
    policy.save_adapter(tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(model_folder(family))
    assert settings["target_modules"] == sorted(LORA["targets"])
    base = AutoModelForCausalLM.from_pretrained(model_folder(family))
    theirs = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    prompt = (5, 6, 7)
    (rollout,) = policy.generate(
        [RolloutRequest("p", 0, prompt, 0)], Sampling(temperature=0.0, max_new_tokens=12)
    )
    ids = torch.tensor([prompt])
    whole = theirs.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=12,
        do_sample=False,
        pad_token_id=0,
        suppress_tokens=list(
            range(oracle.dense(model_folder(family)).vocabulary, base.config.vocab_size)
        )
        or None,
    )
    assert tuple(whole[0, len(prompt) :].tolist()) == rollout.completion_ids


def test_load_adapter_takes_weights_alone(
    load: Load, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    trained = load()
    step(trained)
    trained.save_adapter(tmp_path / "trained")
    wanted = scores(trained)
    other = load()
    initial = other.score(PAIRS, role="teacher", teacher="initial")
    other.load_adapter(tmp_path / "trained")
    np.testing.assert_array_equal(scores(other), wanted)
    after = other.score(PAIRS, role="teacher", teacher="initial")
    np.testing.assert_array_equal(np.concatenate(after), np.concatenate(initial))
    # Also into a policy that had none, which then has a student and a base to compare.
    bare = load(trainable=False)
    bare.load_adapter(tmp_path / "trained")
    np.testing.assert_array_equal(scores(bare), wanted)
    after = bare.score(PAIRS, role="teacher", teacher="initial")
    np.testing.assert_allclose(np.concatenate(after), np.concatenate(initial), atol=1e-6)


def test_starting_adapter_keeps_its_rank_and_targets(
    load: Load, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = oracle.random_adapter(model_folder("qwen3"), tmp_path / "start", 6)
    policy = load(adapter=str(folder), lora={"rank": 11, "targets": ["o_proj"]})
    policy.save_adapter(tmp_path / "again")
    oracle.assert_close(oracle.weights(tmp_path / "again"), oracle.weights(folder), 0)
    settings = json.loads((tmp_path / "again" / "adapter_config.json").read_text())
    assert settings["r"] == LORA["rank"] and settings["lora_alpha"] == LORA["alpha"]
    step(policy)
    policy.save_adapter(tmp_path / "trained")
    trained, start = oracle.weights(tmp_path / "trained"), oracle.weights(folder)
    assert all((trained[name] != start[name]).any() for name in start)


def test_an_adapter_that_does_not_fit_is_refused_and_changes_nothing(
    load: Load, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    policy = load()
    before = scores(policy)
    ours = oracle.random_adapter(model_folder("qwen3"), tmp_path / "ours", 7)
    variants = {"rank": {"lora": {"rank": 5}}, "targets": {"lora": {"targets": ["q_proj"]}}}
    for name, sections in variants.items():
        load(**sections).save_adapter(tmp_path / name)
        with pytest.raises(ModelError, match="does not fit"):
            policy.load_adapter(tmp_path / name)
    load(lora={"alpha": 60}).save_adapter(tmp_path / "alpha")
    with pytest.raises(ModelError, match=r"lora_alpha is 60\S*, here 6"):
        policy.load_adapter(tmp_path / "alpha")
    with pytest.raises(ModelError, match="holds no adapter"):
        policy.load_adapter(tmp_path)
    (ours / "adapter_model.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(ModelError, match="cannot be read"):
        policy.load_adapter(ours)
    (ours / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match="holds no adapter weights"):
        policy.load_adapter(ours)
    np.testing.assert_array_equal(scores(policy), before)


def test_policy_loaded_for_inference_does_not_train(load: Load, tmp_path: Path) -> None:
    policy = load(trainable=False)
    for attempt in (
        lambda: policy.accumulate(BATCH),
        lambda: policy.apply(0.1),
        lambda: policy.save(tmp_path / "x"),
        lambda: policy.save_adapter(tmp_path / "x"),
    ):
        with pytest.raises(ModelError):
            attempt()
    assert not (tmp_path / "x").exists()
    assert policy.measure(BATCH).loss > 0


def test_memory_in_use_is_at_most_the_peak(load: Load) -> None:
    memory = load().memory()
    assert 0 < memory.current <= memory.peak
