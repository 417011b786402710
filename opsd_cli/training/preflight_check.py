"""The preflight alone, without a run: `opsd train --preflight-only`.

It asks what a run's preflight would ask, with the same seeds, and so measures the same.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsd_cli import methods
from opsd_cli.config.schema import Config
from opsd_cli.errors import Interrupted, RunError, UsageError
from opsd_cli.evaluation.evaluate import evaluation_sampling
from opsd_cli.evaluation.samples import Evaluation
from opsd_cli.files.atomic_write import write_atomic
from opsd_cli.grading import open_grader
from opsd_cli.interruption import Stop, never
from opsd_cli.problems import Problem
from opsd_cli.problems.sources import Splits
from opsd_cli.prompts.builder import PromptBuilder
from opsd_cli.rollouts.teacher_analysis import TeacherAnalyst
from opsd_cli.tracking.listener import Listener
from opsd_cli.training import run_directory
from opsd_cli.training.measuring import Measurements
from opsd_cli.training.preflight import measured
from opsd_cli.training.preflight_comparison import Compared, Comparison
from opsd_cli.training.preflight_divergence import is_ungraded, verdict_of_divergence
from opsd_cli.training.preflight_failure import (
    described_pair,
    read_samples,
    telling_pair,
    write_samples,
)
from opsd_cli.training.preflight_grader import mostly_failed
from opsd_cli.training.preflight_references import no_reference
from opsd_cli.training.preflight_verdict import Outcome, Verdict, verdict_of
from opsd_cli.training.run_directory import PREFLIGHT_FILES, PREFLIGHT_SAMPLES, Run
from opsd_cli.training.state import RunState

if TYPE_CHECKING:
    from backends.interface import Policy

#: What the comparison of sources found, and its completions, in the directory of the result.
SOURCES_RECORD, SOURCES_SAMPLES = "preflight-sources.json", "preflight-sources-samples.jsonl"


@dataclass(frozen=True)
class PreflightResult:
    """What was measured, and what it means.

    Attributes:
        record: as in preflight.json.
        example: one completion of each role on the same problem, for people; may be empty.
        directory: where the record and every completion are; None if they were not kept.
        compared: the sources of a reference on the same problems, if they were compared.
    """

    record: dict[str, Any]
    verdict: Verdict
    example: str
    directory: Path | None
    compared: Compared | None = None

    def outcome(self, role: str) -> Outcome:
        """What became of a role's completions."""
        return Outcome.in_record(self.record, role)

    def as_dict(self) -> dict[str, Any]:
        """The object of `--json`."""
        verdict = self.verdict
        return {
            "preflight": self.record,
            "goes_on": verdict.goes_on,
            "cause": verdict.cause,
            "meaning": verdict.meaning,
            "advice": verdict.advice,
            "directory": None if self.directory is None else str(self.directory),
            **({} if self.compared is None else self.compared.as_dict()),
        }


def require_teacher(config: Config) -> None:
    """Raise `UsageError` for a method that has no teacher to measure."""
    if not methods.get(config).needs.teacher:
        raise UsageError(
            f"method {config.method} has no teacher, so there is no preflight",
            "leave out --preflight-only, or give --method opsd",
        )


@contextlib.contextmanager
def new_directory(directory: Path | None) -> Iterator[None]:
    """Make a directory for the result before minutes are spent; remove it if nothing was written.

    Raises:
        RunError: it holds something already, or cannot be made.
    """
    if directory is None:
        yield
        return
    run_directory.refuse_used(directory)
    made = not directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"cannot write to {directory}: {error.strerror}", "give another --out DIR"
        ) from error
    try:
        yield
    finally:
        if made:
            with contextlib.suppress(OSError):  # it is not empty
                directory.rmdir()


def check(
    policy: Policy,
    splits: Splits,
    config: Config,
    directory: Path | None = None,
    listener: Listener | None = None,
    stop: Stop = never,
    sources: Sequence[str] = (),
) -> PreflightResult:
    """Measure student and teacher on the first training problems.

    Args:
        policy: loaded from `config`.
        config: `preflight.problems` of them are asked, whether or not `preflight.enabled` is set.
        directory: an existing directory for the record and every completion.
        stop: polled after each finished rollout.
        sources: references that are compared afterwards (`opsd_cli.training.preflight_sources`).

    Raises:
        PreflightFailed: no problem has a sibling, or feedback, for the teacher to read.
        Interrupted: `stop` returned True; nothing is kept.
    """
    listener = listener or Listener()
    with (
        tempfile.TemporaryDirectory(prefix="opsd-preflight-") as temporary,
        Run.create(Path(temporary) / "run", config, {}) as run,
        open_grader(config.grading, listener.warn) as grader,
    ):
        builder = PromptBuilder(config, policy.tokenizer, policy.context_limit)
        analyst = TeacherAnalyst(config, policy, builder, None, listener)
        measurements = Measurements(policy, splits, run, RunState(), grader, listener, stop)
        try:
            completions: dict[str, Evaluation] = {}
            record = measured(
                run, splits.train, builder, analyst, measurements, listener, stop, completions
            )
            asked = splits.train.problems[: config.preflight.problems]
            comparison = Comparison(
                config, asked, builder, measurements, listener, stop, completions
            )
            comparable = not is_ungraded(record) and not mostly_failed(record)
            compared = comparison.of(sources) if sources and comparable else None
        except Interrupted as error:
            raise Interrupted("stopped within the preflight", "nothing was kept") from error
        rows = read_samples(run.directory / PREFLIGHT_SAMPLES)
        if directory is not None:
            _keep(run.directory, directory, asked, compared)
    if not record["problems"]:
        raise no_reference(record, directory)
    if is_ungraded(record):
        return PreflightResult(record, verdict_of_divergence(record), "", directory, None)
    verdict = verdict_of(record, config)
    pair = telling_pair(rows, verdict)
    limit = evaluation_sampling(config).max_new_tokens
    example = described_pair(*pair, limit) if pair is not None else ""
    return PreflightResult(record, verdict, example, directory, compared)


def _keep(run: Path, directory: Path, asked: Sequence[Problem], compared: Compared | None) -> None:
    """Copy what a run's directory has of the preflight, and write what was compared beside it."""
    for name in PREFLIGHT_FILES:
        shutil.copyfile(run / name, directory / name)
    if compared is not None:
        text = json.dumps(compared.as_dict(), indent=2)
        write_atomic(directory / SOURCES_RECORD, text + "\n")
        write_samples(directory / SOURCES_SAMPLES, asked, compared.completions)
