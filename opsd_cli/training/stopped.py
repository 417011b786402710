"""What a user is told who stops a run: what is on disk, and what resuming does again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from opsd_cli.errors import Interrupted, RunError
from opsd_cli.files.jsonl_log import Log
from opsd_cli.formatting import numbered
from opsd_cli.training import run_directory
from opsd_cli.training.run_directory import Run
from opsd_cli.training.state import RunState

#: The measurements before step 1, by split, as they are called while they run.
_BEFORE_STEP_1 = {"test": "test (base)", "validation": "validation"}


def stopped(run: Run, state: RunState) -> Interrupted:
    """The error for a user who stopped a run, whose state is on disk.

    Args:
        state: at the step after which it stopped.
    """
    step, steps = state.step, run.config.train.steps
    where = f"after step {step}" if step else "before step 1"
    kept, samples, latest = list(_kept(run, step)), _samples(run), run.latest()
    if samples:
        again = "samples none of it again"
    elif latest is None:
        again = "begins the measurement under way anew"
    elif state.measured == step < steps:
        again = f"begins step {step + 1} anew"
    else:
        again = "repeats nothing"
    return Interrupted(
        f"stopped {where} of {steps}; kept: {', '.join(kept) or 'nothing'}; resuming {again}",
        f"go on with: opsd train --resume --out {run.directory}",
    )


def _kept(run: Run, step: int) -> Iterator[str]:
    """What is on disk, in the order in which it was made."""
    if step:
        yield f"the checkpoint of step {step}"
        yield "every finished measurement"
    else:
        if run.sealed(run_directory.PREFLIGHT) is not None:
            yield "the preflight"
        for row in run.rows(run_directory.EVALUATIONS):
            if row["step"] == 0:
                yield _BEFORE_STEP_1[row["split"]]
    for label, count in _samples(run).items():
        yield f"{numbered(count, 'completion')} of {label}"


def _samples(run: Run) -> Counter[str]:
    """The number of graded completions of a measurement under way, by its label."""
    try:
        rows = list(Log(run.directory / run_directory.UNFINISHED).rows())
    except RunError:  # damaged; resuming samples them again
        return Counter()
    return Counter(str(row["measuring"]) for row in rows)
