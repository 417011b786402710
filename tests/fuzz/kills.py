"""`train`, `eval` and `compare` killed at random events and resumed, against unkilled ones.

    python -m tests.fuzz.kills --kills 100 --seed 0

Each trial kills a command up to three times, with SIGKILL, SIGTERM or SIGINT, at events drawn from
the seed (see `tests.support.killable_run`; never at a time), resumes it each time, lets it end, and
compares every file with those of a command that was not killed, byte for byte. Training runs of a
comparison are killed too, alone or with the comparison, and whichever is killed must not leave the
other running. Every fourth trial resumes a finished command once more. What may differ is in
`MASKED` and `contents` of `tests.support.killable_commands`; clocks stand still, so no file holds
a time.

The table has for each command the number of kills, and of the trials how many ended equal, were
refused at a resume with a plain error, left different files, or failed otherwise. The program exits
with 1 unless all are equal.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.killable_commands import COMMANDS, Kill, KillableCommand, contents
from tests.support.processes import left_in

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


@dataclass
class Outcome:
    """Outcome of a trial: "equal", "refused", "different" or "failed", and the error."""

    command: str
    kills: list[Kill] = field(default_factory=list)
    ended: str = "equal"
    said: str = ""


class Fuzzer(KillableCommand):
    """Runs trials of one command, each in a folder of its own."""

    def draw(self, random: random.Random) -> Kill:
        role = random.choice(sorted(self.events))
        number = random.choice(SIGNALS)
        victim = "self"
        if role != f"{self.command}:out" and self.command == "compare":
            victim = random.choice(("self", "parent"))
            if victim == "self" and number == signal.SIGINT:
                number = signal.SIGKILL  # Ctrl-C never reaches a run of a comparison
        torn = random.random() if number == signal.SIGKILL and victim == "self" else None
        return Kill(role, random.randint(1, self.events[role]), number, victim, torn)

    def trial(self, name: str, random: random.Random, most_kills: int) -> Outcome:
        """Kill up to three times, resume, let it end, compare the files."""
        outcome = Outcome(self.command)
        folder = self.prepared(name)
        finished = False
        for number in range(random.randint(1, min(3, most_kills))):
            kill = self.draw(random)
            counts = self.folder / f"{name}-events-{number}"
            counts.mkdir()
            done = self.run(folder, self.next_words(folder), kill, counts)
            if left := left_in(folder):
                outcome.ended, outcome.said = "failed", f"left running: {left}"
                return outcome
            # A comparison whose report lacks samples warns, and generates them when it is resumed.
            finished = done.returncode == 0 and "warning: no samples" not in done.stderr
            if (counts / f"{kill.role}fired").exists():
                outcome.kills.append(kill)
            if finished:
                break  # fewer events were left, or the signal came at the very end
            if done.returncode and not was_killed(done, kill):
                return failed(outcome, done)
        more = random.random() < 0.25
        for _ in range((not finished) + more):
            done = self.run(folder, self.next_words(folder))
            if done.returncode != 0:
                return failed(outcome, done)
        found = contents(folder / "out")
        different = sorted(
            path
            for path in found.keys() | self.expected.keys()
            if found.get(path) != self.expected.get(path)
        )
        if different:
            outcome.ended, outcome.said = "different", ", ".join(different)
            if more:
                outcome.said += " (resumed once more at the end)"
        return outcome


def was_killed(done: subprocess.CompletedProcess[str], kill: Kill) -> bool:
    """True if a process ended as this kill should end it: at once, or with an error and a hint."""
    if done.returncode == -kill.signal and kill.signal == signal.SIGKILL:
        return True
    if kill.role.startswith(("train:", "sample:")) and kill.victim == "self":
        # A comparison names its run that was killed.
        died = done.returncode == 1 and "failed: " in done.stderr
        if died and "Traceback" not in done.stderr and "unexpected" not in done.stderr:
            return True
    one_line = done.stderr.count("error: ") == 1 and "hint: " in done.stderr
    return done.returncode == 130 and one_line


def failed(outcome: Outcome, done: subprocess.CompletedProcess[str]) -> Outcome:
    lines = [line for line in done.stderr.splitlines() if line.startswith(("error: ", "hint: "))]
    plain = lines and "unexpected" not in lines[0] and "Traceback" not in done.stderr
    outcome.ended = "refused" if plain and done.returncode in (1, 2) else "failed"
    outcome.said = " / ".join(lines) or f"exit code {done.returncode}: {done.stderr[-500:]}"
    return outcome


def fuzz(
    command: str, kills: int, seed: int, folder: Path, real: bool = False, tell: Any = print
) -> list[Outcome]:
    """Run trials of a command until there were so many kills."""
    (folder / command).mkdir()
    fuzzer = Fuzzer(folder / command, command, real)
    tell(f"{command}: events {fuzzer.events}")
    outcomes: list[Outcome] = []
    while (left := kills - sum(len(outcome.kills) for outcome in outcomes)) > 0:
        number = len(outcomes)
        draws = random.Random(f"{seed} {command} {number}")
        outcome = fuzzer.trial(f"trial-{number}", draws, left)
        outcomes.append(outcome)
        if outcome.ended != "equal":
            tell(f"  trial {number}: {outcome.ended}: {outcome.said}")
            for kill in outcome.kills:
                tell(f"    {kill}")
    return outcomes


def table(outcomes: list[Outcome]) -> str:
    lines = [
        "| command | kills | trials | equal | refused | different | failed |",
        "|---" * 7 + "|",
    ]
    for command in dict.fromkeys(outcome.command for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome.command == command]
        ended = Counter(outcome.ended for outcome in mine)
        counts = [ended[name] for name in ("equal", "refused", "different", "failed")]
        kills = sum(len(outcome.kills) for outcome in mine)
        lines.append(f"| {command} | {kills} | {len(mine)} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines)


def shares(kills: int) -> dict[str, int]:
    """Kills of each command; a comparison gets a fifth, because it takes longest."""
    compare = kills // 5
    return {
        "train": (kills - compare + 1) // 2, "eval": (kills - compare) // 2, "compare": compare
    }  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--kills", type=int, default=100)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--command", choices=COMMANDS, help="only this one")
    options.add_argument("--real", action="store_true", help="the embedded model, on the CPU")
    options.add_argument("--keep", type=Path, help="a new folder for what the trials leave")
    given = options.parse_args()
    planned = {given.command: given.kills} if given.command else shares(given.kills)
    with tempfile.TemporaryDirectory() as name:
        folder = given.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        outcomes = [
            outcome
            for command, kills in planned.items()
            for outcome in fuzz(command, kills, given.seed, folder.resolve(), given.real)
        ]
    print(table(outcomes))
    sys.exit(any(outcome.ended != "equal" for outcome in outcomes))


if __name__ == "__main__":
    main()
