"""The one loop that every method and every backend shares.

    questions -> rollouts -> grades -> loss batch -> gradient -> step -> ledger, metrics, checkpoint

Nothing in a step depends on anything but the config, the step's number and the weights: questions
come from a permutation seeded per epoch, rollouts from seeds derived from (seed, step, problem,
sample). A run resumed from a checkpoint therefore repeats what it would have done, and on a CPU
ends with the same adapter, bit for bit.

The best checkpoint is chosen on validation problems alone. The test split is measured three times
(before, at the best checkpoint, at the end) and decides nothing.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from backends.interface import BatchReport, LossBatch, Policy
from opsd_cli import methods, runs
from opsd_cli.analysis import analyse
from opsd_cli.config import Optimizer
from opsd_cli.context import Contexts
from opsd_cli.drawing import Drawer, cost_of
from opsd_cli.errors import ConfigError, Interrupted, PreflightFailed, TrainingError
from opsd_cli.evaluation import Evaluation, evaluate, evaluation_sampling, evaluation_view
from opsd_cli.events import EvaluationRow, Listener, StepRow
from opsd_cli.grading import Grader
from opsd_cli.ledger import Ledger
from opsd_cli.monitors import divergence_of_completions, loss_monitors, rollout_monitors
from opsd_cli.problems import Problem, ProblemSet
from opsd_cli.problems.sources import Splits
from opsd_cli.runs import Run
from opsd_cli.seeds import derive_seed
from opsd_cli.statistics import Estimate

#: What is measured before the first step: the prompts of training, not those of evaluation.
PREFLIGHT = "preflight"


@dataclass(frozen=True)
class TrainResult:
    """What a finished run reports; accuracies are on the test split."""

    run_dir: str
    method: str
    backend: str
    steps: int
    tokens: Ledger
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


@dataclass
class _State:
    """Everything a checkpoint must carry besides the policy."""

    step: int = 0
    best_step: int = 0
    best_accuracy: float = -1.0
    misses: int = 0
    ledger: Ledger = field(default_factory=Ledger)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    training_cpu_seconds: float = 0.0
    ahead: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> _State:
        return cls(**{**state, "ledger": Ledger(**state["ledger"])})


def learning_rate(step: int, steps: int, optimizer: Optimizer) -> float:
    """The rate of a step, counted from 1: linear warm-up, then down to 0 after the last step."""
    warmup = optimizer.warmup_steps
    if step <= warmup:
        return optimizer.learning_rate * step / (warmup + 1)
    done = (step - 1 - warmup) / max(1, steps - warmup)
    fall = {
        "constant": 1.0,
        "linear": 1 - done,
        "cosine": 0.5 * (1 + math.cos(math.pi * done)),
    }[optimizer.schedule]
    return optimizer.learning_rate * fall


def questions_of_step(
    problems: Sequence[Problem], step: int, count: int, seed: int
) -> Iterator[Problem]:
    """The questions of a step: consecutive pieces of a fresh permutation each epoch."""
    orders: dict[int, np.ndarray] = {}
    for index in range((step - 1) * count, step * count):
        epoch, place = divmod(index, len(problems))
        if epoch not in orders:
            random = np.random.Generator(np.random.Philox(derive_seed(seed, "order", epoch)))
            orders[epoch] = random.permutation(len(problems))
        yield problems[orders[epoch][place]]


class Trainer:
    """One run, from preflight to result. Use `train`."""

    def __init__(
        self, policy: Policy, splits: Splits, run: Run, listener: Listener, grader: Grader
    ) -> None:
        self.config = run.config
        self.policy = policy
        self.splits = splits
        self.run = run
        self.listener = listener
        self.grader = grader
        self.contexts = Contexts(run.config, policy.tokenizer, policy.context_limit)
        self.measured = {
            prompt: Contexts(
                evaluation_view(run.config, prompt), policy.tokenizer, policy.context_limit
            )
            for prompt in {splits.validation.prompt, splits.test.prompt}
        }
        self.method = methods.get(run.config)
        self.drawer = Drawer(
            run.config, policy, self.method, self.contexts, splits.train.problems, grader, listener
        )
        self.state = _State()
        self._clock = time.perf_counter()
        self._cpu_clock = time.process_time()

    # -- time ----------------------------------------------------------------------------------

    def _tick(self) -> None:
        """Move the time since the last tick into the state."""
        now, cpu = time.perf_counter(), time.process_time()
        self.state.seconds += now - self._clock
        self.state.cpu_seconds += cpu - self._cpu_clock
        self._clock, self._cpu_clock = now, cpu

    # -- measuring -----------------------------------------------------------------------------

    def _evaluate(self, problems: ProblemSet, label: str, privileged: bool = False) -> Evaluation:
        samples = self.config.evaluation.samples
        self.listener.phase(label, len(problems.problems) * samples)
        result = evaluate(
            self.policy,
            label,
            problems.problems,
            self.contexts if problems.name == PREFLIGHT else self.measured[problems.prompt],
            evaluation_sampling(self.config),
            samples=samples,
            seed=self.config.seed,
            grader=self.grader,
            listener=self.listener,
            privileged=privileged,
        )
        self.state.ledger += Ledger(evaluation=result.generated)
        return result

    def _record(self, split: str, step: int, result: Evaluation, best: bool) -> EvaluationRow:
        problems = self.splits.test if split == "test" else self.splits.validation
        ledger, cpu_seconds = self._spent_by(step)
        row = EvaluationRow(
            step=step,
            split=split,
            accuracy=result.accuracy,
            truncated=result.truncated,
            no_answer=result.no_answer,
            mean_tokens=result.mean_tokens,
            generated=ledger.generated,
            best=best,
            ledger=ledger,
            training_cpu_seconds=cpu_seconds,
            problems=problems.digest(),
            correct=tuple(result.correct_PK.mean(axis=1).tolist()),
        )
        self.run.append(runs.EVALUATIONS, asdict(row))
        self.listener.evaluation(row)
        return row

    def _spent_by(self, step: int) -> tuple[Ledger, float]:
        """Tokens and CPU seconds spent by a step, which may be one long past."""
        if step != self.state.step:
            for row in self.run.rows(runs.EVALUATIONS):
                if row["step"] == step:
                    return Ledger(**row["ledger"]), row["training_cpu_seconds"]
        return self.state.ledger, self.state.training_cpu_seconds

    def _test(self, label: str, step: int) -> Estimate:
        """Accuracy on the test split with the weights as they are, or as recorded before."""
        for row in self.run.rows(runs.EVALUATIONS):
            if row["split"] == "test" and row["step"] == step:
                return Estimate(**row["accuracy"])
        result = self._evaluate(self.splits.test, f"test ({label})")
        return self._record("test", step, result, best=False).accuracy

    def preflight(self) -> None:
        """Check that the reference helps.

        Raises:
            PreflightFailed: the teacher is no better with the reference than the student without.
        """
        chosen = list(self.splits.train.problems[: self.config.preflight.problems])
        sample = ProblemSet(PREFLIGHT, tuple(chosen), self.splits.train.report)
        self.state.ledger += analyse(chosen, self.contexts, self.policy, self.config)
        warning = self.contexts.boundary_warning(chosen[0])
        if warning:
            self.listener.warn(f"{warning} (--set prompts.boundary=match aligns them)")
        student = self._evaluate(sample, "preflight: student").accuracy
        teacher = self._evaluate(sample, "preflight: teacher", privileged=True).accuracy
        self.listener.preflight(student, teacher, len(chosen))
        if teacher.value <= student.value:
            raise PreflightFailed(
                f"the reference does not help: {teacher.value:.0%} right with it, "
                f"{student.value:.0%} without, on {len(chosen)} problems; nothing to distil",
                "look at both prompts (opsd sample --show-prompts), or go on regardless with "
                "--set preflight.enabled=false",
            )

    def validate(self) -> bool:
        """Measure validation; True where this step is the best so far."""
        result = self._evaluate(self.splits.validation, "validation")
        accuracy = result.accuracy.value
        best = accuracy > self.state.best_accuracy
        if best:
            self.state.best_accuracy, self.state.best_step = accuracy, self.state.step
        self.state.misses = 0 if best else self.state.misses + 1
        self._record("validation", self.state.step, result, best)
        return best

    # -- learning ------------------------------------------------------------------------------

    def questions(self, step: int) -> list[Problem]:
        """The questions of a step."""
        train, seed = self.splits.train.problems, self.config.seed
        return list(questions_of_step(train, step, self.config.train.questions_per_step, seed))

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

    def learn(self, step: int) -> None:
        """One step: rollouts, gradient, update, accounts."""
        cpu_started = time.process_time()
        questions = self.questions(step)
        found = self.drawer.step(questions, step)
        graded, everything = found.graded, found.graded + found.replaced
        if self.config.rollouts.overlap and step < self.config.train.steps:
            self.drawer.ahead(self.questions(step + 1), step + 1)
        lesson = self.method.lesson(questions, graded, self.contexts, self.policy)
        reports, norm = self.update(step, lesson.batches)
        cost = cost_of([g.rollout for g in everything])
        self.state.ledger += (
            lesson.spent
            + found.spent
            + cost
            + Ledger(
                teacher_scored=sum(report.teacher_tokens for report in reports),
                trained=sum(report.trained_tokens for report in reports),
            )
        )
        monitors: dict[str, Any] = {**lesson.measures}
        if graded:
            monitors |= rollout_monitors(
                [g.rollout for g in graded],
                [g.text for g in graded],
                [g.problem.solution or "" for g in graded],
            )
        monitors |= loss_monitors(
            lesson.batches, reports, self.contexts.tokenizer, self.policy.stop_ids
        )
        monitors["references_shortened"] = self.contexts.shortened
        monitors |= found.measures
        self.state.step = step
        self.state.training_cpu_seconds += time.process_time() - cpu_started
        self._tick()
        row = StepRow(
            step=step,
            steps=self.config.train.steps,
            loss=float(np.mean([report.loss for report in reports])) if reports else 0.0,
            grad_norm=norm,
            learning_rate=learning_rate(step, self.config.train.steps, self.config.optimizer),
            reward=float(np.mean([g.correct for g in everything])) if everything else None,
            monitors=monitors,
            ledger=self.state.ledger,
            seconds=self.state.seconds,
            cpu_seconds=self.state.cpu_seconds,
            tokens_per_second=cost.generated / found.seconds
            if everything and found.seconds
            else None,
            memory_peak=self.policy.memory().peak,
        )
        flat = asdict(row)
        self.run.append(runs.METRICS, {**flat, **flat.pop("monitors")})
        divergence = divergence_of_completions(lesson.batches, reports)
        for g in everything:
            self.run.append(
                runs.ROLLOUTS,
                {
                    "step": step,
                    "problem_id": g.problem.id,
                    "sample_index": g.rollout.request.sample_index,
                    "completion": g.text,
                    "tokens": len(g.rollout.completion_ids),
                    "finish_reason": g.rollout.finish_reason,
                    "correct": g.correct,
                    "divergence": divergence.get(
                        (g.rollout.request.prompt_ids, g.rollout.completion_ids)
                    ),
                },
            )
        self.listener.step(row)

    # -- the whole -----------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Put the run on disk as it stands."""
        self.state.ahead = self.drawer.state()
        self._tick()
        path = self.run.write_checkpoint(self.state.step, self.policy.save, self.state.as_dict())
        self.run.mark_best(self.state.best_step)
        self.run.prune(self.config.train.keep_checkpoints, self.state.best_step)
        self.listener.checkpoint(self.state.step, str(path))

    def begin(self) -> None:
        """Preflight and the measurements at step 0, or the state of the newest checkpoint."""
        latest = self.run.latest()
        if latest is not None:
            self.policy.restore(latest)
            self.state = _State.from_dict(self.run.state())
            if self.state.ahead is not None:
                self.drawer.restore(self.state.ahead, self.questions(self.state.ahead["step"]))
            self.run.mark_best(self.state.best_step)
            self.listener.note(f"resumed at step {self.state.step}")
            return
        if self.config.preflight.enabled and self.method.needs_teacher:
            self.preflight()
        self._test("base", 0)
        self.validate()
        self.checkpoint()

    def loop(self, stop: Callable[[], bool]) -> str:
        """Steps until the last, a fall of validation accuracy, or `stop`; returns why it ended."""
        train = self.config.train
        while self.state.step < train.steps:
            if train.patience is not None and self.state.misses >= train.patience:
                return f"validation had not improved for {self.state.misses} evaluations"
            step = self.state.step + 1
            self.learn(step)
            last = step == train.steps
            due = step % train.evaluate_every == 0 or last
            best = self.validate() if due else False
            if due and train.curve:
                self._test("curve", step)
            stopping = stop() and not last
            if best or last or stopping or step % train.checkpoint_every == 0:
                self.checkpoint()
            if stopping:
                raise Interrupted(
                    f"stopped after step {step} of {train.steps}; everything so far is kept",
                    f"go on with: opsd train --resume --out {self.run.directory}",
                )
        return "all steps done"

    def finish(self, why: str) -> TrainResult:
        """Measure the test split at the end and at the best checkpoint, and write the result."""
        state = self.state
        state.ledger += self.drawer.discarded()
        accuracy = {"base": self._test("base", 0)}
        accuracy["final"] = self._test("final", state.step)
        best = self.run.checkpoint_path(state.best_step)
        if state.best_step not in (0, state.step):
            self.policy.load_adapter(best)
        accuracy["best"] = self._test("best", state.best_step)
        self._tick()
        result = TrainResult(
            run_dir=str(self.run.directory),
            method=self.method.name,
            backend=self.config.backend,
            steps=state.step,
            tokens=state.ledger,
            accuracy={name: accuracy[name] for name in ("base", "best", "final")},
            best_step=state.best_step,
            seconds=state.seconds,
            cpu_seconds=state.cpu_seconds,
            training_cpu_seconds=state.training_cpu_seconds,
            stopped_because=why,
        )
        runs.write_whole(
            Path(self.run.directory) / runs.RESULT, json.dumps(result.as_dict(), indent=1) + "\n"
        )
        return result


def train(
    policy: Policy,
    splits: Splits,
    run: Run,
    listener: Listener | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> TrainResult:
    """Run, or go on with, the run in `run`, and return its result.

    Args:
        policy: loaded trainable, from `run.config`.
        stop: polled after each step; once True, a checkpoint is written and `Interrupted` raised.

    Raises:
        ConfigError: fewer training problems than questions a step.
        PreflightFailed: the reference does not help the teacher.
        TrainingError: a loss or gradient that is not finite.
        Interrupted: `stop` said so.
    """
    need, have = run.config.train.questions_per_step, len(splits.train.problems)
    if need > have:
        raise ConfigError(
            f"train.questions_per_step is {need}, but there are only {have} training problems",
            f"set it to {have} or fewer, or bring more problems",
        )
    with Grader(deadline_seconds=run.config.grading.deadline_seconds) as grader:
        trainer = Trainer(policy, splits, run, listener or Listener(), grader)
        for note in splits.notes:
            trainer.listener.note(note)
        for warning in splits.warnings:
            trainer.listener.warn(warning)
        trainer.begin()
        return trainer.finish(trainer.loop(stop))
