"""The one loop that every method and every backend shares.

    questions -> rollouts -> grades -> loss batch -> gradient -> step -> ledger, metrics, checkpoint

Nothing in a step depends on anything but the config, the step's number and the weights: questions
come from a permutation seeded per epoch, rollouts from seeds derived from (seed, step, problem,
sample). A run resumed from a checkpoint therefore repeats what it would have done, and on a CPU
ends with the same adapter, bit for bit.

Ctrl-C and SIGTERM are noticed after each finished rollout. A step whose rollouts are being drawn is
given up, since it has changed nothing yet; a measurement under way keeps its samples; both are gone
on with by `--resume`.

The best checkpoint is chosen on validation problems alone. The test split is measured three times
(before, at the best checkpoint, at the end) and decides nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from backends.interface import BatchReport, LossBatch, Policy
from opsd_cli import methods
from opsd_cli.errors import ConfigError, Interrupted, TrainingError
from opsd_cli.grading import Grader, open_grader
from opsd_cli.methods import LossPlan
from opsd_cli.problems.sources import Splits
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.rollouts.collector import RolloutCollector, StepRollouts, cost_of
from opsd_cli.statistics import Estimate
from opsd_cli.stopping import Stop, never
from opsd_cli.token_ledger import TokenLedger
from opsd_cli.tracking.listener import Listener, StepRow
from opsd_cli.training import run_directory
from opsd_cli.training.checkpoints import state_of, whole_checkpoint
from opsd_cli.training.collapse_metrics import (
    divergence_of_completions,
    loss_monitors,
    rollout_monitors,
)
from opsd_cli.training.measuring import Measurements
from opsd_cli.training.run_directory import Run
from opsd_cli.training.schedule import QuestionOrder, learning_rate
from opsd_cli.training.state import Clock, RunState

ACCURACIES = ("base", "best", "final")


@dataclass(frozen=True)
class TrainResult:
    """What a finished run reports; accuracies are on the test split."""

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

    def as_dict(self) -> dict[str, Any]:
        """The object that `opsd train --json` prints."""
        return {
            **{key: value for key, value in asdict(self).items() if key != "accuracy"},
            "accuracy": {name: value.as_dict() for name, value in self.accuracy.items()},
        }

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> TrainResult:
        """The result that `as_dict` gave."""
        accuracy = {name: Estimate(**found["accuracy"][name]) for name in ACCURACIES}
        return cls(**{**found, "tokens": TokenLedger(**found["tokens"]), "accuracy": accuracy})


class Trainer:
    """One run, from preflight to result. Use `train`."""

    def __init__(
        self,
        policy: Policy,
        splits: Splits,
        run: Run,
        listener: Listener,
        grader: Grader,
        stop: Stop,
    ) -> None:
        self.config = config = run.config
        self.policy = policy
        self.run = run
        self.listener = listener
        self.stop = stop
        self.contexts = PromptBuilder(config, policy.tokenizer, policy.context_limit)
        self.method = methods.get(config)
        train = splits.train.problems
        self.order = QuestionOrder(train, config.train.questions_per_step, config.seed)
        self.drawer = RolloutCollector(
            config, policy, self.method, self.contexts, train, grader, listener, stop
        )
        latest = run.latest()
        self.state = RunState() if latest is None else RunState.from_dict(state_of(latest))
        self.clock = Clock(self.state)
        self.measurements = Measurements(
            policy, splits, run, self.state, self.contexts, grader, listener, stop
        )

    # -- beginning -----------------------------------------------------------------------------

    def begin(self) -> None:
        """Preflight and the measurements at step 0, or the state of the newest checkpoint."""
        for row in self.run.kept:
            self.state.ledger += TokenLedger(evaluation=row.get("evaluation_tokens", 0))
            self.state.seconds += row.get("seconds", 0.0)
            self.state.cpu_seconds += row.get("cpu_seconds", 0.0)
        self.measurements.restore_samples()
        self.measurements.restore_analyses()
        latest = self.run.latest()
        if latest is not None:
            self.policy.restore(latest)
            if self.state.ahead is not None:
                step = self.state.ahead["step"]
                self.drawer.restore(self.state.ahead, self.order.of_step(step))
            self.run.mark_best(self.state.best_step)
            self.run.prune(self.config.train.keep_checkpoints, self.state.best_step)
            self.listener.note(f"resumed at step {self.state.step}")
            return
        if self.config.preflight.enabled and self.method.needs_teacher:
            self.measurements.preflight()
        self.measurements.test("base", 0)
        self.measurements.validate()
        self.checkpoint()

    # -- learning ------------------------------------------------------------------------------

    def learn(self, step: int) -> None:
        """One step: rollouts, gradient, update, accounts."""
        cpu_started = time.process_time()
        questions = self.order.of_step(step)
        drawn = self.drawer.step(questions, step)
        if self.config.rollouts.overlap and step < self.config.train.steps:
            self.drawer.ahead(self.order.of_step(step + 1), step + 1)
        plan = self.method.build_loss(questions, drawn.graded, self.contexts, self.policy, step)
        reports, norm = self.update(step, plan.batches)
        cost = cost_of([g.rollout for g in drawn.everything])
        learnt = TokenLedger(
            teacher_scored=sum(report.teacher_tokens for report in reports),
            trained=sum(report.trained_tokens for report in reports),
        )
        state = self.state
        state.ledger += plan.spent + drawn.spent + cost + learnt
        state.step = step
        state.training_cpu_seconds += time.process_time() - cpu_started
        self.clock.tick()
        row = StepRow(
            step=step,
            steps=self.config.train.steps,
            loss=float(np.mean([report.loss for report in reports])) if reports else 0.0,
            grad_norm=norm,
            learning_rate=learning_rate(step, self.config.train.steps, self.config.optimizer),
            reward=drawn.share_right,
            monitors=self.monitors(drawn, plan, reports),
            ledger=state.ledger,
            seconds=state.seconds,
            cpu_seconds=state.cpu_seconds,
            tokens_per_second=cost.generated / drawn.seconds
            if drawn.everything and drawn.seconds
            else None,
            memory_peak=self.policy.memory().peak,
        )
        self.run.append(run_directory.METRICS, row.as_dict())
        self.run.append(run_directory.ROLLOUTS, *rollout_rows(step, drawn, plan, reports))
        self.measurements.keep_analyses()
        self.listener.step(row)

    def update(self, step: int, batches: Sequence[LossBatch]) -> tuple[list[BatchReport], float]:
        """An optimiser step for each batch; returns their reports and the greatest gradient norm.

        Raises:
            TrainingError: a loss is not finite.
        """
        rate = learning_rate(step, self.config.train.steps, self.config.optimizer)
        self.listener.phase("gradient", len(batches))
        reports, norm = [], 0.0
        for batch in batches:
            report = self.policy.accumulate(batch)
            if not math.isfinite(report.loss):
                raise TrainingError(
                    f"the loss of step {step} is {report.loss}",
                    "lower optimizer.learning_rate, or try divergence.kind=jsd, which is bounded",
                )
            norm = max(norm, self.policy.apply(rate))
            reports.append(report)
            self.listener.advance()
        return reports, norm

    def monitors(
        self, drawn: StepRollouts, plan: LossPlan, reports: Sequence[BatchReport]
    ) -> dict[str, Any]:
        """What `metrics.jsonl` says of a step beyond its loss and its cost."""
        found: dict[str, Any] = {**plan.metrics}
        if drawn.graded:
            found |= rollout_monitors(
                [g.rollout for g in drawn.graded],
                [g.text for g in drawn.graded],
                [g.problem.solution or "" for g in drawn.graded],
            )
        found |= loss_monitors(plan.batches, reports, self.contexts.tokenizer, self.policy.stop_ids)
        found["references_shortened"] = self.contexts.shortened
        return found | drawn.metrics

    # -- the whole -----------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Put the run on disk as it stands."""
        self.state.ahead = self.drawer.state()
        self.clock.tick()
        path = self.run.write_checkpoint(self.state.step, self.policy.save, self.state.as_dict())
        self.run.mark_best(self.state.best_step)
        self.run.prune(self.config.train.keep_checkpoints, self.state.best_step)
        self.listener.checkpoint(self.state.step, str(path))

    def measure(self) -> bool:
        """Make the measurements that are due at this step; True where it is the best so far."""
        state, train = self.state, self.config.train
        best = False
        if state.step % train.evaluate_every == 0 or state.step == train.steps:
            best = self.measurements.validate()
            if train.curve:
                self.measurements.test("curve", state.step)
        state.measured = state.step
        return best

    def loop(self) -> str:
        """Steps until the last, or until validation stops improving; returns why it ended.

        Raises:
            Interrupted: the user stopped it; there is a checkpoint of where it stood.
        """
        train, state = self.config.train, self.state
        saved = state.step  # the step of the newest checkpoint
        try:
            while True:
                if state.measured < state.step:
                    best = self.measure()
                    done = state.step == train.steps or self.out_of_patience
                    if best or done or state.step % train.checkpoint_every == 0:
                        self.checkpoint()
                        saved = state.step
                if state.step == train.steps:
                    return "all steps done"
                if self.out_of_patience:
                    return f"validation had not improved for {state.misses} evaluations"
                if self.stop():
                    raise Interrupted("stopped between two steps")
                self.learn(state.step + 1)
        except Interrupted as error:
            if saved < state.step or state.measured < state.step:
                self.checkpoint()
            raise self.interrupted() from error

    @property
    def out_of_patience(self) -> bool:
        patience = self.config.train.patience
        return patience is not None and self.state.misses >= patience

    def finish(self, why: str) -> TrainResult:
        """Measure the test split at the end and at the best checkpoint, and write the result."""
        state, test = self.state, self.measurements.test
        state.ledger += self.drawer.discarded()
        accuracy = {"base": test("base", 0)}
        accuracy["final"] = test("final", state.step)
        if state.best_step not in (0, state.step):
            self.policy.load_adapter(whole_checkpoint(self.run.checkpoint_path(state.best_step)))
        accuracy["best"] = test("best", state.best_step)
        self.clock.tick()
        result = TrainResult(
            run_dir=str(self.run.directory),
            method=self.method.name,
            backend=self.config.backend,
            steps=state.step,
            tokens=state.ledger,
            accuracy={name: accuracy[name] for name in ACCURACIES},
            best_step=state.best_step,
            seconds=state.seconds,
            cpu_seconds=state.cpu_seconds,
            training_cpu_seconds=state.training_cpu_seconds,
            stopped_because=why,
        )
        self.run.write_result(result.as_dict())
        return result

    def interrupted(self) -> Interrupted:
        """What a user who stopped the run is told."""
        return Interrupted(
            f"stopped after step {self.state.step} of {self.config.train.steps}; "
            "everything so far is kept",
            f"go on with: opsd train --resume --out {self.run.directory}",
        )

    def work(self) -> TrainResult:
        """The run from where it stands to its result."""
        try:
            self.begin()
            return self.finish(self.loop())
        except Interrupted as error:
            raise error if error.hint else self.interrupted() from error


