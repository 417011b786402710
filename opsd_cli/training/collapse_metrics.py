"""Numbers that show a self-distillation run going wrong before its accuracy does.

People who reproduced the method saw it collapse past one or two hundred steps: completions shorten,
hedging and self-checking words vanish, the model parrots the reference, entropy drains away. All of
that is measured here from the first step, from rollouts that exist anyway.
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
#: Runs of this many words shared with the reference count as copied.
COPY_WORDS = 4


def hedge_rate(text: str) -> float:
    """Hedging and self-checking words per hundred words."""
    words = len(_WORD.findall(text))
    return 100 * len(_HEDGE.findall(text)) / words if words else 0.0


def copied_share(completion: str, reference: str) -> float:
    """Share of the completion's four-word runs that also occur in the reference."""

    def runs(text: str) -> list[tuple[str, ...]]:
        words = _WORD.findall(text.lower())
        return [tuple(words[i : i + COPY_WORDS]) for i in range(len(words) - COPY_WORDS + 1)]

    mine = runs(completion)
    theirs = set(runs(reference))
    return sum(run in theirs for run in mine) / len(mine) if mine else 0.0


def token_class(text: str, is_stop: bool) -> str:
    """stop, number, word, hedge, space or symbol: by what the token's text is."""
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
    """Length, stopping, hedging and copying over a step's rollouts."""
    lengths = np.array([len(rollout.completion_ids) for rollout in rollouts])
    return {
        "completion_tokens": float(lengths.mean()),
        "completion_tokens_max": int(lengths.max()),
        "stopped": float(np.mean([rollout.finish_reason == "stop" for rollout in rollouts])),
        "truncated": float(np.mean([rollout.finish_reason == "length" for rollout in rollouts])),
        "hedges_per_100_words": float(np.mean([hedge_rate(text) for text in texts])),
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
    """Entropies, clipping and, for a divergence, its size by class of token, over a step.

    Empty where the step had no loss batch.
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
