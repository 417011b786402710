"""More steps for a run that has finished: `opsd train --resume --out RUN --steps N`.

Each checkpoint vouches for config.yaml, so that file stays as the run began. The new number of
steps is in a file of its own, which `Run.resume` applies. Steps that were trained already are not
changed: extending a run from 20 to 40 steps gives the run of 40 steps only where the learning rate
of a step does not depend on their number (a constant schedule, or `optimizer.schedule_steps`).
"""

from __future__ import annotations

from pathlib import Path

from opsd_cli.config.resolve import assigned
from opsd_cli.config.schema import Config
from opsd_cli.config.sections import Optimizer
from opsd_cli.errors import RunError
from opsd_cli.formatting import numbered
from opsd_cli.training.layout import EXTENSION, LOGS, RESULT
from opsd_cli.training.schedule import learning_rate
from opsd_cli.training.seals import read_sealed, seal, unseal


def with_extension(directory: Path, config: Config) -> Config:
    """The config of a run, with the steps that it was extended to."""
    found = read_sealed(directory, EXTENSION)
    return config if found is None else assigned(config, "train.steps", found["steps"])


def extend(directory: Path, config: Config, reached: int | None, steps: int) -> tuple[Config, str]:
    """Extend a finished run; its result of fewer steps is kept under another name.

    Args:
        directory: the run's, locked, at its newest checkpoint.
        config: the run's, with an earlier extension.
        reached: the step of its result; None for a run that has not finished.
        steps: the new number of steps.

    Returns:
        The config with these steps, and what happens to the learning rate, a sentence.

    Raises:
        RunError: the run has not finished, ended early, or has as many steps.
    """
    require_extendable(directory, config, reached, steps)
    before = config.train.steps
    # After a kill in between, the run has no result, which the next resume makes again.
    unseal(directory, RESULT, *LOGS)
    (directory / RESULT).replace(directory / f"step-{before:06d}-{RESULT}")
    _write(directory, steps)
    return assigned(config, "train.steps", steps), _rates(before, steps, config.optimizer)


def require_extendable(directory: Path, config: Config, reached: int | None, steps: int) -> None:
    """Raise `RunError` as `extend` does, with its arguments."""
    before, again = config.train.steps, f"opsd train --resume --out {directory}"
    if reached is None:
        raise RunError(
            f"{directory} has not finished: its {numbered(before, 'step')} must be done first",
            f"finish it ({again}), then add steps",
        )
    if reached < before:
        raise RunError(
            f"{directory} ended at step {reached} of {before}, since validation had not improved",
            f"begin a new run from its best weights: opsd train --config {directory}/config.yaml "
            f"--adapter {directory} --steps {steps} --out NEW",
        )
    if steps <= before:
        raise RunError(
            f"{directory} has finished its {numbered(before, 'step')}",
            f"give --steps more than {before}",
        )


def _write(directory: Path, steps: int) -> None:
    import json

    from opsd_cli.files.atomic_write import write_atomic

    write_atomic(directory / EXTENSION, json.dumps({"steps": steps}) + "\n")
    seal(directory, EXTENSION)


def _rates(before: int, steps: int, optimizer: Optimizer) -> str:
    """What the learning rate does where a schedule of fewer steps had ended."""
    last = learning_rate(before, before, optimizer)
    following = learning_rate(before + 1, steps, optimizer)
    same = learning_rate(before, steps, optimizer)
    text = f"extended from {before} to {steps} steps"
    if last == same:
        return f"{text}; the learning rate goes on as its schedule says"
    return (
        f"{text}; the {optimizer.schedule} schedule had brought the learning rate to {last:.3g} at "
        f"step {before}, and over {steps} steps it goes on from {following:.3g}: not the same as a "
        f"run that was begun with {steps} steps"
    )
