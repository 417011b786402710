"""A comparison that is stopped or killed: its runs save a checkpoint, end, and can be resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from backends import Choice
from backends.interface import Capability
from opsd_cli.comparison import supervisor
from opsd_cli.comparison.jobs import comparison_jobs
from opsd_cli.config.resolve import resolve
from opsd_cli.errors import Interrupted, RunError, TrainingError
from opsd_cli.files.directory_lock import lock_directory
from opsd_cli.processes.child_processes import tied
from tests.support.killable_commands import COMMANDS, ROOT, Kill, problems, run_killable
from tests.support.killable_run import KILL
from tests.support.processes import gone, left_in

#: Runs that are far too long to end.
ENDLESS = f"{COMMANDS['compare']} --set train.steps=100000 --set train.evaluate_every=100000"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("at_once", [1, 2])
def test_supervisor_runs_write_a_checkpoint_and_end_with_their_comparison(
    tmp_path: Path, number: signal.Signals, at_once: int
) -> None:
    (tmp_path / "sums.jsonl").write_text(problems())
    kill = Kill("train:opsd-s0", 150, number, "parent")
    done = run_killable(tmp_path, f"{ENDLESS} --jobs {at_once} --out c", kill)
    assert left_in(tmp_path) == []
    if number == signal.SIGKILL:
        assert done.returncode == -number
    else:
        assert done.returncode == 130
        assert done.stderr.count("error: ") == 1 and "--resume --out c" in done.stderr
    run = tmp_path / "c" / "opsd-s0"
    steps = [path.name for path in (run / "checkpoints").glob("step-*")]
    assert max(steps) > "step-000000", steps  # the current step was finished and saved
    assert "stopped after step" in run.with_name("opsd-s0.log").read_text()
    lock_directory(run).close()  # not locked any more


def job(tmp_path: Path) -> supervisor.Job:
    (made,) = comparison_jobs({"opsd": resolve(None, [], {})}, [0])
    (tmp_path / made.name).mkdir()
    return made


def test_supervisor_kills_runs_at_a_second_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True)\n"
    started: list[subprocess.Popen[bytes]] = []

    def start(*_: object) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", deaf + "input()"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout and process.stdout.readline()
        started.append(process)
        return process

    def ask_again(message: str) -> None:
        assert "waiting for 1 to save" in message
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(supervisor, "start", start)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted):
        supervisor.run_jobs(
            tmp_path, [job(tmp_path)], 1, lambda _: os.kill(os.getpid(), signal.SIGTERM), ask_again
        )
    (process,) = started
    assert process.returncode == -signal.SIGKILL  # and waited for, so no zombie is left
    assert signal.getsignal(signal.SIGTERM) is before
    for pipe in (process.stdin, process.stdout):
        assert pipe
        pipe.close()


def test_supervisor_names_the_signal_that_killed_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = job(tmp_path)
    (tmp_path / f"{made.name}.log").touch()
    command = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    monkeypatch.setattr(supervisor, "start", lambda *_: subprocess.Popen(command))
    with pytest.raises(TrainingError, match="opsd-s0 failed: it was ended by SIGKILL"):
        supervisor.run_jobs(tmp_path, [made], 1, lambda _: None)


@pytest.mark.parametrize("new", [True, False])
def test_supervisor_tells_a_failed_preflight_from_other_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new: bool
) -> None:
    made = job(tmp_path)
    kept = tmp_path / f"{made.name}-failed-preflight"
    if not new:  # of an earlier attempt: what ends the run now is something else
        kept.mkdir()

    def start(*_: object) -> subprocess.Popen[bytes]:
        kept.mkdir(exist_ok=True)
        said = "error: nothing to distil\nhint: another reference\n"
        (tmp_path / f"{made.name}.log").write_text(said)
        return subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])

    monkeypatch.setattr(supervisor, "start", start)
    with pytest.raises(TrainingError, match="opsd-s0 failed: nothing to distil") as failed:
        supervisor.run_jobs(tmp_path, [made], 1, lambda _: None)
    assert failed.value.hint is not None and failed.value.hint.startswith("another reference")
    assert ("a new one, in another --out" in failed.value.hint) is new
    assert isinstance(failed.value, supervisor.PreflightOfRunFailed) is new


def test_supervisor_names_a_locked_run_before_it_starts_any(tmp_path: Path) -> None:
    made = job(tmp_path)
    holder = lock_directory(tmp_path / made.name)
    try:
        with pytest.raises(RunError) as refused:
            supervisor.run_jobs(tmp_path, [made], 1, lambda _: None)
    finally:
        holder.close()
    with (
        pytest.raises(RunError) as said,
        lock_directory(tmp_path),
        lock_directory(tmp_path),
    ):
        pass
    told = said.value.message.replace(str(tmp_path), str(tmp_path / made.name))
    assert refused.value.message == f"the run {made.name} is still at work: {told}"
    assert "stops within 60 seconds" in refused.value.hint
    assert not (tmp_path / f"{made.name}.log").exists()


def test_supervisor_lock_refuses_a_second_resume_of_a_comparison(tmp_path: Path) -> None:
    (tmp_path / "sums.jsonl").write_text(problems())
    kill = Kill("train:opsd-s0", 10, signal.SIGKILL, "parent")
    stopped = run_killable(tmp_path, f"{COMMANDS['compare']} --out c", kill)
    assert stopped.returncode == -9 and left_in(tmp_path) == []
    with lock_directory(tmp_path / "c"):
        second = run_killable(tmp_path, "compare --resume --out c")
    assert second.returncode == 2 and "is using c" in second.stderr


def test_supervisor_runs_beside_a_foreign_backends_package(tmp_path: Path) -> None:
    (tmp_path / "sums.jsonl").write_text(problems())
    (tmp_path / "backends").mkdir()
    (tmp_path / "backends" / "__init__.py").write_text("raise ImportError('not of opsd')\n")
    done = run_killable(tmp_path, f"{COMMANDS['compare']} --out c")
    assert done.returncode == 0, done.stderr
    assert "no samples" not in done.stderr


def test_supervisor_resume_draws_missing_samples(tmp_path: Path) -> None:
    (tmp_path / "sums.jsonl").write_text(problems())
    kill = Kill("sample:grpo-s0", 1, signal.SIGKILL)
    first = run_killable(tmp_path, f"{COMMANDS['compare']} --out c", kill)
    assert first.returncode == 0 and "no samples of grpo for the page" in first.stderr
    assert "ended by SIGKILL" in first.stderr
    second = run_killable(tmp_path, "compare --resume --out c")
    assert second.returncode == 0 and "no samples" not in second.stderr
    drawn = json.loads((tmp_path / "c" / "samples.json").read_text())
    assert set(drawn) == {"opsd", "grpo"}


def test_run_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """Started by a script with `child_processes.tied`."""
    (tmp_path / "sums.jsonl").write_text(problems())
    words = ENDLESS.replace("compare", "train").replace("--methods opsd,grpo --seeds 1", "")
    script = (
        "import os, subprocess, sys\nfrom opsd_cli.processes.child_processes import *\n"
        "command = [sys.executable, '-P', '-m', 'tests.support.killable_run', *sys.argv[1:]]\n"
        "process = subprocess.Popen(\n"
        "    command, stdout=subprocess.DEVNULL, **tied(package_environment())\n)\n"
        "print(process.pid, flush=True)\nprocess.wait()\n"
    )
    kill = Kill("train:run", 150, signal.SIGKILL, "parent")
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, *words.split(), "--out", "run"],
        cwd=tmp_path,
        **tied(os.environ | {"PYTHONPATH": str(ROOT), KILL: kill.as_json()}),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert done.returncode == -9
    assert gone(int(done.stdout)) and left_in(tmp_path) == []
    lock_directory(tmp_path / "run").close()


class Stub:
    """A backend that says how many devices it has."""

    def __init__(self, devices: int, on_cpu: bool) -> None:
        self._found = Capability(True, "", devices=devices, on_cpu=on_cpu)

    def capability(self) -> Capability:
        return self._found


@pytest.mark.parametrize(
    ("backend", "at_once", "visible", "names"),
    [
        (Stub(4, False), 2, None, ["0", "1", "2", "3"]),
        (Stub(2, False), 8, "5,7", ["5", "7"]),
        (Stub(4, False), 1, None, []),
        (Stub(1, False), 4, None, []),
        (Stub(1, True), 4, None, []),
    ],
)
def test_supervisor_deals_runs_over_gpus(
    monkeypatch: pytest.MonkeyPatch,
    backend: Stub,
    at_once: int,
    visible: str | None,
    names: list[str],
) -> None:
    monkeypatch.setattr("backends.choose", lambda name: Choice(name, ""))
    monkeypatch.setattr("backends.get", lambda name: backend)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert supervisor.device_names("stub", at_once) == names


def test_supervisor_gives_a_free_gpu_to_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three runs on two GPUs: the third gets the one whose run ended first."""
    made = job(tmp_path)
    jobs = [replace(made, name=name) for name in ("a", "b", "c")]
    given: list[tuple[str, str | None]] = []
    seconds = {"a": "30", "b": "0", "c": "0"}

    def start(_: Path, each: supervisor.Job, __: int, device: str | None) -> object:
        given.append((each.name, device))
        if each.name == "c":
            raise Interrupted("seen enough")
        return subprocess.Popen(["sleep", seconds[each.name]])

    monkeypatch.setattr(supervisor, "start", start)
    monkeypatch.setattr(supervisor, "device_names", lambda *_: ["4", "6"])
    with pytest.raises(Interrupted):
        supervisor.run_jobs(tmp_path, jobs, 2, lambda _: None)
    assert given == [("a", "4"), ("b", "6"), ("c", "6")]
