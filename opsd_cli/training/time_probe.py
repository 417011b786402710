"""An estimate of a run's time from a short step on the real model, for `--dry-run --probe`.

A few completions are decoded at two lengths, which separates the prompts' time from a token's, and
in two numbers, which shows how time grows with the rows of a batch: in proportion on a CPU, hardly
on a GPU. Then one step is trained on a few. Both are scaled to the run's shapes: completions of
maximum length, all questions of a step, and full batches. So the estimate is an upper one where
completions end early, and rough within a factor of about two.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from backends import traits_of
from backends.interface import RolloutRequest, Sampling
from opsd_cli.config.schema import Config
from opsd_cli.evaluation.evaluate import evaluation_sampling
from opsd_cli.grading import open_grader
from opsd_cli.interruption import never
from opsd_cli.methods.base import StepInputs
from opsd_cli.planning.token_plan import TokenPlan
from opsd_cli.problems import Problem
from opsd_cli.problems.sources import Splits
from opsd_cli.rollouts.types import StepRollouts, training_sampling
from opsd_cli.tracking.listener import Listener
from opsd_cli.training.run_directory import Run
from opsd_cli.training.trainer import Trainer

if TYPE_CHECKING:
    from backends.interface import Policy

#: Completions of the probe at once, in either number, and their two lengths in tokens at most.
ROWS, FEW, SHORT, LONG = 8, 2, 4, 32
#: Seconds that the longer completions may take, and that the whole step may take after one
#: question's, about. Past them less is measured, and the estimate is rougher.
MOST_SECONDS = 20.0


@dataclass(frozen=True)
class TimeEstimate:
    """Seconds of a run, about, if every completion has its maximum length.

    Attributes:
        rollouts, gradient: of one step.
        evaluation_rollout: of one completion of an evaluation.
        steps: of the run.
        before, evaluations: completions of evaluations before the first step, and of the whole
            run, the former included.
        rows, tokens: what was decoded for the estimate.
        cpu_share: seconds of this process on a CPU for each second of the measurement; None where
            a device computes, or other processes.
    """

    rollouts: float
    gradient: float
    evaluation_rollout: float
    steps: int
    before: int
    evaluations: int
    rows: int
    tokens: int
    cpu_share: float | None = None

    @property
    def step(self) -> float:
        """Seconds of one step."""
        return self.rollouts + self.gradient

    @property
    def before_step_1(self) -> float:
        """Seconds of preflight and of both evaluations before training."""
        return self.before * self.evaluation_rollout

    @property
    def all_evaluations(self) -> float:
        """Seconds of all evaluations, those before training included."""
        return self.evaluations * self.evaluation_rollout

    @property
    def run(self) -> float:
        """Seconds of the whole run, without early stopping."""
        return self.steps * self.step + self.all_evaluations

    def as_dict(self) -> dict[str, Any]:
        """As `--dry-run --probe --json` has it."""
        return {
            "measured_with": {
                "rows": self.rows,
                "tokens": self.tokens,
                "cpu_share": self.cpu_share,
            },
            "step": {"rollouts": self.rollouts, "gradient": self.gradient, "all": self.step},
            "before_step_1": self.before_step_1,
            "evaluations": self.all_evaluations,
            "run": self.run,
        }


def estimate_time(policy: Policy, config: Config, splits: Splits, plan: TokenPlan) -> TimeEstimate:
    """Measure a short step with a policy, whose weights change, and scale it to the run.

    Args:
        policy: loaded trainable.
        plan: of this config and these problems.
    """
    small = _scaled_down(config, len(splits.train.problems))
    began, on_cpu = time.perf_counter(), time.process_time()
    with (
        tempfile.TemporaryDirectory() as folder,
        open_grader(small.grading) as grader,
        Run.create(Path(folder) / "run", small, {}) as run,
    ):
        trainer = Trainer(policy, splits, run, Listener(), grader, never)
        decoding = Decoding.measured(trainer, training_sampling(small))
        gradient = _gradient(trainer, config)
    share = (time.process_time() - on_cpu) / max(1e-9, time.perf_counter() - began)
    steps = max(1, config.train.steps)
    sampled = plan.most.rollouts / steps
    batch = config.rollouts.batch_size
    longest = evaluation_sampling(config).max_new_tokens
    return TimeEstimate(
        rollouts=decoding.seconds(sampled, config.sampling.max_new_tokens, batch),
        gradient=gradient,
        evaluation_rollout=decoding.seconds(batch, longest, batch) / batch,
        steps=config.train.steps,
        before=plan.first.most,
        evaluations=plan.evaluation_rollouts,
        rows=ROWS,
        tokens=small.sampling.max_new_tokens,
        cpu_share=share if traits_of(config.backend).on_cpu else None,
    )


def _scaled_down(config: Config, problems: int) -> Config:
    """The config with a short step and without evaluations."""
    questions = min(ROWS, config.train.questions_per_step, problems)
    tokens = min(LONG, config.sampling.max_new_tokens)
    changes: Mapping[str, Mapping[str, Any]] = {
        "train": {
            "questions_per_step": questions,
            "steps": 1,
            "learn_from": "all",
            "weigh_groups": "none",
        },
        "sampling": {"max_new_tokens": tokens},
        "teacher": {"analysis_tokens": min(LONG, config.teacher.analysis_tokens)},
        "grpo": {"zero_variance": "keep"},
        "preflight": {"enabled": False},
        "rollouts": {"overlap": False},
    }
    sections = {
        name: getattr(config, name).model_copy(update=dict(values))
        for name, values in changes.items()
    }
    return config.model_copy(update=sections)


@dataclass(frozen=True)
class Decoding:
    """Seconds of one batch of `ROWS` completions, and how they change with the rows.

    Attributes:
        prompts: of the prompts.
        token: of each token of the longest completion.
        few: share of these that a batch of `FEW` rows takes.
    """

    prompts: float
    token: float
    few: float

    @classmethod
    def measured(cls, trainer: Trainer, sampling: Sampling) -> Decoding:
        """Decode with the trainer's policy and prompts, for completions of this sampling."""
        problems = trainer.splits.train.problems
        requests = [
            RolloutRequest(problem.id, number, trainer.builder.student(problem).ids, number)
            for number, problem in zip(range(ROWS), cycle(problems), strict=False)
        ]

        def timed(rows: int, tokens: int) -> tuple[float, int]:
            shorter = replace(sampling, max_new_tokens=min(tokens, sampling.max_new_tokens))
            started = time.perf_counter()
            drawn = list(trainer.policy.generate(requests[:rows], shorter))
            seconds = time.perf_counter() - started
            return seconds, max(1, *(len(rollout.completion_ids) for rollout in drawn))

        timed(ROWS, SHORT)  # compiles, and fills the caches
        short, short_tokens = timed(ROWS, SHORT)
        most = affordable_tokens(short)
        long, long_tokens = timed(ROWS, most)
        few, few_tokens = timed(FEW, most)
        token = (long - short) / max(1, long_tokens - short_tokens)
        if not 0 < token * long_tokens < long:  # too short to be told apart
            token = long / long_tokens
        few *= long_tokens / few_tokens
        return cls(long - token * long_tokens, token, min(1.0, few / long))

    def seconds(self, completions: float, tokens: int, batch: int) -> float:
        """Seconds to decode so many completions of so many tokens, at most `batch` at a time."""
        rows = min(batch, completions)
        if rows <= 0:
            return 0.0
        growth = self.few + (1 - self.few) * (rows - FEW) / (ROWS - FEW)
        one = (self.prompts + self.token * tokens) * max(growth, self.few / FEW)
        return one * completions / rows


