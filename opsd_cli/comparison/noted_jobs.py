"""The runs of a comparison with a note for each that has finished, and nothing that is redrawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from opsd_cli.comparison.jobs import Job, Progress
from opsd_cli.comparison.phases import RunJobs
from opsd_cli.comparison.supervisor import run_jobs
from opsd_cli.formatting import count, duration
from opsd_cli.tracking.listener import Messages


def noted_jobs(at_once: int, messages: Messages) -> RunJobs:
    """Runs jobs so many at once, with a note for each that has finished."""

    def run(directory: Path, jobs: Sequence[Job]) -> None:
        run_jobs(directory, jobs, at_once, noting_finished(messages), messages.warn)

    return run


def noting_finished(messages: Messages) -> Callable[[list[Progress]], None]:
    """A watcher of `run_jobs` that notes each run once, when it has finished."""
    done: set[str] = set()

    def note(progress: list[Progress]) -> None:
        for entry in progress:
            if entry.state == "done" and entry.job.name not in done:
                done.add(entry.job.name)
                split, accuracy, when = "test", entry.accuracy, "its last step"
                if entry.job.pause is not None:
                    split, accuracy, when = "validation", entry.validation, "the end of its round"
                if accuracy is not None:
                    messages.note(
                        f"{entry.job.name}: {split} accuracy {accuracy:.1%} at {when}, after "
                        f"{count(entry.generated)} generated tokens, {duration(entry.seconds)}"
                    )

    return note
