"""Stands in for a backend's computations: dense, in float64, one sequence at a time.

Nothing here comes from `backends` or from `opsd_cli.losses.divergence`: logits come from the
model's own forward pass over one unpadded sequence, the adapter is loaded by PEFT, losses are
written out and differentiated by autograd, and the sampler's filters are loops over a sorted list.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from backends.interface import Policy, Sampling
from opsd_cli.losses.divergence import DivergenceSpec
from tests.support.backend_fixtures import LORA


class Dense:
    """A model in float64, with or without an adapter."""

    def __init__(self, folder: Path, adapter: Path | None = None) -> None:
        model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
        self.vocabulary = len(AutoTokenizer.from_pretrained(folder))
        if adapter is not None:
            model = PeftModel.from_pretrained(model, str(adapter), is_trainable=True)
        self.model = model.double().eval()

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Parameters of the adapter, named as in its file."""
        return {
            name.replace(".default", ""): parameter
            for name, parameter in self.model.named_parameters()
            if "lora_" in name
        }

    def logits(self, prompt: Sequence[int], completion: Sequence[int]) -> Tensor:
        """Logits [N, V] that predict each token of the completion."""
        ids = torch.tensor([[*prompt, *completion]])
        whole = self.model(input_ids=ids, use_cache=False).logits[0]
        return whole[len(prompt) - 1 : -1, : self.vocabulary]

    def gradient(self, loss: Tensor) -> dict[str, np.ndarray]:
        """Gradient of a loss with respect to the adapter's parameters."""
        named = self.parameters
        found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        return {
            name: (torch.zeros_like(p) if g is None else g).numpy()
            for (name, p), g in zip(named.items(), found, strict=True)
        }


@functools.cache
def dense(folder: Path, adapter: Path | None = None) -> Dense:
    return Dense(folder, adapter)


def divergence(student_NV: Tensor, teacher_NV: Tensor, spec: DivergenceSpec) -> Tensor:
    """Divergence [N] in nats over the whole vocabulary, differentiable in the student's logits."""
    log_p = (student_NV / spec.temperature).log_softmax(-1)
    log_q = (teacher_NV.detach() / spec.temperature).log_softmax(-1)
    p, q = log_p.exp(), log_q.exp()
    if spec.kind == "forward_kl":
        terms = q * (log_q - log_p)
    elif spec.kind == "reverse_kl":
        terms = p * (log_p - log_q)
    else:
        log_m = (spec.beta * q + (1 - spec.beta) * p).log()
        terms = spec.beta * q * (log_q - log_m) + (1 - spec.beta) * p * (log_p - log_m)
    if spec.clip == "pointwise":
        return terms.clamp(max=spec.clip_at).sum(-1)
    total = terms.sum(-1)
    return total.clamp(max=spec.clip_at) if spec.clip == "token" else total


def filtered(logits_V: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Probabilities [V] in float64 that `Sampling` describes; ties go to the lower token id."""
    scores = np.asarray(logits_V, np.float64) / sampling.temperature
    p = np.exp(scores - scores.max())
    ranked = sorted(range(len(p)), key=lambda v: (-scores[v], v))
    kept = set(ranked[: sampling.top_k] if sampling.top_k else ranked)
    p = np.array([p[v] if v in kept else 0.0 for v in range(len(p))])
    p /= p.sum()
    if sampling.top_p < 1:
        reached, nucleus = 0.0, set()
        for v in ranked:
            if reached >= sampling.top_p:
                break
            nucleus.add(v)
            reached += p[v]
        p = np.array([p[v] if v in nucleus else 0.0 for v in range(len(p))])
        p /= p.sum()
    p = np.where(p >= sampling.min_p * p.max(), p, 0.0)
    return np.asarray(p / p.sum())


def random_adapter(model: Path, folder: Path, seed: int, scale: float = 0.3) -> Path:
    """Write an adapter of random weights with PEFT."""
    torch.manual_seed(seed)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=LORA["rank"],
        lora_alpha=LORA["alpha"],
        target_modules=list(LORA["targets"]),
    )
    wrapped = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.normal_(0.0, scale)
    wrapped.save_pretrained(str(folder))
    return folder


def weights(folder: Path) -> dict[str, np.ndarray]:
    """Tensors of the adapter that a policy saved in a folder."""
    return {k: v.numpy() for k, v in load_file(folder / "adapter_model.safetensors").items()}


def optimizer_state(folder: Path, part: str) -> dict[str, np.ndarray]:
    """`exp_avg`, `exp_avg_sq`, `ema` or `start` of each tensor of the adapter."""
    tensors = load_file(folder / "optimizer.safetensors")
    return {
        name.removeprefix(f"{part}."): tensor.numpy()
        for name, tensor in tensors.items()
        if name.startswith(f"{part}.")
    }


def gradient(policy: Policy, folder: Path) -> dict[str, np.ndarray]:
    """Gradient accumulated since the last step, read from the first moment of a step of rate 0."""
    policy.apply(0.0)
    policy.save(folder)
    return optimizer_state(folder, "exp_avg")


def assert_close(
    found: dict[str, np.ndarray], wanted: dict[str, np.ndarray], tolerance: float = 1e-4
) -> None:
    """Check names, and that no entry differs by more than `tolerance` times the largest of all."""
    assert set(found) == set(wanted)
    scale = max(float(np.abs(w).max()) for w in wanted.values())
    assert scale > 0
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=tolerance * scale, err_msg=name)
