"""Records TRL's GRPO and SDFT losses and gradients, for `test_trl.py` to hold ours against.

    PYTHONPATH=. python tests/backends/record_trl.py tests/data/trl

Run by hand where TRL is installed (recorded with trl 1.16.0, torch 2.13.0, transformers 5.23.0,
peft 0.21.0), which needs an environment of its own. Leaves a tiny model, an adapter, and
`recorded.json` with the inputs and what TRL makes of them: `GRPOTrainer._compute_loss` and
`compute_full_logit_self_distillation_loss`, whose alpha 0 is KL(teacher || student) and 1 the
reverse; the SDFT trainer averages over a completion's tokens, then over completions. TRL multiplies
the KL penalty by the importance ratio unless `use_bias_correction_kl` is off, as it is here.
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", TRL_EXPERIMENTAL_SILENCE="1")

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.backends.models import build_model

TEMPERATURE = 0.7
LONGEST = 10
PAD = 2
GROUPS = 4
REWARDS = [1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0]
#: (loss_type, beta, scale_rewards, whether old log-probabilities differ from today's)
SETTINGS = [
    (loss, beta, scale, old)
    for loss in ("grpo", "dapo", "dr_grpo")
    for beta, scale, old in ((0.0, "group", False), (0.0, "none", True), (0.04, "group", True))
]


def build(folder: Path) -> tuple[Any, Any, Any]:
    """A tiny Llama with a random adapter on it, the same without, and the tokenizer."""
    build_model(folder / "model", "llama")
    torch.manual_seed(1)
    lora = LoraConfig(
        task_type="CAUSAL_LM", r=3, lora_alpha=6,
        target_modules=["q_proj", "v_proj", "up_proj", "down_proj"],
    )  # fmt: skip
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder / "model"), lora)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0.0, 0.1)
    model.save_pretrained(str(folder / "adapter"))
    base, plain = (
        AutoModelForCausalLM.from_pretrained(folder / "model", attn_implementation="eager")
        for _ in range(2)
    )
    model = PeftModel.from_pretrained(base, str(folder / "adapter"), is_trainable=True)
    return model, plain, AutoTokenizer.from_pretrained(folder / "model")


def sequences() -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
    """Prompts (one a group), longer prompts for the teacher, and ragged completions."""
    draw = random.Random(0)

    def ids(count: int) -> list[int]:
        return [draw.randrange(4, 26) for _ in range(count)]

    prompts = [prompt for size in (5, 8) for prompt in [ids(size)] * GROUPS]
    taught = [prompt + ids(draw.randrange(2, 7)) for prompt in prompts]
    completions = [ids(draw.randrange(1, LONGEST + 1)) for _ in prompts]
    return prompts, taught, completions


def padded(rows: list[list[int]], left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    spare = [[0] * (width - len(row)) for row in rows]
    ids = [
        [PAD] * len(s) + r if left else r + [PAD] * len(s) for r, s in zip(rows, spare, strict=True)
    ]
    mask = [
        s + [1] * len(r) if left else [1] * len(r) + s for r, s in zip(rows, spare, strict=True)
    ]
    return torch.tensor(ids), torch.tensor(mask)


def gradients(model: Any) -> dict[str, list[float]]:
    """Of the adapter, flattened, by the names of its file; then dropped."""
    found = {
        name.replace(".default", ""): parameter.grad.flatten().tolist()
        for name, parameter in model.named_parameters()
        if "lora_" in name and ".default" in name  # TRL adds a frozen copy named "ref"
    }
    model.zero_grad()
    return found


def make_trainer(model: Any, tokenizer: Any, folder: Path) -> Any:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    settings = GRPOConfig(
        output_dir=str(folder), use_cpu=True, bf16=False, gradient_checkpointing=False,
        report_to="none", save_strategy="no", temperature=TEMPERATURE, num_generations=GROUPS,
        per_device_train_batch_size=len(REWARDS), gradient_accumulation_steps=1,
        steps_per_generation=1, max_completion_length=LONGEST, epsilon=0.2, epsilon_high=0.28,
        loss_type="grpo", beta=0.04, use_bias_correction_kl=False,
    )  # fmt: skip
    return GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=settings,
        train_dataset=Dataset.from_list([{"prompt": "1"}] * len(REWARDS)),
        processing_class=tokenizer,
    )


def record_grpo(model: Any, plain: Any, tokenizer: Any, folder: Path) -> dict[str, Any]:
    from trl.trainer.utils import nanstd

    trainer = make_trainer(model, tokenizer, folder)
    trainer.current_gradient_accumulation_steps = 1
    model.train()
    prompts, _, completions = sequences()
    prompt_ids, prompt_mask = padded(prompts, left=True)
    completion_ids, completion_mask = padded(completions, left=False)
    width = completion_ids.shape[1]
    whole = (
        torch.cat([prompt_ids, completion_ids], 1),
        torch.cat([prompt_mask, completion_mask], 1),
    )
    with torch.no_grad():
        today = trainer._get_per_token_logps_and_entropies(model, *whole, width)[0]
        initial = torch.zeros_like(today)
        for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            logits = plain(input_ids=torch.tensor([prompt + completion])).logits[0]
            log_p = (logits[-len(completion) - 1 : -1] / TEMPERATURE).log_softmax(-1)
            initial[row, : len(completion)] = log_p[range(len(completion)), completion]
        torch.manual_seed(2)
        before = today + 0.4 * torch.randn_like(today)
    grouped = torch.tensor(REWARDS).view(-1, GROUPS)
    centred = grouped - grouped.mean(1, keepdim=True)
    found = []
    for loss_type, beta, scale, old in SETTINGS:
        trainer.loss_type, trainer.beta = loss_type, beta
        spread = nanstd(grouped, dim=1, keepdim=True) + 1e-4 if scale == "group" else 1.0
        advantages = (centred / spread).flatten()
        inputs = {
            "prompt_ids": prompt_ids, "prompt_mask": prompt_mask,
            "completion_ids": completion_ids, "completion_mask": completion_mask,
            "advantages": advantages, "num_items_in_batch": completion_mask.sum(),
            "ref_per_token_logps": initial,
        }  # fmt: skip
        if old:
            inputs["old_per_token_logps"] = before
        loss = trainer._compute_loss(model, inputs)
        loss.backward()
        found.append(
            {
                "loss_type": loss_type, "beta": beta, "scale": scale, "old": old,
                "advantages": advantages.tolist(), "loss": loss.item(),
                "gradient": gradients(model),
            }
        )  # fmt: skip
    lengths = [len(completion) for completion in completions]
    kept = [row[:n].tolist() for row, n in zip(before, lengths, strict=True)]
    first = [row[:n].tolist() for row, n in zip(initial, lengths, strict=True)]
    return {"old_log_probs": kept, "initial_log_probs": first, "cases": found}


def record_sdft(model: Any, plain: Any) -> list[dict[str, Any]]:
    from trl.experimental.sdft.loss_utils import compute_full_logit_self_distillation_loss

    prompts, taught, completions = sequences()
    found = []
    for alpha in (0.0, 0.5, 1.0):
        values, total = [], 0.0
        for prompt, longer, completion in zip(prompts, taught, completions, strict=True):
            rows = slice(-len(completion) - 1, -1)
            student = model(input_ids=torch.tensor([prompt + completion])).logits[0, rows]
            with torch.no_grad():
                teacher = plain(input_ids=torch.tensor([longer + completion])).logits[0, rows]
            value = compute_full_logit_self_distillation_loss(
                student, teacher, distillation_alpha=alpha
            )
            values.append(value.tolist())
            total = total + value.mean() / len(prompts)
        total.backward()
        found.append(
            {"alpha": alpha, "values": values, "loss": total.item(), "gradient": gradients(model)}
        )
    return found


def main() -> None:
    folder = Path(sys.argv[1])
    model, plain, tokenizer = build(folder)
    prompts, taught, completions = sequences()
    recorded = {
        "temperature": TEMPERATURE, "longest": LONGEST, "rewards": REWARDS, "group": GROUPS,
        "prompts": prompts, "teacher_prompts": taught, "completions": completions,
        "sdft": record_sdft(model, plain),
        "grpo": record_grpo(model, plain, tokenizer, folder / "trainer"),
    }  # fmt: skip
    (folder / "recorded.json").write_text(json.dumps(recorded) + "\n")


if __name__ == "__main__":
    main()