def rollout_rows(
    step: int, drawn: StepRollouts, plan: LossPlan, reports: Sequence[BatchReport]
) -> list[dict[str, Any]]:
    """The lines of `rollouts.jsonl` of one step."""
    divergence = divergence_of_completions(plan.batches, reports)
    return [
        {
            "step": step,
            "problem_id": g.problem.id,
            "sample_index": g.rollout.request.sample_index,
            "completion": g.text,
            "tokens": len(g.rollout.completion_ids),
            "finish_reason": g.rollout.finish_reason,
            "correct": g.correct,
            "divergence": divergence.get((g.rollout.request.prompt_ids, g.rollout.completion_ids)),
        }
        for g in drawn.everything
    ]


def train(
    policy: Policy,
    splits: Splits,
    run: Run,
    listener: Listener | None = None,
    stop: Stop = never,
) -> TrainResult:
    """Run, or go on with, the run in `run`, and return its result; that of a finished run as it is.

    Args:
        policy: loaded trainable, from `run.config`.
        stop: polled after each finished rollout and between steps; once True, what is needed to go
            on is saved and `Interrupted` raised.

    Raises:
        ConfigError: fewer training problems than questions a step.
        PreflightFailed: the reference does not help the teacher.
        TrainingError: a loss or gradient that is not finite.
        Interrupted: `stop` said so.
    """
    listener = listener or Listener()
    finished = finished_result(run)
    if finished is not None:
        return finished
    need, have = run.config.train.questions_per_step, len(splits.train.problems)
    if need > have:
        raise ConfigError(
            f"train.questions_per_step is {need}, but there are only {have} training problems",
            f"set it to {have} or fewer, or bring more problems",
        )
    for note in run.notes:
        listener.warn(note)
    for note in splits.notes:
        listener.note(note)
    for warning in splits.warnings:
        listener.warn(warning)
    with open_grader(run.config.grading) as grader:
        return Trainer(policy, splits, run, listener, grader, stop).work()


def finished_result(run: Run) -> TrainResult | None:
    """The result of a run that has finished; None where there is still work to do.

    The file that names its best checkpoint is written again where it was damaged.
    """
    found = run.result()
    try:
        result = None if found is None else TrainResult.from_dict(found)
    except (KeyError, TypeError):  # of an earlier version, or edited: made anew
        return None
    if result is not None:
        run.mark_best(result.best_step)
        run.finish_sealing()
    return result
