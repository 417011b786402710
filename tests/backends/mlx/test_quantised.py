"""Quantised bases (QLoRA): everything as on the same weights written out in full.

Dequantising is exact in float32, so the oracle is the dense suite's own, on a second folder with
the dequantised weights: loss, gradient, scores, rollouts and the merged model must all agree.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM

from backends import get
from backends.interface import (
    DivergenceBatch,
    DivergenceItem,
    PolicyGradientBatch,
    PolicyGradientItem,
    RolloutRequest,
    Sampling,
)
from opsd_cli.config.schema import Config
from opsd_cli.losses.divergence import DivergenceSpec
from tests.support import oracle, tiny_models
from tests.support.backend_fixtures import LORA
from tests.support.loss_batches import ITEMS, dense_loss

pytest.importorskip("mlx_lm", exc_type=ImportError)


@pytest.fixture(scope="module", params=[(4, True), (4, False), (8, True), (8, False)], ids=str)
def folders(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A quantised model (bits, tied head), and its weights written out in full."""
    from mlx_lm.utils import dequantize_model, load_model, quantize_model, save_config, save_model

    bits, tied = request.param
    root = tmp_path_factory.mktemp("quantised")
    full, small, plain = root / "full", root / "small", root / "plain"
    for folder in (full, small, plain):
        ids = tiny_models.build_tokenizer(folder, pad_is_end=False)
    torch.manual_seed(0)
    # A group is 32 numbers of a row, so that no layer may be narrower.
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=ids, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
            tie_word_embeddings=tied, bos_token_id=None, eos_token_id=0, pad_token_id=None,
        )
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.25)
    model.generation_config = GenerationConfig(eos_token_id=0)
    model.save_pretrained(full)
    network, settings = load_model(full)
    quantised, quantised_settings = quantize_model(network, settings, group_size=32, bits=bits)
    save_model(small, quantised)
    save_config(quantised_settings, small / "config.json")
    dequantised = dequantize_model(quantised)
    save_model(plain, dequantised)
    save_config(json.loads((full / "config.json").read_text()), plain / "config.json")
    for folder in (small, plain):
        model.generation_config.save_pretrained(folder)
    return small, plain


@pytest.fixture
def policy(folders: tuple[Path, Path]) -> Callable[..., Any]:
    """A policy on the quantised model."""

    def loaded(trainable: bool = True, adapter: Path | None = None, **sections: Any) -> Any:
        config = Config(
            model=str(folders[0]),
            adapter=None if adapter is None else str(adapter),
            lora=LORA,
            optimizer={"betas": (0.0, 0.999), "max_grad_norm": 1e9},
            **({"train": {"dtype": "float32"}} | sections),
        )
        return get("mlx").load(config, trainable)

    return loaded


@pytest.fixture
def adapter(folders: tuple[Path, Path], tmp_path: Path) -> Path:
    return oracle.random_adapter(folders[1], tmp_path / "adapter", 3)


def test_base_stays_quantised(policy: Callable[..., Any]) -> None:
    assert "4-bit" in policy().description or "8-bit" in policy().description


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_divergence_and_gradient_equal_the_dense_ones(
    policy: Callable[..., Any],
    folders: tuple[Path, Path],
    adapter: Path,
    tmp_path: Path,
    kind: str,
    checkpointing: bool,
) -> None:
    own = policy(train={"dtype": "float32", "gradient_checkpointing": checkpointing})
    own.load_adapter(adapter)
    batch = DivergenceBatch(ITEMS, DivergenceSpec(kind, 0.3, 1.3), "initial")  # type: ignore[arg-type]
    student = oracle.Dense(folders[1], adapter)
    values, loss = dense_loss(batch, student, oracle.Dense(folders[1]))
    report = own.accumulate(batch)
    assert report.loss == pytest.approx(float(loss.detach()), rel=1e-4)
    for tokens, wanted in zip(report.tokens, values, strict=True):
        np.testing.assert_allclose(tokens.value, wanted.detach(), rtol=1e-3, atol=1e-5)
    oracle.assert_close(oracle.gradient(own, tmp_path / "step"), student.gradient(loss))


