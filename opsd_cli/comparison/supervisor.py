"""Supervision of a comparison's training runs, each a child process that ends with this one.

Ctrl-C or SIGTERM asks every run to write a checkpoint and stop, and waits for that; a second one
kills the runs. If this process is killed, each run notices and stops
(`opsd_cli.processes.child_processes`). In every case a resumed comparison continues from the newest
checkpoints.
"""

from __future__ import annotations

import glob
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from opsd_cli.comparison.jobs import Job, Progress, progress_file, progress_of
from opsd_cli.config.resolve import to_yaml
from opsd_cli.errors import Interrupted, RunError, TrainingError
from opsd_cli.files.atomic_write import write_atomic
from opsd_cli.files.directory_lock import lock_directory
from opsd_cli.interruption import signals_handled
from opsd_cli.machine import available_cores
from opsd_cli.processes.child_processes import GRACE_SECONDS, OPSD, package_environment, tied
from opsd_cli.tracking.published import PROGRESS_FILE
from opsd_cli.training import run_directory
from opsd_cli.training.pausing import PAUSE_STEP


class PreflightOfRunFailed(TrainingError):
    """A run's preflight found that its teacher has nothing to teach.

    Attributes:
        run: the name of its directory.
        reason: what the run said.
    """

    def __init__(self, run: str, reason: str, hint: str) -> None:
        super().__init__(f"the run {run} failed: {reason}", hint)
        self.run, self.reason = run, reason


_NEW_COMPARISON = (
    "a comparison keeps the settings that it began with: give others to a new one, in another --out"
)
#: Time between two looks at the child processes.
POLL_SECONDS = 0.5
VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"


class StopRequests:
    """Requests to stop: the first asks the runs to save and stop, the second kills them."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self.at_once = False

    def ask(self) -> None:
        self.at_once = self._asked.is_set()
        self._asked.set()

    @property
    def asked(self) -> bool:
        return self._asked.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait for the first request, at most this long; True if there is one."""
        return self._asked.wait(seconds)


@contextmanager
def stop_on_signal() -> Iterator[StopRequests]:
    """Turn Ctrl-C and SIGTERM into requests; without effect outside the main thread."""
    stop = StopRequests()
    with signals_handled(lambda number, frame: stop.ask()):
        yield stop


def run_jobs(
    directory: Path,
    jobs: Sequence[Job],
    at_once: int,
    watch: Callable[[list[Progress]], None],
    note: Callable[[str], None] = lambda message: None,
) -> None:
    """Run every unfinished job, `at_once` of them concurrently.

    Args:
        directory: the comparison's; each run's directory is below it.
        watch: called about twice a second with the progress of every job.
        note: called with what is being waited for.

    Raises:
        RunError: another process has one of the runs open.
        TrainingError: a run failed (`PreflightOfRunFailed`: before its first step); the others save
            and stop.
        Interrupted: Ctrl-C or SIGTERM; every run keeps its newest checkpoint.
    """
    waiting = [job for job in jobs if not job.done(directory)]
    _refuse_busy(directory, waiting)
    running: dict[str, subprocess.Popen[bytes]] = {}
    preflights = {job.name: _failed_preflights(directory / job.name) for job in waiting}
    devices = device_names(jobs[0].config.backend, at_once) if jobs else []
    place: dict[str, int] = {}
    with stop_on_signal() as stop:
        try:
            while (waiting or running) and not stop.asked:
                while waiting and len(running) < at_once:
                    job = waiting.pop(0)
                    taken = {place[name] for name in running}
                    place[job.name] = next(n for n in range(at_once) if n not in taken)
                    device = devices[place[job.name] % len(devices)] if devices else None
                    running[job.name] = start(directory, job, at_once, device)
                stop.wait(POLL_SECONDS)
                for name, process in list(running.items()):
                    if process.poll() is not None and not stop.asked:
                        del running[name]
                        if process.returncode != 0:
                            raise _failed(directory / name, process.returncode, preflights[name])
                watch([progress_of(directory, job, job.name in running) for job in jobs])
        finally:
            _end(list(running.values()), stop, note)
        if stop.asked:
            raise stopped(directory)


