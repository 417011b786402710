"""A run's totals, each defined once: terminal, `result.json` and page show the same.

A total counts everything from the run's beginning, in every process that worked on it: preflight,
steps and measurements. Of a finished run it is that of `result.json`. Of an unfinished one it is
that of the newest step, and the measurements after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opsd_cli.token_ledger import TokenLedger

#: Kinds of tokens in the order of the ledger: the name for people, and what it contains.
TOKEN_KINDS = {
    "generated": ("generated", "sampled in training rollouts, and in the teacher's analyses"),
    "teacher_scored": (
        "scored by the teacher",
        "positions that the teacher reads for the loss, prompts included",
    ),
    "prompt": ("prompts", "prompt tokens given to the sampler in training, once a rollout"),
    "trained": ("trained", "positions with a gradient, prompts and every pass included"),
    "scored": ("scored otherwise", "other positions read without a gradient: ratios, penalties"),
    "evaluation": (
        "evaluations",
        "sampled in the preflight and in all measurements, the last test included",
    ),
    "rollouts": ("training rollouts", "completions, not tokens"),
}
TIME_KINDS = {
    "seconds": ("time", "preflight, steps and measurements; not loading the model"),
    "cpu_seconds": ("CPU time", "the same, over all threads"),
    "training_cpu_seconds": ("CPU time of training", "the steps alone, as comparisons count it"),
}


def tokens_of(row: Mapping[str, Any]) -> TokenLedger:
    """The tokens of a measurement, from its row of evaluations.jsonl."""
    read = TokenLedger(**row.get("read", {}))
    return read + TokenLedger(evaluation=row.get("evaluation_tokens", 0))


@dataclass(frozen=True)
class Totals:
    """Totals of a run.

    Attributes:
        tokens: by kind, the keys of `TOKEN_KINDS`.
        times: seconds by kind, the keys of `TIME_KINDS`; an older run lacks some.
        memory_peak: bytes, the highest of all steps; None before the first.
    """

    tokens: Mapping[str, int]
    times: Mapping[str, float]
    memory_peak: int | None


def totals_of(
    result: Mapping[str, Any] | None,
    metrics: Sequence[Mapping[str, Any]],
    evaluations: Iterable[Mapping[str, Any]],
    preflight: Mapping[str, Any] | None = None,
) -> Totals:
    """The totals of a run from its files.

    Args:
        result: contents of result.json; None if the run has not finished.
        metrics: rows of metrics.jsonl, in order of step.
        evaluations: rows of evaluations.jsonl.
        preflight: contents of preflight.json, if there is one.
    """
    memory = max((row["memory_peak"] for row in metrics if "memory_peak" in row), default=None)
    if result is not None:
        return Totals(result["tokens"], {k: result[k] for k in TIME_KINDS if k in result}, memory)
    last = metrics[-1] if metrics else {}
    tokens = dict(last.get("ledger", ()))
    times = {kind: last[kind] for kind in TIME_KINDS if kind in last}
    if not metrics and preflight is not None:
        tokens = dict(preflight.get("spent", ()))
    # Measurements at a step come after its row.
    for row in (row for row in evaluations if row["step"] >= last.get("step", 0)):
        for kind, number in tokens_of(row).as_dict().items():
            if number or kind == "evaluation":
                tokens[kind] = tokens.get(kind, 0) + number
        for kind in ("seconds", "cpu_seconds"):
            times[kind] = times.get(kind, 0.0) + row.get(kind, 0.0)
    return Totals(tokens, times, memory)