def test_policy_gradient_equals_the_dense_one(
    policy: Callable[..., Any], folders: tuple[Path, Path], adapter: Path, tmp_path: Path
) -> None:
    own = policy()
    own.load_adapter(adapter)
    items = tuple(
        PolicyGradientItem(i.student_prompt, i.completion, (0.7,) * len(i.completion), i.weight)
        for i in ITEMS
    )
    student = oracle.Dense(folders[1], adapter)
    loss = torch.zeros((), dtype=torch.float64)
    for item in items:
        log_p = student.logits(item.prompt, item.completion).log_softmax(-1)
        chosen = log_p.gather(-1, torch.tensor(item.completion)[:, None])
        loss = loss - item.weight * 0.7 * chosen.sum()
    report = own.accumulate(PolicyGradientBatch(items))
    assert report.loss == pytest.approx(float(loss.detach()), rel=1e-4)
    oracle.assert_close(oracle.gradient(own, tmp_path / "step"), student.gradient(loss))


def test_rollouts_equal_the_dense_models(
    policy: Callable[..., Any], folders: tuple[Path, Path], adapter: Path
) -> None:
    requests = [RolloutRequest(str(i), 0, (5, 6, 7 + i), i) for i in range(8)]
    dense = get("cpu").load(
        Config(model=str(folders[1]), adapter=str(adapter), train={"dtype": "float32"}), False
    )
    own = policy(trainable=False, adapter=adapter)
    wanted = {r.request: r.completion_ids for r in dense.generate(requests, Sampling(1.0, 0.9))}
    found = {r.request: r.completion_ids for r in own.generate(requests, Sampling(1.0, 0.9))}
    assert found == wanted


@pytest.mark.parametrize("variant", [{}, {"dora": True}], ids=["lora", "dora"])
def test_new_adapter_is_that_of_the_dense_weights(
    folders: tuple[Path, Path], tmp_path: Path, variant: dict[str, Any]
) -> None:
    found = []
    for name, folder in (("mlx", folders[0]), ("cpu", folders[1])):
        config = Config(model=str(folder), seed=7, lora=LORA | variant, train={"dtype": "float32"})
        get(name).load(config, True).save_adapter(tmp_path / name)
        found.append(oracle.weights(tmp_path / name))
    assert found[0].keys() == found[1].keys()
    for name, array in found[1].items():
        tolerance = 1e-5 if "magnitude" in name else 0
        np.testing.assert_allclose(found[0][name], array, rtol=tolerance, err_msg=name)


def test_step_leaves_the_quantised_base_unchanged(
    policy: Callable[..., Any], tmp_path: Path
) -> None:
    own = policy()
    pairs = [(i.student_prompt, i.completion) for i in ITEMS]
    before = np.concatenate(own.score(pairs, "teacher", "initial"))
    own.accumulate(DivergenceBatch((DivergenceItem((5,), (6, 7), (8, 9)),), DivergenceSpec("jsd")))
    own.apply(0.1)
    assert (np.concatenate(own.score(pairs, "teacher", "initial")) == before).all()


def test_merged_model_is_in_full_precision(
    policy: Callable[..., Any], folders: tuple[Path, Path], adapter: Path, tmp_path: Path
) -> None:
    policy(trainable=False, adapter=adapter).save_merged(tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert not hasattr(merged.config, "quantization_config")
    wanted = oracle.Dense(folders[1], adapter)
    ids = (5, 6, 7, 8, 9)
    with torch.no_grad():
        found = merged(torch.tensor([ids])).logits[0, :-1, : wanted.vocabulary]
    np.testing.assert_allclose(found, wanted.logits(ids[:1], ids[1:]).detach(), atol=1e-3)
