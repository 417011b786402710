"""Commands of `opsd` in processes of their own that can be killed, and the files they leave.

`tests.support.killable_run` stands in for the `opsd` command: its model is a fake, its clocks stand
still, and it kills itself at a chosen event. Here are the commands, the kills that can be
ordered, and the files to compare with those of a command that was not killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tests
from opsd_cli.processes.child_processes import tied
from tests.support.killable_run import EVENTS, KILL, REAL

ROOT = Path(tests.__file__).resolve().parents[1]
#: Files that are not compared: a lock names the process that held it, and logs beside the runs of
#: a comparison hold what the newest process said.
MASKED = ("*.lock", "*.log")

_RUN = (
    "--backend cpu --set data.train=sums.jsonl --set train.steps=7 --set train.evaluate_every=2 "
    "--set train.questions_per_step=4 --set train.checkpoint_every=3 "
    "--set train.keep_checkpoints=1 --set train.patience=null --set data.validation_problems=5 "
    "--set data.test_problems=6 --set preflight.problems=4"
)
COMMANDS = {
    "train": f"train --quiet {_RUN}",
    "eval": "eval --quiet --backend cpu --benchmark sums.jsonl --samples 3",
    "compare": f"compare --quiet --methods opsd,grpo --seeds 1 {_RUN} "
    "--set rollouts.per_question=2",
}
#: The file that is there once a command can be resumed.
BEGUN = {"train": "config.yaml", "eval": "evaluation.json", "compare": "plan.json"}


def problems() -> str:
    """A JSONL file of sums, with ids whose characters take several bytes."""
    rows = [
        {"id": f"é{n}→", "question": f"{n} + 3", "solution": f"{n} + 3 = {n + 3}", "answer": n + 3}
        for n in range(24)
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@dataclass(frozen=True)
class Kill:
    """A kill of the process of a role, or of its parent, at an event.

    Attributes:
        role: of the process that counts the events.
        at: number of the event, from 1.
        signal: the signal's number.
        victim: "self" or "parent".
        torn: share of the bytes that a write keeps at which the process is killed.
    """

    role: str
    at: int
    signal: int
    victim: str = "self"
    torn: float | None = None

    def as_json(self) -> str:
        return json.dumps({key: value for key, value in vars(self).items() if value is not None})

    def __str__(self) -> str:
        whom = f"the parent of {self.role}" if self.victim == "parent" else self.role
        torn = "" if self.torn is None else f", a write torn at {self.torn:.0%}"
        return f"{signal.Signals(self.signal).name} to {whom} at event {self.at}{torn}"


def run_killable(
    folder: Path, words: str, kill: Kill | None = None, real: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `opsd` with these words in a folder, with the fake model or the embedded one."""
    environment |= {"PYTHONPATH": str(ROOT), REAL: "1" if real else ""}
    if kill is not None:
        environment[KILL] = kill.as_json()
    return subprocess.run(
        [sys.executable, "-P", "-m", "tests.support.killable_run", *words.split()],
        cwd=folder,
        **tied(os.environ | environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        # As in a terminal, where SIGINT is not ignored.
        restore_signals=True,
    )


class KillableCommand:
    """A command, run once without a kill, to be run again with kills in folders of its own.

    Attributes:
        words: the command line, but for `--out`.
        expected: the files that the unkilled command left.
        events: how many events each of its processes had, by role.
    """

    def __init__(self, folder: Path, command: str, real: bool = False, more: str = "") -> None:
        self.folder, self.command, self.real = folder, command, real
        # The embedded model does not know these sums, so its preflight would find nothing to learn.
        regardless = " --set preflight.enabled=false" if real and command != "eval" else ""
        self.words = f"{COMMANDS[command]}{regardless} {more}"
        whole = self.prepared("whole")
        counts = self.folder / "events"
        counts.mkdir()
        done = self.run(whole, self.words, counts=counts)
        assert done.returncode == 0, done.stderr
        self.expected = contents(whole / "out")
        self.events = {path.name: int(path.read_text()) for path in counts.iterdir()}

    def prepared(self, name: str) -> Path:
        """A new folder with the problems in it."""
        folder = self.folder / name
        folder.mkdir()
        (folder / "sums.jsonl").write_text(problems(), encoding="utf-8")
        return folder

    def run(
        self, folder: Path, words: str, kill: Kill | None = None, counts: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run these words with `--out out`; leave the counts of events in a folder."""
        more = {EVENTS: str(counts)} if counts is not None else {}
        return run_killable(folder, f"{words} --out out", kill, self.real, **more)

    def next_words(self, folder: Path) -> str:
        """What to type next in a folder: the command, or its `--resume` once it has begun."""
        begun = (folder / "out" / BEGUN[self.command]).is_file()
        return f"{self.command} --quiet --resume" if begun else self.words


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but those of `MASKED`.

    Samples of an evaluation come in the order in which they were drawn, which a kill changes: their
    lines are sorted.
    """
    found: dict[str, bytes] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or any(path.match(pattern) for pattern in MASKED):
            continue
        data = path.read_bytes()
        if path.name == "samples.jsonl":
            data = b"".join(sorted(data.splitlines(keepends=True)))
        found[str(path.relative_to(folder))] = data
    return found
