"""What resuming a run would do, read without changing anything: for `--resume --dry-run`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opsd_cli.config.resolve import validate
from opsd_cli.config.schema import Config
from opsd_cli.config.yaml_files import read_tree
from opsd_cli.files.jsonl_log import Log
from opsd_cli.training.checkpoints import Checkpoints, step_of
from opsd_cli.training.extension import require_extendable, with_extension
from opsd_cli.training.layout import CONFIG, LOGS, result_of
from opsd_cli.training.resume import Rewind, require_run


@dataclass(frozen=True)
class Remaining:
    """What is left of a run.

    Attributes:
        config: the run's, with the backend and the steps that were asked for.
        step: of the checkpoint that it goes on from; 0 before the first.
        finished: whether the run has its result, so that nothing is left.
    """

    config: Config
    step: int
    finished: bool

    @property
    def steps(self) -> int:
        """Steps left."""
        return 0 if self.finished else max(0, self.config.train.steps - self.step)

    @property
    def validations(self) -> int:
        """Validations due in these steps, the one after the last step included."""
        train = self.config.train
        if not self.steps:
            return 0
        return -(-train.steps // train.evaluate_every) - self.step // train.evaluate_every

    def as_dict(self) -> dict[str, Any]:
        """As `--resume --dry-run --json` has it."""
        return {
            "step": self.step, "steps_left": self.steps, "validations_left": self.validations,
            "finished": self.finished,
        }  # fmt: skip


def remaining(
    directory: Path, step: int | None = None, backend: str | None = None, steps: int | None = None
) -> Remaining:
    """What `opsd_cli.training.session.resume` would find; the arguments are its own.

    Raises:
        RunError: it would refuse.
    """
    require_run(directory)
    config = with_extension(directory, validate(read_tree(directory / CONFIG)))
    logs = {name: Log(directory / name) for name in LOGS}
    checkpoint = Rewind(directory, logs).look(step)
    reached = (step_of(checkpoint) or 0) if checkpoint is not None else 0
    # The result of later or damaged checkpoints is put aside when the run goes on.
    stands = checkpoint == Checkpoints(directory).newest()
    result = (result_of(directory) or {}).get("steps") if stands else None
    if steps is not None and (result is not None or steps != config.train.steps):
        require_extendable(directory, config, result, steps)
        train = config.train.model_copy(update={"steps": steps})
        config, result = config.model_copy(update={"train": train}), None
    if backend is not None:
        config = config.model_copy(update={"backend": backend})
    return Remaining(config, reached, result is not None)
