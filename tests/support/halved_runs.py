"""A comparison with `--halving` whose runs are made in this process, by fake policies.

The arms learn at different speeds, whatever their configs say, so that it is known which of them
are ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from opsd_cli.comparison.halving import halving_of
from opsd_cli.comparison.jobs import Job, plan_of, read_plan, write_plan
from opsd_cli.comparison.phases import train_arms
from opsd_cli.comparison.planned_tokens import halving_cost, stored_plan
from opsd_cli.comparison.variants import Variation, arms_of
from opsd_cli.config.schema import Config
from opsd_cli.errors import Interrupted
from opsd_cli.planning.token_plan import token_plan
from opsd_cli.tracking.listener import Listener
from opsd_cli.training.pausing import reached
from opsd_cli.training.run_directory import Run
from opsd_cli.training.trainer import train
from tests.support.fakes import FakePolicy
from tests.support.small_problems import SPLITS
from tests.support.training_runs import run_config

VARY = ("divergence.kind=reverse_kl,jsd", "train.passes=2,3")
#: Gain of accuracy with each pass of a step: base, reverse_kl, jsd, two passes, three passes.
GAINS = (0.01, 0.2, 0.0, 0.1, 0.01)


@dataclass
class HalvedRuns:
    """Runs the jobs of a comparison.

    Attributes:
        policies: of the runs so far, by directory name, one for each start or resumption.
        ran: names of the jobs in the order in which they were started, with their pause.
        stop_after: number of jobs after which Ctrl-C comes.
    """

    stop_after: int = 10**9
    policies: dict[str, list[FakePolicy]] = field(default_factory=dict)
    ran: list[tuple[str, int | None]] = field(default_factory=list)

    def __call__(self, directory: Path, jobs: Sequence[Job]) -> None:
        gains = dict(zip(read_plan(directory)["configs"], GAINS, strict=True))
        for job in (each for each in jobs if not each.done(directory)):
            if len(self.ran) == self.stop_after:
                raise Interrupted("stopped")
            self.ran.append((job.name, job.pause))
            self._run(directory / job.name, job, gains[job.method])

    def _run(self, path: Path, job: Job, gain: float) -> None:
        policy = FakePolicy(skill=0.3, gain=gain)
        self.policies.setdefault(path.name, []).append(policy)
        opened = Run.resume(path) if path.exists() else Run.create(path, job.config, {})
        pause = job.pause
        with opened as run:
            try:
                train(
                    policy, SPLITS, run,
                    stop=lambda: pause is not None and reached(path, pause),
                )  # fmt: skip
            except Interrupted:
                assert pause is not None and reached(path, pause)


def begin_halved(directory: Path, halved: bool = True) -> Variation:
    """Write the plan of five arms on two seeds; two of the arms are ended after step 2 of 4."""

    def config_with(assignments: Sequence[str]) -> Config:
        return run_config(
            "train.steps=4", "preflight.enabled=false", "train.keep_checkpoints=1", *assignments
        )

    configs, variation = arms_of("opsd", VARY, False, config_with)
    plans = {label: token_plan(config, SPLITS) for label, config in configs.items()}
    halving = halving_of(configs, "opsd") if halved else None
    more = {
        "planned": stored_plan(plans),
        "halving": halving and halving.as_dict(),
        "halving_cost": halving and halving_cost(halving, configs, plans, 2).as_dict(),
    }
    write_plan(directory, plan_of(configs, [0, 1], False, None, variation, more))
    return variation


def train_halved(directory: Path, runs: HalvedRuns, listener: Listener | None = None) -> list[Job]:
    """Train what the plan still lacks; returns the compared runs."""
    from opsd_cli.comparison.jobs import configs_of

    plan = read_plan(directory)
    return train_arms(directory, plan, configs_of(plan), runs, listener or Listener())[0]
