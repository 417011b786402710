"""The state of a run besides its policy: what a checkpoint holds in `state.json`."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from backends.interface import Policy, SpansProcesses
from opsd_cli.errors import RunError
from opsd_cli.token_ledger import TokenLedger

#: Keys of `state.json` that are older than the fields' names.
_KEYS = {"validations_without_improvement": "misses", "prefetched": "ahead"}


@dataclass
class RunState:
    """The state after `step` steps.

    Attributes:
        measured: the newest step whose measurements are complete; less than `step` only where the
            run was stopped between the two.
        best_accuracy: the highest value of what validation selects by (`evaluated`); None before
            any.
        validated: the newest step whose validation has been taken into account; -1 before any.
        validations_without_improvement: validations in a row that were no improvement.
        seconds, cpu_seconds: of all processes that worked on the run.
        training_cpu_seconds: of the steps alone.
        prefetched: rollouts of the next step that were sampled already, as
            `opsd_cli.rollouts.prefetch.Prefetcher.state` gives them.
    """

    step: int = 0
    measured: int = 0
    validated: int = -1
    best_step: int = 0
    best_accuracy: float | None = None
    validations_without_improvement: int = 0
    ledger: TokenLedger = field(default_factory=TokenLedger)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    training_cpu_seconds: float = 0.0
    prefetched: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The object of a checkpoint's `state.json`."""
        return {_KEYS.get(name, name): value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> RunState:
        """The state that `as_dict` gave.

        Raises:
            RunError: it is of another form.
        """
        names = {_KEYS.get(each.name, each.name): each.name for each in fields(cls)}
        # Earlier versions wrote a checkpoint only after the step's measurements.
        done = {"measured": state.get("step"), "validated": state.get("step")}
        try:
            ledger = TokenLedger(**state["ledger"])
            if unknown := state.keys() - names.keys():
                raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
            given = {names[key]: value for key, value in state.items()}
            return cls(**{**done, **given, "ledger": ledger})
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(
                f"a checkpoint's state is not one that this version can go on from: {error}",
                "go on with the version that made it",
            ) from error

    def evaluated(self, quality: float | None) -> bool:
        """Take this step's validation into account; True where it is the best so far.

        Args:
            quality: what validation selects by, higher is better: the accuracy, the mean score
                where the grader gives numbers, or, where nothing is graded,
                `opsd_cli.evaluation.held_out.HeldOut.quality`. None is no improvement.

        A tie is no improvement: the earlier checkpoint stays the best.
        """
        highest = self.best_accuracy
        best = quality is not None and (highest is None or quality > highest)
        if best:
            self.best_accuracy, self.best_step = quality, self.step
        without = self.validations_without_improvement
        self.validations_without_improvement = 0 if best else without + 1
        self.validated = self.step
        return best


def cpu_time(policy: Policy) -> float:
    """CPU seconds so far of this process, and of those that work for the policy."""
    others = policy.cpu_seconds if isinstance(policy, SpansProcesses) else 0.0
    return time.process_time() + others


class Clock:
    """Adds the time that passes to a state; CPU time of all processes that work for the policy."""

    def __init__(self, state: RunState, policy: Policy) -> None:
        self.state, self._policy = state, policy
        self._wall, self._cpu = time.perf_counter(), cpu_time(policy)

    def tick(self) -> None:
        """Add the time since the last tick."""
        wall, cpu = time.perf_counter(), cpu_time(self._policy)
        self.state.seconds += wall - self._wall
        self.state.cpu_seconds += cpu - self._cpu
        self._wall, self._cpu = wall, cpu
