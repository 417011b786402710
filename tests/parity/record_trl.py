"""Records what TRL makes of fixed inputs, for `test_trl.py` to hold ours against.

    python tests/parity/record_trl.py --out tests/parity/trl.safetensors

Run by hand in an environment of its own that has TRL 1.16 and PEFT (recorded with trl 1.16.0, torch
2.13.0, transformers 5.23.0, peft 0.21.0). TRL's trainers do the work themselves: theirs are the
padding, the advantages, the old and reference log-probabilities, the averaging and the gradient;
only generation is replaced, by fixed token ids. What reading TRL's source and its numbers showed:

- Advantages: reward less the group's mean; with scale "group" divided by the unbiased standard
  deviation plus 1e-4. A group of equal rewards has advantage zero but counts in each denominator.
- Averaging: "grpo" is the mean over a completion's tokens, then over completions; "dapo" the mean
  over all tokens of the batch; "dr_grpo" divides by completions times the greatest length allowed.
- Without stored old log-probabilities the ratio is p / p.detach(): the *value* of the surrogate is
  -A, where an implementation that writes -A log p has another value and the same gradient.
- The KL penalty is p_0/p - log(p_0/p) - 1, but by default (`use_bias_correction_kl`) multiplied by
  the importance ratio, whose gradient counts even where it is 1. The papers do not multiply, nor do
  we: it is off here but for one case, recorded to show that it is another gradient.
- SDFT: alpha 0 is KL(teacher || student), alpha 1 KL(student || teacher); between, the generalised
  Jensen-Shannon divergence with alpha the *teacher's* share of both mixture and sum. Both roles'
  logits are divided by the sampling temperature. Mean over a completion's tokens, then over
  completions. The teacher "base" of a LoRA student is the model without its adapter.

The recording holds a tiny model, two states of an adapter ("before", which drew the completions,
and "after", which is trained), and one flat gradient per case: the adapter's tensors in order of
name. Metadata "recorded" is JSON with everything else.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", TRL_EXPERIMENTAL_SILENCE="1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM
from trl import GRPOConfig, GRPOTrainer
from trl.experimental.sdft import SDFTConfig, SDFTTrainer
from trl.experimental.sdft.loss_utils import compute_full_logit_self_distillation_loss

from tests.support.tiny_models import build_tokenizer

TEMPERATURE = 0.8
LONGEST = 9
GROUP = 4
#: Three groups, one of them without an advantage.
REWARDS = [1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
FRACTIONS = [0.25, 0.5, 0.0, 1.0, 0.125, 0.125, 0.125, 0.0, -1.5, 2.0, 0.75, 0.5]
ALPHAS = (0.0, 0.3, 0.5, 1.0)
LORA = {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj", "up_proj", "down_proj"]}
#: What both trainers are told.
COMMON: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "save_strategy": "no",
    "per_device_train_batch_size": len(REWARDS),
    "gradient_accumulation_steps": 1,
    "steps_per_generation": 1,
    "temperature": TEMPERATURE,
    "max_completion_length": LONGEST,
}


def build_model(folder: Path) -> None:
    """A tiny Qwen3 with a tied head, as wide as its tokenizer."""
    ids = build_tokenizer(folder, pad_is_end=False)
    torch.manual_seed(11)
    config = Qwen3Config(
        vocab_size=ids, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=4, tie_word_embeddings=True,
        max_position_embeddings=128, bos_token_id=None, eos_token_id=0, pad_token_id=None,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.5 if "embed" in name else 0.3)
    model.save_pretrained(folder)


def sequences() -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
    """Prompts, one per group; longer prompts for the teacher; ragged completions."""
    draw = random.Random(3)

    def ids(count: int) -> list[int]:
        return [draw.randrange(4, 26) for _ in range(count)]

    prompts = [prompt for size in (4, 7, 1) for prompt in [ids(size)] * GROUP]
    taught = [ids(draw.randrange(1, 6)) + prompt for prompt in prompts]
    lengths = [1, LONGEST, 3, 5, 2, 7, 4, 1, 6, 3, LONGEST, 2]
    # Some end on the stop token, some at the limit.
    completions = [ids(n) if n == LONGEST else [*ids(n - 1), 0] for n in lengths]
    return prompts, taught, completions


def adapter_of(model: Any) -> dict[str, Tensor]:
    """The trainable parameters, named as in an adapter's file, in order of name."""
    named = {
        name.replace(".default", ""): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    return dict(sorted(named.items()))


def assign(model: Any, weights: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in adapter_of(model).items():
            parameter.copy_(weights[name])


def take_gradient(model: Any) -> Tensor:
    """Flat, and dropped from the model."""
    found = torch.cat([p.grad.detach().flatten() for p in adapter_of(model).values()])
    model.zero_grad()
    return found.clone()


def adapters(model: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Two states a few large steps apart, so that ratios fall outside both clips."""
    torch.manual_seed(12)
    before = {n: 0.2 * torch.randn_like(p) for n, p in adapter_of(model).items()}
    after = {n: w + 0.06 * torch.randn_like(w) for n, w in before.items()}
    return before, after


def left_padded(rows: list[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


class Grpo:
    """A GRPO trainer whose generation is fixed."""

    def __init__(self, folder: Path) -> None:
        self.rewards = REWARDS
        self.prompts, _, self.completions = sequences()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        settings = GRPOConfig(
            output_dir=str(folder / "grpo"), num_generations=GROUP, epsilon=0.2, epsilon_high=0.28,
            beta=0.04, loss_type="grpo", use_bias_correction_kl=False, **COMMON,
        )  # fmt: skip
        self.trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
            reward_funcs=self._reward,
            args=settings,
            train_dataset=Dataset.from_list([{"prompt": "1"}] * len(REWARDS)),
            processing_class=tokenizer,
            peft_config=LoraConfig(task_type="CAUSAL_LM", **LORA),
        )
        self.trainer._generate = self._generate
        self.trainer.current_gradient_accumulation_steps = 1
        self.model = self.trainer.model.train()

    def _reward(self, completions: list[str], **_: Any) -> list[float]:
        return self.rewards

    def _generate(self, prompts: list[str]) -> tuple[Any, ...]:
        texts = ["" for _ in prompts]
        return self.prompts, self.completions, None, texts, None, {}, None, None

    def batch(self, scale: str, beta: float, passes: int) -> dict[str, Tensor]:
        """What TRL prepares for its loss; with several passes it keeps old log-probabilities."""
        self.trainer.scale_rewards, self.trainer.beta = scale, beta
        self.trainer.num_iterations = passes
        return self.trainer._generate_and_score_completions([{"prompt": "1"}] * len(REWARDS))

    def ragged(self, padded: Tensor) -> list[list[float]]:
        pairs = zip(padded, self.completions, strict=True)
        return [row[: len(completion)].tolist() for row, completion in pairs]


def record_grpo(folder: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    grpo = Grpo(folder)
    before, after = adapters(grpo.model)
    tensors.update({f"before.{name}": weight for name, weight in before.items()})
    tensors.update({f"after.{name}": weight for name, weight in after.items()})
    cases: list[dict[str, Any]] = []
    settings = itertools.product(
        ("grpo", "dapo", "dr_grpo"), ("group", "none"), (0.0, 0.04), (False, True), (False,)
    )
    old, first = None, None
    for loss_type, scale, beta, stale, corrected in [
        *settings,
        ("grpo", "group", 0.04, False, True),
    ]:
        # Fresh rollouts are of the weights that are trained; stale ones of those before.
        assign(grpo.model, before if stale else after)
        batch = grpo.batch(scale, beta, passes=2 if stale else 1)
        if ("old_per_token_logps" in batch) != stale or ("ref_per_token_logps" in batch) != bool(
            beta
        ):
            raise SystemExit("TRL did not prepare what this script expects of it")
        old = batch.get("old_per_token_logps", old)
        first = batch.get("ref_per_token_logps", first)
        assign(grpo.model, after)
        grpo.trainer.loss_type = loss_type
        grpo.trainer.args.use_bias_correction_kl = corrected
        loss = grpo.trainer.compute_loss(grpo.model, batch)
        loss.backward()
        tensors[f"grpo.{len(cases)}"] = take_gradient(grpo.model)
        metrics = grpo.trainer._metrics["train"]
        cases.append(
            {
                "loss_type": loss_type, "scale": scale, "beta": beta, "stale": stale,
                "bias_corrected": corrected, "loss": loss.item(),
                "clipped_low": metrics["clip_ratio/low_mean"][-1],
                "clipped_high": metrics["clip_ratio/high_mean"][-1],
            }
        )  # fmt: skip
    advantages = []
    for rewards, scale in itertools.product((REWARDS, FRACTIONS), ("group", "none")):
        grpo.rewards = rewards
        found = grpo.batch(scale, 0.0, passes=1)["advantages"].tolist()
        advantages.append({"rewards": rewards, "scale": scale, "advantages": found})
    return {
        "cases": cases, "advantages": advantages,
        "old_log_probs": grpo.ragged(old), "initial_log_probs": grpo.ragged(first),
    }  # fmt: skip


def record_sdft(folder: Path, tensors: dict[str, Tensor]) -> list[dict[str, Any]]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    trainer = SDFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        args=SDFTConfig(
            output_dir=str(folder / "sdft"), distillation_mode="full_logits",
            teacher_model_kind="base", num_generations=1, **COMMON,
        ),
        train_dataset=Dataset.from_list([{"prompt": "1", "privileged_context": "1"}] * 12),
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", **LORA),
    )  # fmt: skip
    trainer.current_gradient_accumulation_steps = 1
    model = trainer.model.train()
    assign(model, {n: tensors[f"after.{n}"] for n in adapter_of(model)})
    prompts, taught, completions = sequences()
    pad = tokenizer.pad_token_id
    prompt_ids, prompt_mask = left_padded(prompts, pad)
    taught_ids, taught_mask = left_padded(taught, pad)
    # Padded on the right: the left one of the reversed rows, reversed.
    ids, mask = (t.flip(1) for t in left_padded([row[::-1] for row in completions], pad))
    batch = {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": ids,
        "completion_mask": mask,
        "teacher_input_ids": torch.cat([taught_ids, ids], 1),
        "teacher_attention_mask": torch.cat([taught_mask, mask], 1),
    }
    with torch.no_grad():
        both = trainer._compute_teacher_student_logits(model, trainer.teacher_model, batch)
    kept = mask.bool()
    student_NV, teacher_NV = both.student_logits[kept].double(), both.teacher_logits[kept].double()
    tensors["sdft.student_logits"], tensors["sdft.teacher_logits"] = student_NV, teacher_NV
    cases = []
    for alpha in ALPHAS:
        trainer.args.distillation_alpha = alpha
        loss = trainer.compute_loss(model, batch)
        loss.backward()
        tensors[f"sdft.{len(cases)}"] = take_gradient(model)
        leaf_NV = student_NV.clone().requires_grad_()
        value_N = compute_full_logit_self_distillation_loss(
            leaf_NV, teacher_NV, distillation_alpha=alpha
        )
        value_N.sum().backward()
        tensors[f"sdft.{len(cases)}.values"] = value_N.detach()
        tensors[f"sdft.{len(cases)}.logit_gradient"] = leaf_NV.grad
        cases.append({"alpha": alpha, "loss": loss.item()})
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description="Record TRL's losses and gradients.")
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    tensors: dict[str, Tensor] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_model(folder)
        weights = load_file(folder / "model.safetensors")
        tensors.update({f"model.{name}": weight for name, weight in weights.items()})
        config = json.loads((folder / "config.json").read_text())
        prompts, taught, completions = sequences()
        recorded = {
            "config": config,
            "adapter": {"peft_type": "LORA", "task_type": "CAUSAL_LM", **LORA},
            "temperature": TEMPERATURE, "longest": LONGEST, "group": GROUP, "rewards": REWARDS,
            "prompts": prompts, "teacher_prompts": taught, "completions": completions,
            "grpo": record_grpo(folder, tensors),
            "sdft": record_sdft(folder, tensors),
        }  # fmt: skip
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, out, metadata={"recorded": json.dumps(recorded)})


if __name__ == "__main__":
    main()
