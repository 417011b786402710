"""What a run measures of itself on validation, test and watch problems, each measured once.

That is the accuracy or, where nothing is graded, `opsd_cli.evaluation.held_out`.

A recorded measurement is never repeated: a run that was killed or stopped reads it from
`evaluations.jsonl`, with the tokens it took. An incomplete measurement has its samples in a file of
their own and continues from there. The accuracy called "base" is that of step 0: once its record is
lost, it cannot be measured again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from backends.interface import Policy, TeacherWeights
from opsd_cli.errors import RunError
from opsd_cli.evaluation.evaluate import evaluate, evaluation_sampling, evaluation_view
from opsd_cli.evaluation.held_out import HeldOut, measured
from opsd_cli.evaluation.reading import Reading
from opsd_cli.evaluation.samples import Evaluation, Sample
from opsd_cli.files.jsonl_log import Log
from opsd_cli.grading import Grader
from opsd_cli.interruption import Stop
from opsd_cli.problems import Problem, ProblemSet
from opsd_cli.problems.sources import Splits
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.prompts.rendering import Prompt
from opsd_cli.rollouts.teacher_analysis import TeacherAnalyst
from opsd_cli.rollouts.types import training_sampling
from opsd_cli.seeds import derive_seed
from opsd_cli.statistics import Estimate
from opsd_cli.token_ledger import TokenLedger
from opsd_cli.tracking.listener import EvaluationRow, Listener
from opsd_cli.training import run_directory
from opsd_cli.training.collapse_metrics import mean_hedge_rate
from opsd_cli.training.run_directory import Run
from opsd_cli.training.state import RunState, cpu_time


class Measurements:
    """The measurements of one run.

    Args:
        state: whose ledger is charged.
        stop: polled after each finished rollout.
    """

    def __init__(
        self,
        policy: Policy,
        splits: Splits,
        run: Run,
        state: RunState,
        grader: Grader,
        listener: Listener,
        stop: Stop,
    ) -> None:
        self._config = run.config
        self.policy = policy
        self._splits = splits
        self._run = run
        self._state = state
        self._grader = grader
        self._listener = listener
        self._stop = stop
        self._builders = {
            prompt: PromptBuilder(
                evaluation_view(run.config, prompt), policy.tokenizer, policy.context_limit
            )
            for prompt in {each.prompt for name, each in splits.named().items() if name != "train"}
        }
        self._analysts = {
            prompt: TeacherAnalyst(run.config, policy, builder, None, listener)
            for prompt, builder in self._builders.items()
        }

    def reading(self, label: str) -> Reading:
        """Reports and stops what reads text for a measurement of this name."""
        return Reading(label, self._listener, self._stop)

    # -- validation and test -------------------------------------------------------------------

    def validate(self) -> bool:
        """Measure validation; True where this step is the best so far."""
        state = self._state
        if state.validated == state.step:
            return state.best_step == state.step
        known = self.row_of("validation", state.step)
        if known is not None:
            selected = known.get("mean_score") or known["accuracy"]
            return state.evaluated(selected["value"] if selected else HeldOut.in_row(known).quality)
        result, held, seconds = self._timed(self._splits.validation, "validation")
        # Where the grader gives numbers, few samples may reach `grading.pass_at`.
        selected = result.mean_score or result.accuracy
        best = state.evaluated(held.quality if selected is None else selected.value)
        self._record("validation", state.step, result, held, best, seconds)
        return best

    def test(self, label: str, step: int, split: str = "test", kept: bool = False) -> None:
        """Measure the test split with the weights as they are, unless its record is there.

        Args:
            split: "test", or "watch" where the run has a watch set.
            kept: the weights are those of this step again, from its checkpoint.

        Raises:
            RunError: "base" is needed after the first step, and its record is lost.
        """
        if self.row_of(split, step) is not None:
            return
        if step == 0 and self._state.step > 0 and not kept:
            raise RunError(
                f"{self._run.directory} has lost the accuracy that was measured before the first "
                f"step ({run_directory.EVALUATIONS})",
                "bring the file back from a copy, or start again with another --out",
            )
        result, held, seconds = self._timed(self._splits.named()[split], f"{split} ({label})")
        self._record(split, step, result, held, False, seconds)

    def watch(self, label: str, step: int) -> None:
        """Measure the watch set, as `test`; nothing without one."""
        if self._splits.watch is not None:
            self.test(label, step, "watch")

    def recorded(self, key: str, steps: dict[str, int], split: str = "test") -> dict[str, Estimate]:
        """An estimate of several steps' records.

        Args:
            key: of the records, as "accuracy".
            steps: label -> the step of its measurement.

        Returns:
            label -> its estimate; empty where a record lacks it: it is of an earlier version, or
            the grader gives no such number.
        """
        found = {}
        for label, step in steps.items():
            row = self.row_of(split, step) or {}
            if row.get(key) is not None:
                found[label] = Estimate(**row[key])
        return found if found.keys() == steps.keys() else {}

    def row_of(self, split: str, step: int) -> dict[str, Any] | None:
        """The row of a measurement that has been made; None for another."""
        for row in self._run.rows(run_directory.EVALUATIONS):
            if row["split"] == split and row["step"] == step:
                return row
        return None

    def _timed(
        self, problems: ProblemSet, label: str
    ) -> tuple[Evaluation, HeldOut, tuple[float, float]]:
        wall, cpu = time.perf_counter(), cpu_time(self.policy)
        result = self.evaluate(problems, label, self._builders[problems.prompt].student)
        held = HeldOut() if result.graded else self._held_out(problems, label, result)
        self._state.ledger += TokenLedger(evaluation=result.all_tokens) + held.spent
        return result, held, (time.perf_counter() - wall, cpu_time(self.policy) - cpu)

    def _held_out(self, problems: ProblemSet, label: str, result: Evaluation) -> HeldOut:
        """Divergence from the teacher, and likelihood of the solutions, with the weights as now."""
        return measured(
            self.policy,
            problems.problems,
            result.samples,
            self._builders[problems.prompt],
            self._analysts[problems.prompt],
            self._config,
            self.reading(label),
        )

    def _record(
        self,
        split: str,
        step: int,
        result: Evaluation,
        held: HeldOut,
        best: bool,
        seconds: tuple[float, float],
    ) -> None:
        problems = self._splits.named()[split]
        ledger, training_cpu_seconds = self._spent_by(step)
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
            training_cpu_seconds=training_cpu_seconds,
            problems=problems.digest(),
            correct=tuple(result.correct_PK.mean(axis=1).tolist()) if result.graded else None,
            evaluation_tokens=result.all_tokens,
            seconds=seconds[0],
            cpu_seconds=seconds[1],
            flexible_accuracy=result.flexible_accuracy,
            mean_score=result.mean_score,
            scores=_problem_scores(result),
            hedges_per_100_words=mean_hedge_rate([each.completion for each in result.samples]),
            divergence=held.divergence,
            reference_log_prob=held.reference_log_prob,
            read=None if result.graded else held.spent,
        )
        self._run.append(run_directory.EVALUATIONS, row.as_dict())
        self.forget_samples()
        self._listener.evaluation(row)

    def _spent_by(self, step: int) -> tuple[TokenLedger, float]:
        """Tokens and CPU seconds spent by a step, which may be one long past."""
        if step != self._state.step:
            for row in self._run.rows(run_directory.EVALUATIONS):
                if row["step"] == step:
                    return TokenLedger(**row["ledger"]), row["training_cpu_seconds"]
        return self._state.ledger, self._state.training_cpu_seconds

    # -- sampling ------------------------------------------------------------------------------

    def evaluate(
        self,
        problems: ProblemSet,
        label: str,
        prompt_of: Callable[[Problem], Prompt],
        samples: int | None = None,
        as_in_training: bool = False,
        have: Sequence[Sample] = (),
        teacher: TeacherWeights | None = None,
    ) -> Evaluation:
        """Sample and grade, keeping each sample on disk until `forget_samples`.

        An interrupted measurement of this label continues after its last sample.

        Args:
            samples: completions a problem; by default `evaluation.samples`.
            as_in_training: sample as rollouts are, and with seeds of this label's own.
            have: samples of these problems and prompts, which are not sampled again.
            teacher: whose weights sample, as `opsd_cli.evaluation.evaluate.evaluate` has it.
        """
        config = self._config
        samples = samples or config.evaluation.samples
        whose = {"measuring": label, "step": self._state.step}
        log = Log(self._run.directory / run_directory.UNFINISHED)
        done = [Sample(**row["sample"]) for row in log.rows() if row["measuring"] == label]
        done = [replace(each, completion_ids=tuple(each.completion_ids)) for each in done]
        asked = {problem.id for problem in problems.problems}
        done += [each for each in have if each.problem_id in asked and each.sample_index < samples]
        self._listener.phase(label, len(problems.problems) * samples, len(done))
        return evaluate(
            self.policy,
            label,
            problems.problems,
            prompt_of,
            training_sampling(config) if as_in_training else evaluation_sampling(config),
            samples=samples,
            seed=derive_seed(config.seed, label) if as_in_training else config.seed,
            grader=self._grader,
            listener=self._listener,
            on_sample=lambda sample: log.append(sealed_row(whose | {"sample": _kept(sample)})),
            done=done,
            stop=self._stop,
            teacher=teacher,
        )

    def restore_samples(self) -> None:
        """Keep the samples of a measurement under way where the weights are the same again.

        They are those of the state's step. The samples of a step that is to be run again are
        dropped with it: on a GPU its weights need not come out the same to the last bit.
        """
        log = Log(self._run.directory / run_directory.UNFINISHED)
        try:
            rows = [row for row in log.rows() if sealed_row(row) == row]
        except RunError:
            rows = []
        if all(row["step"] == self._state.step for row in rows) and rows:
            log.keep(rows)
        else:
            self.forget_samples()

    def forget_samples(self) -> None:
        """Drop the samples of a measurement whose record is on disk."""
        (self._run.directory / run_directory.UNFINISHED).unlink(missing_ok=True)


def _problem_scores(result: Evaluation) -> tuple[float, ...] | None:
    """Each problem's mean score; None without numbers of a grader."""
    score_PK = result.score_PK
    return None if score_PK is None else tuple(score_PK.mean(axis=1).tolist())


def _kept(sample: Sample) -> dict[str, Any]:
    """What is kept of a sample until its measurement is complete."""
    # Where nothing is graded its tokens are still to be measured.
    tokens = {} if sample.correct is not None else {"completion_ids": list(sample.completion_ids)}
    return sample.as_dict() | tokens


def sealed_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row with a digest of its other values, in place of any that it has.

    An unfinished measurement's samples are used on resume although no checkpoint's manifest covers
    them. So each row carries its own digest; a row that does not match is sampled again.
    """
    rest = {key: value for key, value in row.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True)
    return rest | {"sha256": hashlib.sha256(text.encode()).hexdigest()}
