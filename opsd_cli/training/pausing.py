"""A run that is to stop at a step, as in a round of `opsd compare --halving`.

The comparison names the step to the run that it starts. The run then ends once it has the
checkpoint of that step with its measurements, as after Ctrl-C there: resuming it repeats nothing,
and the schedule of its learning rate is that of the whole run.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from opsd_cli.files.json_files import read_object
from opsd_cli.training.checkpoints import STATE, Checkpoints, step_of

#: Environment variable with the number of the step.
PAUSE_STEP = "OPSD_PAUSE_STEP"


def reached(run: Path, step: int) -> bool:
    """Whether a run's newest checkpoint is of this step or a later one, and measured."""
    newest = Checkpoints(run).newest()
    if newest is None or (step_of(newest) or 0) < step:
        return False
    state = read_object(newest / STATE) or {}
    measured = state.get("measured", state.get("step"))
    return isinstance(measured, int) and measured >= step


def asked_pause(run: Path) -> Callable[[], bool]:
    """Whether a run is to stop now; never where no step was named for it."""
    step = os.environ.get(PAUSE_STEP, "")
    if not step.isdecimal():
        return lambda: False
    return lambda: reached(run, int(step))
