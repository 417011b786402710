"""Pretrains the embedded model from scratch, on the CPU.

Next-token training on the completions of `opsd_cli.embedded.corpus`, in two stages. In `school`
every worked solution is right, so the model learns to calculate; in `habits` solutions without a
reference contain slips, and it learns to make them there. The learning rate is constant and falls
to zero over the last steps. Accuracies are of validation problems; test problems are never used.
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

from backends.shared.tokenizer import HuggingFaceTokenizer
from opsd_cli.embedded.corpus import END_OF_TURN, Document, Shares, document, documents
from opsd_cli.embedded.tokenizer import END_OF_TEXT, build_tokenizer, training_texts
from opsd_cli.problems.arithmetic import chains

IGNORED = -100
#: Problems whose texts the tokenizer is trained on.
TOKENIZER_PROBLEMS = 2000
LONGEST_COMPLETION = 80
SCHOOL = Shares(reference=0.4, drill=0.5, slips=False)
HABITS = Shares(reference=0.5, drill=0.1)


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
    school: int = 3000
    steps: int = 3700
    decay: int = 600
    school_shares: Shares = SCHOOL
    habits_shares: Shares = HABITS
    evaluate_every: int = 250
    evaluate_problems: int = 200
    initializer_range: float = 0.02


@dataclass(frozen=True)
class Measured:
    """One evaluation during pretraining; accuracies are shares of validation problems."""

    step: int
    loss: float
    without_reference: float
    with_reference: float


Report = Callable[[int, float, Measured | None], Any]


def make_model(recipe: Recipe, vocabulary: int, eos: int, pad: int) -> Qwen3ForCausalLM:
    """A freshly initialised model."""
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
        initializer_range=recipe.initializer_range,
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
def sampled(
    model: Qwen3ForCausalLM,
    tokenizer: HuggingFaceTokenizer,
    prompts: list[tuple[int, ...]],
    longest: int,
    seed: int,
) -> list[str]:
    """One completion of at most `longest` tokens for each prompt, at temperature 1, as text.

    The texts have the stop token and padding.
    """
    torch.manual_seed(seed)
    width = max(map(len, prompts))
    pad = tokenizer.pad_id
    ids = torch.tensor([(pad,) * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    model.eval()
    out = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=longest,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
    )
    return [tokenizer.decode(row) for row in out[:, width:].tolist()]


def accuracy(
    model: Qwen3ForCausalLM,
    tokenizer: HuggingFaceTokenizer,
    reference: bool,
    problems: int,
    seed: int,
) -> float:
    """Share of validation problems answered correctly by one sample each, at temperature 1."""
    drawn = list(islice(chains("validation"), problems))
    docs = [document(chain, tokenizer, reference=reference, thinking=False) for chain in drawn]
    texts = sampled(model, tokenizer, [d.prompt for d in docs], LONGEST_COMPLETION, seed)
    right = [
        f"\\boxed{{{chain.values[-1]}}}" in text for chain, text in zip(drawn, texts, strict=True)
    ]
    return sum(right) / problems


class Learner:
    """A new model of a recipe, with its tokenizer and its optimiser.

    Args:
        folder: has the tokenizer's files (`opsd_cli.embedded.tokenizer.build_tokenizer`).
    """

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe = recipe
        self.tokenizer = HuggingFaceTokenizer(AutoTokenizer.from_pretrained(folder))
        eos, self.pad = (
            self.tokenizer.wrapped.convert_tokens_to_ids(token)
            for token in (END_OF_TURN, END_OF_TEXT)
        )
        self.model = make_model(recipe, len(self.tokenizer.wrapped), eos, self.pad)
        parameters = list(self.model.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step, from 1: it rises, stays, and falls to zero."""
        rise = min(1.0, step / self.recipe.warmup)
        fall = min(1.0, (self.recipe.steps - step + 1) / self.recipe.decay)
        return self.recipe.learning_rate * rise * fall

    def learn(self, batch: list[Document], step: int) -> float:
        """One optimiser step, from 1; returns its loss in nats per token."""
        ids, labels = collate(batch, self.pad)
        self.model.train()
        hidden = self.model.model(input_ids=ids).last_hidden_state[:, :-1]
        learnt = labels[:, 1:] != IGNORED
        loss = cross_entropy(self.model.lm_head(hidden[learnt]), labels[:, 1:][learnt])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


class Pretraining:
    """Model and measurements of one run of a recipe. Use `pretrain`."""

    def __init__(self, recipe: Recipe, folder: Path, report: Report) -> None:
        self.recipe = recipe
        self.report = report
        build_tokenizer(folder, training_texts(TOKENIZER_PROBLEMS, recipe.seed))
        self.learner = Learner(recipe, folder)
        self.history: list[Measured] = []

    def measure(self, step: int, loss: float) -> Measured:
        """Accuracies with and without the reference, with the weights as they are."""
        count, seed = self.recipe.evaluate_problems, self.recipe.seed
        without, with_it = (
            accuracy(self.learner.model, self.learner.tokenizer, reference, count, seed)
            for reference in (False, True)
        )
        self.history.append(Measured(step, loss, without, with_it))
        return self.history[-1]

    def run(self) -> None:
        """Take every step of the recipe."""
        recipe = self.recipe
        school, habits = (
            batches(documents(self.learner.tokenizer, seed, shares, "pretrain"), recipe.batch)
            for seed, shares in (
                (recipe.seed, recipe.school_shares),
                (recipe.seed + 1, recipe.habits_shares),
            )
        )
        for step in range(1, recipe.steps + 1):
            loss = self.learner.learn(next(school if step <= recipe.school else habits), step)
            due = step % recipe.evaluate_every == 0 or step == recipe.steps
            self.report(step, loss, self.measure(step, loss) if due else None)


def pretrain(
    recipe: Recipe, folder: Path, report: Report, threads: int | None = None
) -> list[Measured]:
    """Build tokenizer and model into `folder`, in safetensors; returns every evaluation made.

    `report` is called after each step with the step, its loss, and an evaluation when one was made.
    `threads` is the number that torch computes with, on which rounding depends; None leaves it.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    run = Pretraining(recipe, folder, report)
    run.run()
    run.learner.model.save_pretrained(folder)
    history = [asdict(measured) for measured in run.history]
    (folder / "recipe.json").write_text(
        json.dumps({"recipe": asdict(recipe), "history": history}, indent=1) + "\n"
    )
    return run.history
