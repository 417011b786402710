"""Metrics that show a collapse of self-distillation before accuracy falls.

Reproductions of the method saw runs collapse after one or two hundred steps: completions get
shorter, hedging and self-checking words disappear, the reference is copied, and entropy falls. All
of these are measured from the first step, on the step's own rollouts.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from backends.interface import BatchReport, DivergenceBatch, LossBatch, Rollout
from opsd_cli.prompts.rendering import Tokenizer

HEDGES = (
    "wait", "hmm", "maybe", "perhaps", "actually", "alternatively", "check", "verify", "however",
    "but", "let me", "recheck", "mistake", "not sure", "double-check", "reconsider",
)  # fmt: skip
_HEDGE = re.compile(r"\b(?:" + "|".join(map(re.escape, HEDGES)) + r")\b", re.IGNORECASE)
_WORD = re.compile(r"\w+")
#: Length of the word n-grams that count as copied where the reference has them too.
COPY_WORDS = 4


def hedge_rate(text: str) -> float:
    """Hedging and self-checking words per hundred words."""
    words = len(_WORD.findall(text))
    return 100 * len(_HEDGE.findall(text)) / words if words else 0.0


def mean_hedge_rate(texts: Sequence[str]) -> float:
    """The mean of `hedge_rate` over completions; at least one."""
    return float(np.mean([hedge_rate(text) for text in texts]))


def copied_share(completion: str, reference: str) -> float:
    """Share of the completion's word 4-grams that also occur in the reference."""

    def grams(text: str) -> list[tuple[str, ...]]:
        words = _WORD.findall(text.lower())
        return [tuple(words[i : i + COPY_WORDS]) for i in range(len(words) - COPY_WORDS + 1)]

    own = grams(completion)
    referenced = set(grams(reference))
    return sum(gram in referenced for gram in own) / len(own) if own else 0.0


def token_class(text: str, is_stop: bool) -> str:
    """The class of a token by its text: stop, number, word, hedge, space or symbol."""
    bare = text.strip()
    if is_stop:
        return "stop"
    if not bare:
        return "space"
    if bare[0].isdigit():
        return "number"
    if bare.lower() in HEDGES:
        return "hedge"
    return "word" if bare[0].isalpha() else "symbol"


def rollout_metrics(
    rollouts: Sequence[Rollout], texts: Sequence[str], references: Sequence[str]
) -> dict[str, Any]:
    """Completion length (tokens), truncation, hedging and copying over a step's rollouts."""
    lengths = np.array([len(rollout.completion_ids) for rollout in rollouts])
    return {
        "completion_tokens": float(lengths.mean()),
        "completion_tokens_max": int(lengths.max()),
        "stopped": float(np.mean([rollout.finish_reason == "stop" for rollout in rollouts])),
        "truncated": float(np.mean([rollout.finish_reason == "length" for rollout in rollouts])),
        "hedges_per_100_words": mean_hedge_rate(texts),
        "copied": float(
            np.mean([copied_share(t, r) for t, r in zip(texts, references, strict=True)])
        ),
    }


def loss_metrics(
    batches: Sequence[LossBatch],
    reports: Sequence[BatchReport],
    tokenizer: Tokenizer,
    stop_ids: frozenset[int],
) -> dict[str, Any]:
    """Means over a step's tokens: entropy, clipped share and, of a divergence batch, the divergence
    as a whole and by class of token, all in nats. Empty where the step had no loss batch.
    """
    found = [tokens for report in reports for tokens in report.tokens]
    if not found:
        return {}
    value, entropy, teacher_entropy, clipped = (
        np.concatenate([getattr(tokens, name) for tokens in found])
        for name in ("value", "student_entropy", "teacher_entropy", "clipped")
    )
    if not len(value):  # every completion is empty
        return {}
    measured: dict[str, Any] = {"entropy": float(entropy.mean())}
    if len(clipped):
        measured["clipped"] = float(clipped.mean())
    if not len(teacher_entropy):
        return measured
    ids = [token for batch in batches for item in batch.items for token in item.completion]
    text_of = {token: tokenizer.decode([token]) for token in set(ids)}
    by_class: dict[str, list[float]] = defaultdict(list)
    for token, v in zip(ids, value.tolist(), strict=True):
        by_class[token_class(text_of[token], token in stop_ids)].append(v)
    return measured | {
        "divergence": float(value.mean()),
        "divergence_max": float(value.max()),
        "teacher_entropy": float(teacher_entropy.mean()),
        "divergence_by_class": {name: float(np.mean(v)) for name, v in sorted(by_class.items())},
    }


def divergence_of_completions(
    batches: Sequence[LossBatch], reports: Sequence[BatchReport]
) -> dict[tuple[tuple[int, ...], tuple[int, ...]], float]:
    """The mean divergence of each completion, by its student prompt and its tokens."""
    return {
        (item.student_prompt, item.completion): float(tokens.value.mean())
        for batch, report in zip(batches, reports, strict=True)
        if isinstance(batch, DivergenceBatch)
        for item, tokens in zip(batch.items, report.tokens, strict=True)
        if item.completion
    }
