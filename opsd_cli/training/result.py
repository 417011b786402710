"""What a finished run reports: the object of `opsd train --json` and of `result.json`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from opsd_cli.statistics import Estimate
from opsd_cli.token_ledger import TokenLedger
from opsd_cli.training.run_directory import Run

ACCURACIES = ("base", "best", "final")
#: Field of `TrainResult` -> key and split of the rows of evaluations.jsonl that it is read from.
ESTIMATES = {
    "accuracy": ("accuracy", "test"),
    "flexible_accuracy": ("flexible_accuracy", "test"),
    "watch_accuracy": ("accuracy", "watch"),
    "divergence": ("divergence", "test"),
    "reference_log_prob": ("reference_log_prob", "test"),
    "watch_divergence": ("divergence", "watch"),
    "watch_reference_log_prob": ("reference_log_prob", "watch"),
}
#: Those that every result has, though they may be empty.
_ALWAYS = ("accuracy", "flexible_accuracy")


@dataclass(frozen=True)
class TrainResult:
    """The result of a run.

    Attributes:
        accuracy: "base", "best" and "final" accuracy on the test split; empty where nothing is
            graded.
        best_step: the step whose checkpoint validation chose.
        seconds, cpu_seconds: of all processes that worked on the run.
        training_cpu_seconds: CPU seconds of the steps alone.
        stopped_because: why the loop ended, in words.
        remarks: sentences about a run whose rollouts were all truncated, or that learnt nothing
            (`opsd_cli.training.remarks`).
        flexible_accuracy: as `accuracy`, by the flexible rule (`opsd_cli.grading.flexible`); empty
            where a measurement is of an earlier version.
        watch_accuracy: as `accuracy`, on the watch set (`data.watch`); empty without one.
        divergence, reference_log_prob: of the same three, where nothing is graded: the divergence
            from the teacher on the test split, and the log-probability of its solutions, in nats a
            token (`opsd_cli.evaluation.held_out`); empty without such.
        watch_divergence, watch_reference_log_prob: the same on the watch set.
    """

    run_dir: str
    method: str
    backend: str
    steps: int
    tokens: TokenLedger
    accuracy: dict[str, Estimate]
    best_step: int
    seconds: float
    cpu_seconds: float
    training_cpu_seconds: float
    stopped_because: str
    remarks: tuple[str, ...] = ()
    flexible_accuracy: dict[str, Estimate] = field(default_factory=dict)
    watch_accuracy: dict[str, Estimate] = field(default_factory=dict)
    divergence: dict[str, Estimate] = field(default_factory=dict)
    reference_log_prob: dict[str, Estimate] = field(default_factory=dict)
    watch_divergence: dict[str, Estimate] = field(default_factory=dict)
    watch_reference_log_prob: dict[str, Estimate] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The object that `opsd train --json` prints."""
        found = {**asdict(self), "remarks": list(self.remarks)}
        absent = (name for name in ESTIMATES if not found[name] and name not in _ALWAYS)
        for name in list(absent):
            del found[name]
        return found

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> TrainResult:
        """The result that `as_dict` gave."""
        tokens, remarks = TokenLedger(**found["tokens"]), tuple(found.get("remarks", ()))
        estimates = {
            key: {name: Estimate(**each) for name, each in found.get(key, {}).items()}
            for key in ESTIMATES
        }
        if found["accuracy"]:
            _ = [found["accuracy"][label] for label in ACCURACIES]  # none may lack
        return cls(**{**found, **estimates, "tokens": tokens, "remarks": remarks})


def finished_result(run: Run) -> TrainResult | None:
    """The result of a run that has finished; None where there is still work to do.

    The file that names its best checkpoint is written again where it was damaged.
    """
    found = run.result()
    try:
        result = None if found is None else TrainResult.from_dict(found)
    except (KeyError, TypeError):  # of an earlier version, or edited: rebuilt
        return None
    if result is not None:
        run.mark_best(result.best_step)
        run.finish_sealing()
    return result