def stopped(directory: Path) -> Interrupted:
    """The error of an interrupted comparison."""
    return Interrupted(
        "the comparison was stopped; every run keeps its newest checkpoint",
        f"go on with: opsd compare --resume --out {directory}",
    )


def _end(
    processes: Sequence[subprocess.Popen[bytes]], stop: StopRequests, note: Callable[[str], None]
) -> None:
    """Ask processes to stop, and wait for all of them; kill them on a second request."""
    left = [process for process in processes if process.poll() is None]
    for process in left:
        process.terminate()
    if left and stop.asked:
        note(f"waiting for {len(left)} to save and stop; press Ctrl-C again to stop at once")
    while left := [process for process in left if process.poll() is None]:
        if stop.at_once:
            for process in left:
                process.kill()
        try:
            left[0].wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            continue


def _refuse_busy(directory: Path, jobs: Sequence[Job]) -> None:
    """Raise `RunError` if a living process has one of the runs open."""
    for job in jobs:
        run = directory / job.name
        if (run / run_directory.LOCK).is_file():
            try:
                lock_directory(run).close()
            except RunError as error:
                raise RunError(
                    f"the run {job.name} is still at work: {error.message}",
                    f"if its comparison was killed it stops within {GRACE_SECONDS:.0f} seconds; "
                    "otherwise wait for it, or stop it first",
                ) from error


def device_names(backend: str, at_once: int) -> list[str]:
    """The GPUs that runs side by side are dealt to, as CUDA_VISIBLE_DEVICES names them.

    Empty where a run sees what this process sees: one run at a time, one device, or no GPU.
    """
    import backends

    if at_once == 1:
        return []
    found = backends.get(backends.choose(backend).name).capability()
    if found.on_cpu or found.devices < 2:
        return []
    visible = [name for name in os.environ.get(VISIBLE_DEVICES, "").split(",") if name.strip()]
    return visible or [str(number) for number in range(found.devices)]


def start(
    directory: Path, job: Job, at_once: int, device: str | None = None
) -> subprocess.Popen[bytes]:
    """Start or resume a run in a child process; its output goes to a log beside its directory.

    Args:
        device: the GPU that it sees; None for those of this process.
    """
    run = directory / job.name
    run.parent.mkdir(parents=True, exist_ok=True)
    command = [*OPSD, "train", "--quiet", "--out", str(run)]
    if (run / run_directory.CONFIG).is_file():
        command.append("--resume")
    else:
        config = run.with_name(f"{run.name}.yaml")
        write_atomic(config, to_yaml(job.config))
        command += ["--config", str(config)]
    environment = package_environment() | {PROGRESS_FILE: str(progress_file(run).resolve())}
    if job.pause is not None:
        environment[PAUSE_STEP] = str(job.pause)
    progress_file(run).unlink(missing_ok=True)  # what a killed run left
    if device is not None:
        environment[VISIBLE_DEVICES] = device
    if at_once > 1:
        # More threads than cores slow concurrent runs down.
        environment.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // at_once)))
    with run.with_name(f"{run.name}.log").open("wb") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # Ctrl-C reaches this process alone, which then asks each run to stop and save.
            start_new_session=True,
            **tied(environment),
        )


def ending(code: int) -> str:
    """An exit code in words, for a process that printed no error."""
    return f"it was ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _failed_preflights(run: Path) -> set[Path]:
    """The directories that a run's failed preflights have left (`Run.keep_failed_preflight`)."""
    return set(run.parent.glob(f"{glob.escape(run.name)}-failed-preflight*"))


def _failed(run: Path, code: int, preflights: set[Path]) -> TrainingError:
    """The error of a run that ended so.

    Args:
        preflights: the failed ones that were there before it started.
    """
    log = run.with_name(f"{run.name}.log")
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    said = next((line for line in lines if line.startswith("error: ")), ending(code))
    hint = next((line for line in lines if line.startswith("hint: ")), "")
    said, hint = said.removeprefix("error: "), hint.removeprefix("hint: ") or f"see {log}"
    if _failed_preflights(run) - preflights:
        return PreflightOfRunFailed(run.name, said, f"{hint}; {_NEW_COMPARISON}")
    return TrainingError(f"the run {run.name} failed: {said}", hint)
