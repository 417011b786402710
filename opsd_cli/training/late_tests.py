"""The test split of kept checkpoints, measured after the last step (`train.test_at_end`)."""

from __future__ import annotations

from collections.abc import Sequence

from backends.interface import Policy
from opsd_cli.grading import grades
from opsd_cli.training.checkpoints import whole_checkpoint
from opsd_cli.training.measuring import Measurements
from opsd_cli.training.run_directory import Run


def measure_kept(
    steps: Sequence[int], last: int, policy: Policy, run: Run, measurements: Measurements
) -> None:
    """Measure the test split with the weights of each step, unless its record is there.

    The policy then has the weights of the last step again.

    Args:
        steps: that have a checkpoint; none where the test split is measured as a run goes on.
        last: the step at which the run stands.
    """
    # Where nothing is graded, the teacher's average of the weights is measured too.
    take = policy.load_adapter if grades(run.config.grading) else policy.restore
    for step in steps:
        if not measurements.row_of("test", step):
            take(whole_checkpoint(run.checkpoint_path(step)))
            measurements.test(f"step {step}", step, kept=True)
    if steps:
        take(whole_checkpoint(run.checkpoint_path(last)))
