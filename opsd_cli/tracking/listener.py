"""What a run tells whoever is watching: the terminal, a log, a test.

The training loop and the evaluator call a `Listener` and never print. Every method of the base
class does nothing, so a listener overrides only what it shows.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from opsd_cli.token_ledger import TokenLedger

if TYPE_CHECKING:
    from opsd_cli.statistics import Estimate


@dataclass(frozen=True)
class StepRow:
    """One optimiser step, as written to `metrics.jsonl` (one key a field, metrics inlined).

    `reward` is the share of this step's training rollouts graded correct, None for a method that
    draws none; `metrics` holds those of `opsd_cli.training.collapse_metrics`, of the method and of
    the sampler.
    """

    step: int
    steps: int
    loss: float
    grad_norm: float
    learning_rate: float
    reward: float | None
    metrics: dict[str, Any]
    ledger: TokenLedger
    seconds: float
    cpu_seconds: float
    tokens_per_second: float | None
    memory_peak: int

    def as_dict(self) -> dict[str, Any]:
        """One level of keys: every metric once, under its own name."""
        row = asdict(self)
        return {**{k: v for k, v in row.items() if k != "metrics"}, **row["metrics"]}


@dataclass(frozen=True)
class EvaluationRow:
    """One validation (or test) during a run, as written to `evaluations.jsonl`.

    `correct` is each problem's share of right samples, in the order of the split, and `problems`
    a digest of the split, so that evaluations of different runs can be paired or refused.
    `evaluation_tokens`, `seconds` and `cpu_seconds` are what this measurement alone took.
    """

    step: int
    split: str
    accuracy: Estimate
    truncated: float
    no_answer: float
    mean_tokens: float
    generated: int
    best: bool
    ledger: TokenLedger
    training_cpu_seconds: float
    problems: str
    correct: tuple[float, ...]
    evaluation_tokens: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0


class Messages(Protocol):
    """Receives the messages of work outside the training loop; every `Listener` is one."""

    def note(self, message: str, /) -> None:
        """A plain sentence about what is going on."""

    def warn(self, message: str, /) -> None:
        """A sentence about something the user should look at."""

    def working(self, what: str, /) -> AbstractContextManager[None]:
        """Entered while some work of unknown length is under way."""


class Listener:
    """Receives a run's events; the default ignores them."""

    def note(self, message: str) -> None:
        """A plain sentence worth keeping on screen (rows left out, the backend chosen)."""

    def warn(self, message: str) -> None:
        """A sentence about something the user should look at."""

    def working(self, what: str) -> AbstractContextManager[None]:
        """Entered while some work of unknown length is under way ("loading the model")."""
        return contextlib.nullcontext()

    def phase(self, name: str, total: int, done: int = 0) -> None:
        """A phase of `total` units begins ("preflight", "rollouts", "validation"), so many of them
        done before."""

    def advance(self, units: int = 1) -> None:
        """So many units of the current phase are done."""

    def step(self, row: StepRow) -> None:
        """A step is complete."""

    def evaluation(self, row: EvaluationRow) -> None:
        """An evaluation is complete."""

    def preflight(self, student: Estimate, teacher: Estimate, problems: int) -> None:
        """The preflight's two accuracies."""

    def checkpoint(self, step: int, path: str) -> None:
        """A checkpoint is on disk."""
