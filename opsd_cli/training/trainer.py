"""The one loop that every method and every backend shares.

    questions -> rollouts -> grades -> loss batch -> gradient -> step -> ledger, metrics, checkpoint

A step depends on the config, its number and the weights alone: questions come from one permutation
an epoch, rollouts from seeds derived from (seed, step, problem, sample). A run resumed from a
checkpoint therefore repeats the same steps, and on a CPU ends with the same adapter, bit for bit.

Ctrl-C and SIGTERM are noticed after each finished rollout. A step whose rollouts are incomplete is
dropped, since it has changed nothing yet; an incomplete measurement keeps its samples; `--resume`
continues both.

The best checkpoint is chosen on validation problems alone. The test split is measured before the
first step, at the best checkpoint and at the end, and decides nothing; so is the watch set. With
`train.test_at_end` all of this waits for the end.
"""

from __future__ import annotations

import math
from dataclasses import replace

from backends.interface import BatchReport, LossBatch, Policy
from opsd_cli import methods
from opsd_cli.errors import Interrupted, TrainingError
from opsd_cli.grading import Grader, grades, open_grader
from opsd_cli.interruption import Stop, never
from opsd_cli.methods.base import LossPlan, StepInputs
from opsd_cli.problems.sources import Splits
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.rollouts.collector import RolloutCollector
from opsd_cli.rollouts.contrast import NONE
from opsd_cli.rollouts.importance import SamplerComparison
from opsd_cli.rollouts.prefetch import Prefetcher
from opsd_cli.rollouts.teacher_analysis import TeacherAnalyst
from opsd_cli.rollouts.types import StepRequests, training_sampling
from opsd_cli.rollouts.watching import LearningWatch, observed
from opsd_cli.tracking.listener import GRADIENT, Listener
from opsd_cli.training import run_directory
from opsd_cli.training.analyses import load_analyses, save_analyses
from opsd_cli.training.checkpoints import state_of, whole_checkpoint
from opsd_cli.training.late_tests import measure_kept
from opsd_cli.training.measuring import Measurements
from opsd_cli.training.preflight import preflight
from opsd_cli.training.remarks import remarks
from opsd_cli.training.result import ACCURACIES, ESTIMATES, TrainResult, finished_result
from opsd_cli.training.run_directory import Run
from opsd_cli.training.schedule import QuestionOrder, learning_rate, require_enough, tested_at_end
from opsd_cli.training.state import Clock, RunState, cpu_time
from opsd_cli.training.step_records import Learnt, rollout_rows, step_row, step_tokens
from opsd_cli.training.stopped import stopped
from opsd_cli.training.thinking import thinking_warning
from opsd_cli.training.totals import tokens_of
from opsd_cli.training.work_ahead import Foreseeing


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
        self.policy, self.splits, self.run = policy, splits, run
        latest = run.latest()
        self.state = RunState() if latest is None else RunState.from_dict(state_of(latest))
        self.listener = listener = Foreseeing(listener, config, splits, self.state)
        self.stop = stop
        train = splits.train.problems
        self.order = QuestionOrder(train, config.train.questions_per_step, config.seed)
        self.method = methods.get(config)
        self.builder = PromptBuilder(config, policy.tokenizer, policy.context_limit)
        self.analyst = TeacherAnalyst(
            config, policy, self.builder, load_analyses(run, train), listener
        )
        requests = StepRequests(config, self.method, self.builder)
        self.prefetcher = Prefetcher(policy, requests, training_sampling(config))
        self.collector = RolloutCollector(
            config, policy, self.method, requests, self.prefetcher, train, grader, listener, stop
        )
        self.comparison = SamplerComparison(config, policy, listener)
        self.clock = Clock(self.state, policy)
        self.measurements = Measurements(policy, splits, run, self.state, grader, listener, stop)

    def work(self) -> TrainResult:
        """The run from where it stands to its result."""
        try:
            self.begin()
            return self.finish(self.train_steps())
        except Interrupted as error:
            raise error if error.hint else self.interrupted() from error

    def begin(self) -> None:
        """Preflight and the measurements at step 0, or the state of the newest checkpoint."""
        for row in self.run.kept:
            self.state.ledger += tokens_of(row)
            self.state.seconds += row.get("seconds", 0.0)
            self.state.cpu_seconds += row.get("cpu_seconds", 0.0)
        self.measurements.restore_samples()
        latest = self.run.latest()
        if latest is not None:
            self.policy.restore(latest)
            if self.state.prefetched is not None:
                questions = self.order.of_step(self.state.prefetched["step"])
                self.prefetcher.restore(self.state.prefetched, questions)
            self.run.mark_best(self.state.best_step)
            self.prune()
            self.listener.note(f"resumed at step {self.state.step}")
            return
        warning = thinking_warning(self.config, lambda: self.policy.tokenizer)
        if warning is not None:
            self.listener.warn(warning)
        if self.config.preflight.enabled and self.method.needs.teacher:
            self.state.ledger += preflight(
                self.run, self.splits.train, self.builder, self.analyst, self.measurements,
                self.listener, self.stop,
            )  # fmt: skip
        if not self.config.train.test_at_end:
            self.measurements.test("base", 0)
        self.measurements.watch("base", 0)
        self.measurements.validate()
        self.checkpoint()

    def train_steps(self) -> str:
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
                    done = state.step == train.steps or self.early_stop
                    due = state.step % train.checkpoint_every == 0
                    if best or done or due or state.step in self.tested_later:
                        self.checkpoint()
                        saved = state.step
                if state.step == train.steps:
                    return "all steps done"
                if self.early_stop:
                    without = state.validations_without_improvement
                    return f"validation had not improved for {without} evaluations"
                if self.stop():
                    raise Interrupted("stopped between two steps")
                self.train_step(state.step + 1)
        except Interrupted as error:
            if saved < state.step or state.measured < state.step:
                self.checkpoint()
            raise self.interrupted() from error

    def train_step(self, step: int) -> None:
        """One step: rollouts, loss batches, updates, records."""
        cpu_started = cpu_time(self.policy)
        questions = self.order.of_step(step)
        rate = learning_rate(step, self.config.train.steps, self.config.optimizer)
        rollouts = self.comparison.compare(self.collector.collect(questions, step))
        if self.config.rollouts.overlap and step < self.config.train.steps:
            self.prefetcher.start(self.order.of_step(step + 1), step + 1)
        inputs = StepInputs(step, questions, rollouts.graded, self.builder, self.analyst)
        plan = self.method.build_loss(inputs, self.policy)
        learnt = self.update(step, plan, rate)

        state = self.state
        state.step = step
        state.ledger += step_tokens(rollouts, plan, learnt)
        state.training_cpu_seconds += cpu_time(self.policy) - cpu_started
        self.clock.tick()
        taught = self.analyst.take_taught()
        row = step_row(
            self.config, state, rollouts, plan, learnt, rate, self.builder, self.policy, taught,
        )  # fmt: skip
        self.run.append(run_directory.METRICS, row.as_dict())
        contrasted = self.config.teacher.contrast != NONE
        rows = rollout_rows(step, rollouts, plan, learnt.reports, self.builder, taught, contrasted)
        self.run.append(run_directory.ROLLOUTS, *rows)
        save_analyses(self.run, step, self.analyst.take_unsaved())
        self.listener.step(row)

    def update(self, step: int, plan: LossPlan, rate: float) -> Learnt:
        """An optimiser step for each of the plan's batches, each with the plan's anchor.

        Raises:
            TrainingError: a loss is not finite.
        """
        self.listener.phase(GRADIENT, len(plan.batches))
        anchors = () if plan.anchor is None else (plan.anchor,)
        watch = LearningWatch(
            [each for batch in plan.batches for each in (batch, *anchors)], self.listener
        )
        learnt = Learnt([], [], 0.0)
        for batch in plan.batches:
            learnt.reports.append(self.accumulated(step, batch, watch))
            learnt.anchors.extend(self.accumulated(step, anchor, watch) for anchor in anchors)
            norm = max(learnt.grad_norm, self.policy.apply(rate))
            learnt = replace(learnt, grad_norm=norm)
            self.listener.advance()
        return learnt

    def accumulated(self, step: int, batch: LossBatch, watch: LearningWatch) -> BatchReport:
        """The report of a batch whose gradient is added to the adapter's.

        Raises:
            TrainingError: the loss is not finite.
        """
        with observed(self.policy, watch):
            report = self.policy.accumulate(batch)
        if not math.isfinite(report.loss):
            raise TrainingError(
                f"the loss of step {step} is {report.loss}",
                "lower optimizer.learning_rate, or try divergence.kind=jsd, which is bounded",
            )
        watch.batch_done()
        return report

    def measure(self) -> bool:
        """Make the measurements that are due at this step; True where it is the best so far."""
        state, train = self.state, self.config.train
        best = False
        if state.step % train.evaluate_every == 0 or state.step == train.steps:
            best = self.measurements.validate()
            if train.curve and not train.test_at_end:
                self.measurements.test("curve", state.step)
        state.measured = state.step
        return best

    @property
    def early_stop(self) -> bool:
        """True once `train.patience` validations in a row were no improvement."""
        patience = self.config.train.patience
        return patience is not None and self.state.validations_without_improvement >= patience

    def checkpoint(self) -> None:
        """Write the run's state to disk."""
        self.state.prefetched = self.prefetcher.state()
        self.clock.tick()
        path = self.run.write_checkpoint(self.state.step, self.policy.save, self.state.as_dict())
        self.run.mark_best(self.state.best_step)
        self.prune()
        self.listener.checkpoint(self.state.step, str(path))

    def prune(self) -> None:
        """Delete old checkpoints, without those that the test split is still measured at."""
        needed = {self.state.best_step, *self.tested_later}
        self.run.prune(self.config.train.keep_checkpoints, needed)

    @property
    def tested_later(self) -> tuple[int, ...]:
        """With `train.test_at_end`, the steps so far whose weights are measured at the end."""
        return tuple(s for s in tested_at_end(self.config.train) if s <= self.state.step)

    def finish(self, why: str) -> TrainResult:
        """Measure test and watch at the end and at the best checkpoint, and write the result."""
        state, measurements = self.state, self.measurements
        state.ledger += self.prefetcher.discard()
        measure_kept(self.tested_later, state.step, self.policy, self.run, measurements)
        steps = {"base": 0, "final": state.step, "best": state.best_step}
        for label, step in steps.items():
            if label == "best" and step not in (0, state.step):
                self.load_best()
            measurements.test(label, step)
            measurements.watch(label, step)
        self.clock.tick()
        shown = {label: steps[label] for label in ACCURACIES}
        result = TrainResult(
            run_dir=str(self.run.directory),
            method=self.config.method,
            backend=self.config.backend,
            steps=state.step,
            tokens=state.ledger,
            **{
                key: measurements.recorded(column, shown, split)
                for key, (column, split) in ESTIMATES.items()
            },
            best_step=state.best_step,
            seconds=state.seconds,
            cpu_seconds=state.cpu_seconds,
            training_cpu_seconds=state.training_cpu_seconds,
            stopped_because=why,
            remarks=tuple(
                remarks(
                    list(self.run.rows(run_directory.METRICS)),
                    list(self.run.rows(run_directory.EVALUATIONS)),
                )
            ),
        )
        self.run.write_result(result.as_dict())
        if self.tested_later:
            self.run.prune(self.config.train.keep_checkpoints, {state.best_step})
        return result

    def load_best(self) -> None:
        """Take the best checkpoint's weights."""
        path = whole_checkpoint(self.run.checkpoint_path(self.state.best_step))
        if grades(self.config.grading):
            self.policy.load_adapter(path)
        else:  # its teacher's average of the weights is measured too
            self.policy.restore(path)

    def interrupted(self) -> Interrupted:
        """The error for a user who stopped the run."""
        return stopped(self.run, self.state)


def train(
    policy: Policy,
    splits: Splits,
    run: Run,
    listener: Listener | None = None,
    stop: Stop = never,
) -> TrainResult:
    """Start or resume a run and return its result; a finished run returns its stored result.

    Args:
        policy: loaded trainable, from `run.config`.
        stop: polled after each finished rollout and between steps; once True, what is needed to go
            on is saved and `Interrupted` raised.

    Raises:
        ConfigError: fewer training problems than questions a step.
        PreflightFailed: the reference does not help the teacher.
        TrainingError: a loss or gradient that is not finite.
        Interrupted: `stop` returned True.
    """
    listener = listener or Listener()
    finished = finished_result(run)
    if finished is not None:
        return finished
    require_enough(run.config.train.questions_per_step, len(splits.train.problems))
    for note in run.notes:
        listener.warn(note)
    for note in splits.notes:
        listener.note(note)
    for warning in splits.warnings:
        listener.warn(warning)
    with open_grader(run.config.grading, listener.warn) as grader:
        return Trainer(policy, splits, run, listener, grader, stop).work()