def affordable_tokens(short: float) -> int:
    """Tokens of the longer completions, if those of `SHORT` tokens took `short` seconds."""
    return max(2 * SHORT, min(LONG, int(SHORT * MOST_SECONDS / max(short, 1e-9))))


def affordable_questions(one: float, questions: int) -> int:
    """Questions of the measured step, if a step on one took `one` seconds."""
    return max(1, min(questions, int(MOST_SECONDS / max(one, 1e-9))))


def _gradient(trainer: Trainer, config: Config) -> float:
    """Seconds of a full step after its rollouts: the teacher's work, the loss and the update."""
    questions = trainer.order.of_step(1)

    def timed(some: Sequence[Problem]) -> tuple[float, StepRollouts]:
        rollouts = trainer.comparison.compare(trainer.collector.collect(some, 1))
        started = time.perf_counter()
        inputs = StepInputs(1, some, rollouts.graded, trainer.builder, trainer.analyst)
        loss = trainer.method.build_loss(inputs, trainer.policy)
        trainer.update(1, loss, config.optimizer.learning_rate)
        return time.perf_counter() - started, rollouts

    first, _ = timed(questions[:1])  # compiles, and fills the caches
    questions = questions[: affordable_questions(first, len(questions))]
    seconds, rollouts = timed(questions)
    seconds *= config.train.questions_per_step / len(questions)
    if not rollouts.graded:
        return seconds
    # Time follows the tokens: prompts of both roles, and the completion under each.
    builder = trainer.builder
    prompts = [float(len(builder.student(p).ids)) for p in questions]
    read = trainer.analyst.take_taught().values()
    prompts += [float(len(taught.prompt.ids)) for taught in read if taught is not None]
    there = mean(len(g.rollout.completion_ids) for g in rollouts.graded)
    prompt = mean(prompts)
    return seconds * (prompt + config.sampling.max_new_tokens) / (prompt + there)
