"""What a run measures of itself: preflight, validation and test, each made once.

A measurement that has been recorded is never made again: a run that was killed or stopped finds it
in `evaluations.jsonl` (or `preflight.json`), with what it cost. One that was under way has its
samples in a file of their own, and goes on where it was. The accuracy called "base" is that of
step 0 alone: where its record is gone, it cannot be had any more.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict
from typing import Any

from backends.interface import Policy
from opsd_cli.errors import PreflightFailed, RunError
from opsd_cli.evaluation.evaluate import (
    Evaluation,
    Sample,
    evaluate,
    evaluation_sampling,
    evaluation_view,
)
from opsd_cli.files.jsonl_log import Log
from opsd_cli.grading import Grader
from opsd_cli.problems import ProblemSet
from opsd_cli.problems.sources import Splits
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.rollouts.teacher_analysis import analyse
from opsd_cli.statistics import Estimate
from opsd_cli.stopping import Stop
from opsd_cli.token_ledger import TokenLedger
from opsd_cli.tracking.listener import EvaluationRow, Listener
from opsd_cli.training import run_directory
from opsd_cli.training.run_directory import Run
from opsd_cli.training.state import RunState

#: Share of completions cut off from which on that is named as the likely cause of a failure.
MOSTLY = 0.5


class Measurements:
    """The measurements of one run.

    Args:
        contexts: the prompts of training, which the preflight uses.
        state: whose ledger is charged.
        stop: polled after each finished rollout.
    """

    def __init__(
        self,
        policy: Policy,
        splits: Splits,
        run: Run,
        state: RunState,
        contexts: PromptBuilder,
        grader: Grader,
        listener: Listener,
        stop: Stop,
    ) -> None:
        self._config = run.config
        self._policy = policy
        self._splits = splits
        self._run = run
        self._state = state
        self._training = contexts
        self._grader = grader
        self._listener = listener
        self._stop = stop
        self._contexts = {
            prompt: PromptBuilder(
                evaluation_view(run.config, prompt), policy.tokenizer, policy.context_limit
            )
            for prompt in {splits.validation.prompt, splits.test.prompt}
        }

    # -- preflight -----------------------------------------------------------------------------

    def preflight(self) -> None:
        """Check, before the first step, that the reference helps.

        Raises:
            PreflightFailed: the teacher is no better with the reference than the student without.
            Interrupted: the user stopped it.
        """
        chosen = self._splits.train.problems[: self._config.preflight.problems]
        known = self._run.sealed(run_directory.PREFLIGHT)
        if known is not None:
            self._state.ledger += TokenLedger(**known["spent"])
            student, teacher = Estimate(**known["student"]), Estimate(**known["teacher"])
            truncated = known["truncated"]["teacher"]
        else:
            spent = analyse(chosen, self._training, self._policy, self._config, stop=self._stop)
            warning = self._training.boundary_warning(chosen[0])
            if warning:
                self._listener.warn(f"{warning} (--set prompts.boundary=match aligns them)")
            sample = ProblemSet(run_directory.PREFLIGHT, chosen, self._splits.train.report)
            found = [
                self._evaluate(sample, f"preflight: {role}", self._training, role == "teacher")
                for role in ("student", "teacher")
            ]
            spent += TokenLedger(evaluation=sum(_tokens(each) for each in found))
            student, teacher = (each.accuracy for each in found)
            truncated = found[1].truncated
            self.keep_analyses()
            record = {
                "student": student.as_dict(),
                "teacher": teacher.as_dict(),
                "truncated": {"student": found[0].truncated, "teacher": truncated},
                "no_answer": {"student": found[0].no_answer, "teacher": found[1].no_answer},
                "problems": len(chosen),
                "spent": spent.as_dict(),
            }
            self._run.write_sealed(run_directory.PREFLIGHT, record)
            self._forget_samples()
            self._state.ledger += spent
        self._listener.preflight(student, teacher, len(chosen))
        if teacher.value <= student.value:
            raise self._nothing_to_distil(student.value, teacher.value, len(chosen), truncated)

    def _nothing_to_distil(
        self, student: float, teacher: float, problems: int, truncated: float
    ) -> PreflightFailed:
        """Why the preflight failed, as far as its samples tell."""
        sampling = evaluation_sampling(self._config)
        regardless = "or begin a new run regardless with --set preflight.enabled=false"
        cut = (
            f" ({truncated:.0%} of the teacher's answers were cut off at "
            f"{sampling.max_new_tokens} tokens)"
        )
        return PreflightFailed(
            f"the reference does not help: {teacher:.0%} right with it, {student:.0%} without, on "
            f"{problems} problems; nothing to distil{cut if truncated >= MOSTLY else ''}",
            f"give answers more room (sampling.max_new_tokens), {regardless}"
            if truncated >= MOSTLY
            else f"look at both prompts (opsd sample --show-prompts), {regardless}",
        )

    # -- reason first --------------------------------------------------------------------------

    def keep_analyses(self) -> None:
        """Write down the analyses that the teacher wrote since the last call.

        Those of a teacher that learns hold for one step alone, and are not kept.
        """
        rows = [
            {"step": self._state.step, "set": key[0], "problem_id": key[1], "analysis": text}
            for key, text in self._training.new_analyses()
        ]
        if rows and self._config.teacher.weights == "initial":
            self._run.append(run_directory.ANALYSES, *rows)

    def restore_analyses(self) -> None:
        """Read them back: they are paid for, and under initial weights they do not change."""
        known = {problem.key: problem for problem in self._splits.train.problems}
        for row in self._run.rows(run_directory.ANALYSES):
            problem = known.get((row["set"], row["problem_id"]))
            if problem is not None:
                self._training.take_analysis(problem, row["analysis"])
        self._training.new_analyses()

    # -- validation and test -------------------------------------------------------------------

    def validate(self) -> bool:
        """Measure validation; True where this step is the best so far."""
        state = self._state
        if state.validated == state.step:
            return state.best_step == state.step
        known = self._recorded("validation", state.step)
        if known is not None:
            return state.evaluated(known["accuracy"]["value"])
        result, seconds = self._timed(self._splits.validation, "validation")
        best = state.evaluated(result.accuracy.value)
        self._record("validation", state.step, result, best, seconds)
        return best

    def test(self, label: str, step: int) -> Estimate:
        """Accuracy on the test split with the weights as they are, or as recorded before.

        Raises:
            RunError: "base" is asked for after the first step, and its record is gone.
        """
        known = self._recorded("test", step)
        if known is not None:
            return Estimate(**known["accuracy"])
        if step == 0 and self._state.step > 0:
            raise RunError(
                f"{self._run.directory} has lost the accuracy that was measured before the first "
                f"step ({run_directory.EVALUATIONS})",
                "bring the file back from a copy, or start again with another --out",
            )
        result, seconds = self._timed(self._splits.test, f"test ({label})")
        return self._record("test", step, result, False, seconds).accuracy

    def _recorded(self, split: str, step: int) -> dict[str, Any] | None:
        for row in self._run.rows(run_directory.EVALUATIONS):
            if row["split"] == split and row["step"] == step:
                return row
        return None

    def _timed(self, problems: ProblemSet, label: str) -> tuple[Evaluation, tuple[float, float]]:
        wall, cpu = time.perf_counter(), time.process_time()
        result = self._evaluate(problems, label, self._contexts[problems.prompt])
        self._state.ledger += TokenLedger(evaluation=_tokens(result))
        return result, (time.perf_counter() - wall, time.process_time() - cpu)

    def _record(
        self, split: str, step: int, result: Evaluation, best: bool, seconds: tuple[float, float]
    ) -> EvaluationRow:
        problems = self._splits.test if split == "test" else self._splits.validation
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
            correct=tuple(result.correct_PK.mean(axis=1).tolist()),
            evaluation_tokens=_tokens(result),
            seconds=seconds[0],
            cpu_seconds=seconds[1],
        )
        self._run.append(run_directory.EVALUATIONS, asdict(row))
        self._forget_samples()
        self._listener.evaluation(row)
        return row

    def _spent_by(self, step: int) -> tuple[TokenLedger, float]:
        """Tokens and CPU seconds spent by a step, which may be one long past."""
        if step != self._state.step:
            for row in self._run.rows(run_directory.EVALUATIONS):
                if row["step"] == step:
                    return TokenLedger(**row["ledger"]), row["training_cpu_seconds"]
        return self._state.ledger, self._state.training_cpu_seconds

    # -- drawing -------------------------------------------------------------------------------

    def _evaluate(
        self, problems: ProblemSet, label: str, contexts: PromptBuilder, privileged: bool = False
    ) -> Evaluation:
        """Draw and grade, keeping each sample until the measurement has been recorded."""
        samples = self._config.evaluation.samples
        whose = {"measuring": label, "step": self._state.step}
        log = Log(self._run.directory / run_directory.UNFINISHED)
        done = [Sample(**row["sample"]) for row in log.rows() if row["measuring"] == label]
        self._listener.phase(label, len(problems.problems) * samples, len(done))
        return evaluate(
            self._policy,
            label,
            problems.problems,
            contexts,
            evaluation_sampling(self._config),
            samples=samples,
            seed=self._config.seed,
            grader=self._grader,
            listener=self._listener,
            privileged=privileged,
            on_sample=lambda sample: log.append(sealed_row(whose | {"sample": sample.as_dict()})),
            done=done,
            stop=self._stop,
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
            self._forget_samples()

    def _forget_samples(self) -> None:
        (self._run.directory / run_directory.UNFINISHED).unlink(missing_ok=True)


def sealed_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row with a digest of its other values, in place of any that it has.

    Samples of a measurement under way are counted on before any checkpoint knows of them, so each
    has to tell by itself whether it is what was written; one that is not is drawn again.
    """
    rest = {key: value for key, value in row.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True)
    return rest | {"sha256": hashlib.sha256(text.encode()).hexdigest()}


def _tokens(result: Evaluation) -> int:
    """All that its samples took, whichever process drew them."""
    return sum(sample.tokens for sample in result.samples)
