"""What the rounding of a merged export costs: its logits and answers against the unmerged model.

    python -m benchmarks.export_dtype RUN [--checkpoint best|last|STEP] [--problems 100]

Exports the run in each dtype, computes every model in float32, and compares it with base and
adapter kept apart, in float32, on the reference solutions of test problems: the mean and largest
absolute difference of a logit, the mean KL divergence of the next-token distributions in nats, and
the share of positions at which the most likely token is the same.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

import opsd_cli
from opsd_cli.exporting import DTYPES, export
from opsd_cli.problems.sources import load_splits
from opsd_cli.prompts.builder import PromptBuilder

Sequences = list[tuple[tuple[int, ...], int]]


def logits_of(model: torch.nn.Module, sequences: Sequences) -> torch.Tensor:
    """The logits [N, V] at the positions of every solution, in float32."""
    with torch.no_grad():
        parts = [model(torch.tensor([ids])).logits[0, start - 1 : -1] for ids, start in sequences]
    return torch.cat(parts).float()


def compared(logits_NV: torch.Tensor, wanted_NV: torch.Tensor) -> tuple[str, ...]:
    """Mean and largest difference, KL divergence, and agreement of the most likely tokens."""
    difference = (logits_NV - wanted_NV).abs()
    wanted, found = wanted_NV.log_softmax(-1), logits_NV.log_softmax(-1)
    kl = (wanted.exp() * (wanted - found)).sum(-1).mean()
    same = (logits_NV.argmax(-1) == wanted_NV.argmax(-1)).float().mean()
    return (
        f"{difference.mean():.5f}", f"{difference.max():.4f}", f"{kl:.2e}", f"{same:.2%}",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--checkpoint", default=None)
    parser.add_argument("--problems", type=int, default=100)
    given = parser.parse_args()
    config = opsd_cli.load_config(given.run, checkpoint=given.checkpoint)
    policy = opsd_cli.load_policy(config, trainable=False)
    builder = PromptBuilder(config, policy.tokenizer)
    sequences: Sequences = []
    for problem in load_splits(config).test.problems[: given.problems]:
        prompt = builder.student(problem).ids
        solution = policy.tokenizer.encode(problem.solution or problem.answer or "")
        sequences.append(((*prompt, *solution), len(prompt)))
    from peft import PeftModel

    plain = AutoModelForCausalLM.from_pretrained(config.model_path, dtype=torch.float32).eval()
    kept_apart = PeftModel.from_pretrained(plain, config.adapter).eval()
    wanted_NV = logits_of(kept_apart, sequences)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for dtype in DTYPES:
            target = Path(folder) / dtype
            export(config, "merged", target, opsd_cli.Listener(), dtype)
            merged = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).eval()
            rows.append((dtype, *compared(logits_of(merged, sequences), wanted_NV)))
    print(f"{config.model}, {wanted_NV.shape[0]:,} tokens of {len(sequences)} solutions\n")
    headings = ("--dtype", "mean difference", "largest", "KL, nats", "same most likely token")
    for row in (headings, ["---"] * len(headings), *rows):
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
