"""Whether a run needs the trainer's own weights to sample, whatever its rollout engine."""

from __future__ import annotations

from opsd_cli import methods
from opsd_cli.config.schema import Config


def trainer_samples(config: Config) -> bool:
    """True if the trainer's own weights sample in a run: all rollouts, or the teacher's analyses.

    With an engine of its own the latter, and in the preflight those of `teacher.model`: where the
    engine has no file of the teacher's weights (`backends.rollout_engines.samples_here`).
    """
    from backends.rollout_engines import samples_here

    if samples_here(config, teacher=False):
        return True
    measured = config.teacher.model is not None and config.preflight.enabled
    asked = config.teacher.reason_first or measured
    return asked and methods.get(config).needs.teacher and samples_here(config, teacher=True)
