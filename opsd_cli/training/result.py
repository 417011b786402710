"""What a finished run reports: the object of `opsd train --json` and of `result.json`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from opsd_cli.statistics import Estimate
from opsd_cli.token_ledger import TokenLedger
from opsd_cli.training.run_directory import Run

ACCURACIES = ("base", "best", "final")


@dataclass(frozen=True)
class TrainResult:
    """The result of a run.

    Attributes:
        accuracy: "base", "best" and "final" accuracy on the test split.
        best_step: the step whose checkpoint validation chose.
        seconds, cpu_seconds: of all processes that worked on the run.
        training_cpu_seconds: CPU seconds of the steps alone.
        stopped_because: why the loop ended, in words.
        remarks: sentences about a run whose rollouts were all truncated, or that learnt nothing
            (`opsd_cli.training.remarks`).
        flexible_accuracy: as `accuracy`, by the flexible rule (`opsd_cli.grading.flexible`); empty
            where a measurement is of an earlier version.
        watch_accuracy: as `accuracy`, on the watch set (`data.watch`); empty without one.
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

    def as_dict(self) -> dict[str, Any]:
        """The object that `opsd train --json` prints."""
        found = {
            **asdict(self),
            "remarks": list(self.remarks),
            "accuracy": _as_dicts(self.accuracy),
            "flexible_accuracy": _as_dicts(self.flexible_accuracy),
            "watch_accuracy": _as_dicts(self.watch_accuracy),
        }
        if not self.watch_accuracy:
            del found["watch_accuracy"]
        return found

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> TrainResult:
        """The result that `as_dict` gave."""
        accuracy = {name: Estimate(**found["accuracy"][name]) for name in ACCURACIES}
        tokens, remarks = TokenLedger(**found["tokens"]), tuple(found.get("remarks", ()))
        flexible, watched = found.get("flexible_accuracy", {}), found.get("watch_accuracy", {})
        return cls(
            **{
                **found,
                "tokens": tokens,
                "accuracy": accuracy,
                "remarks": remarks,
                "flexible_accuracy": {name: Estimate(**e) for name, e in flexible.items()},
                "watch_accuracy": {name: Estimate(**e) for name, e in watched.items()},
            }
        )


def _as_dicts(accuracy: dict[str, Estimate]) -> dict[str, dict[str, float]]:
    return {name: value.as_dict() for name, value in accuracy.items()}


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
