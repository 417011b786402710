"""Pretrains the embedded model from nothing, on the CPU.

Ordinary next-token training on the completions of `opsd_cli.embedded.corpus`, at a constant rate,
stopped by a declared rule instead of a declared length: as soon as the model, sampled at temperature
1 on validation problems, is right with the reference at least 97% of the time and without it at
least 48%. Stopping there, well before the student format is mastered, is what leaves something to
distil. Test problems are never looked at.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from backends.tokenizer import HuggingFaceTokenizer
from opsd_cli.embedded.corpus import END_OF_TURN, Document, Shares, document, documents
from opsd_cli.embedded.vocabulary import END_OF_TEXT, build_tokenizer
from opsd_cli.problems.arithmetic import chains

IGNORED = -100


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the embedded model, besides the corpus."""

    seed: int = 0
    hidden: int = 128
    layers: int = 4
    intermediate: int = 320
    heads: int = 4
    key_value_heads: int = 2
    head_dim: int = 32
    batch: int = 32
    learning_rate: float = 2e-3
    warmup: int = 100
    max_steps: int = 20000
    evaluate_every: int = 250
    evaluate_problems: int = 200
    enough_without: float = 0.48
    enough_with: float = 0.97


@dataclass(frozen=True)
class Measured:
    """One evaluation during pretraining; accuracies are shares of validation problems."""

    step: int
    loss: float
    without_reference: float
    with_reference: float


def make_model(recipe: Recipe, vocabulary: int, eos: int, pad: int) -> Qwen3ForCausalLM:
    """A freshly initialised network."""
    torch.manual_seed(recipe.seed)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        intermediate_size=recipe.intermediate,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.key_value_heads,
        head_dim=recipe.head_dim,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=eos,
        pad_token_id=pad,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=[eos, pad], pad_token_id=pad)
    return model


def batches(stream: Iterator[Document], size: int) -> Iterator[list[Document]]:
    """Batches of similar length, from a pool of a few batches at a time."""
    while True:
        pool = sorted(islice(stream, size * 4), key=lambda d: len(d.prompt) + len(d.completion))
        for start in range(0, len(pool), size):
            yield pool[start : start + size]


def collate(batch: list[Document], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids [batch, length] and labels, which are IGNORED outside completions."""
    length = max(len(d.prompt) + len(d.completion) for d in batch)
    ids = torch.full((len(batch), length), pad)
    labels = torch.full((len(batch), length), IGNORED)
    for row, d in enumerate(batch):
        end = len(d.prompt) + len(d.completion)
        ids[row, :end] = torch.tensor(d.prompt + d.completion)
        labels[row, len(d.prompt) : end] = torch.tensor(d.completion)
    return ids, labels


@torch.no_grad()
def accuracy(
    model: Qwen3ForCausalLM,
    tokenizer: HuggingFaceTokenizer,
    reference: bool,
    problems: int,
    seed: int,
) -> float:
    """Share of validation problems whose sampled completion is exactly right, at temperature 1."""
    torch.manual_seed(seed)
    drawn = list(islice(chains("validation"), problems))
    docs = [document(chain, tokenizer, reference=reference, thinking=False) for chain in drawn]
    width = max(len(d.prompt) for d in docs)
    pad = tokenizer.pad_id
    ids = torch.tensor([(pad,) * (width - len(d.prompt)) + d.prompt for d in docs])
    mask = torch.tensor([[0] * (width - len(d.prompt)) + [1] * len(d.prompt) for d in docs])
    model.eval()
    out = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=72, do_sample=True, temperature=1.0,
        top_k=0, top_p=1.0,
    )  # fmt: skip
    right = 0
    for chain, row in zip(drawn, out[:, width:].tolist(), strict=True):
        right += f"\\boxed{{{chain.values[-1]}}}" in tokenizer.decode(row)
    return right / problems


def pretrain(
    recipe: Recipe, folder: Path, report: Callable[[int, float, Measured | None], Any]
) -> list[Measured]:
    """Build tokenizer and model into `folder`, in safetensors; returns every evaluation made.

    `report` is called after each step with the step, its loss, and an evaluation when one was made.
    """
    build_tokenizer(folder, recipe.seed)
    tokenizer = HuggingFaceTokenizer(AutoTokenizer.from_pretrained(folder))
    eos, pad = (tokenizer.wrapped.convert_tokens_to_ids(t) for t in (END_OF_TURN, END_OF_TEXT))
    model = make_model(recipe, len(tokenizer.wrapped), eos, pad)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))
    stream = batches(documents(tokenizer, recipe.seed, Shares(), "pretrain"), recipe.batch)
    history: list[Measured] = []
    for step in range(1, recipe.max_steps + 1):
        ids, labels = collate(next(stream), pad)
        model.train()
        hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
        learnt = labels[:, 1:] != IGNORED
        loss = cross_entropy(model.lm_head(hidden[learnt]), labels[:, 1:][learnt])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * min(1.0, step / recipe.warmup)
        optimizer.step()
        optimizer.zero_grad()
        done = None
        if step % recipe.evaluate_every == 0:
            shares = [
                accuracy(model, tokenizer, reference, recipe.evaluate_problems, recipe.seed)
                for reference in (False, True)
            ]
            done = Measured(step, loss.item(), *shares)
            history.append(done)
        report(step, loss.item(), done)
        if done and done.without_reference >= recipe.enough_without:
            if done.with_reference >= recipe.enough_with:
                break
    model.save_pretrained(folder)
    (folder / "recipe.json").write_text(
        json.dumps({"recipe": asdict(recipe), "history": [asdict(p) for p in history]}, indent=1)
    )
    return history
