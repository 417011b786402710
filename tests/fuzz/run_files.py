"""Damage to the files of a run before it is resumed.

    python -m tests.fuzz.run_files --cases 500 --seed 0

A damaged run may end like the undamaged one (the damage was repaired, or does not matter), or be
refused in one clear line. It must never end with other numbers or with an unexpected exception.
The cases are drawn from a seed, so that a case can be run again by its number.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from opsd_cli.errors import Interrupted, OpsdError
from opsd_cli.reports import write_run_report
from opsd_cli.training import run_directory
from opsd_cli.training.checkpoints import LATER, fault_of, step_of
from tests.support.fakes import StopAfter
from tests.support.training_runs import StopWithin, begin, resume, run_contents

OUTCOMES = ("the same", "refused", "different", "unexpected")


def delete(path: Path, random: random.Random) -> None:
    path.unlink()


def empty(path: Path, random: random.Random) -> None:
    path.write_bytes(b"")


def truncate(path: Path, random: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: random.randrange(len(data) + 1)])


def flip(path: Path, random: random.Random) -> None:
    data = bytearray(path.read_bytes())
    if data:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    path.write_bytes(bytes(data))


def scramble(path: Path, random: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(min(len(data), 16)):
        data[random.randrange(len(data))] = random.randrange(256)
    path.write_bytes(bytes(data))


def append(path: Path, random: random.Random) -> None:
    more = random.choice([b'{"step": 1}\n', b"{", b"\xff\xfe", b"\x00" * 64, b"\n", b"[" * 5000])
    path.write_bytes(path.read_bytes() + more)


def lose_a_line(path: Path, random: random.Random) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    if lines:
        del lines[random.randrange(len(lines))]
    path.write_bytes(b"".join(lines))


def repeat_a_line(path: Path, random: random.Random) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    if lines:
        lines.insert(random.randrange(len(lines)), random.choice(lines))
    path.write_bytes(b"".join(lines))


def other_json(path: Path, random: random.Random) -> None:
    path.write_text(random.choice(["null", "[]", "3", '"text"', "{}", '{"step": "x"}', "[" * 9999]))


def folder(path: Path, random: random.Random) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: tuple[Callable[[Path, random.Random], None], ...] = (
    delete, empty, truncate, flip, scramble, append, lose_a_line, repeat_a_line, other_json, folder,
)  # fmt: skip
#: Runs that are resumed: stopped after step 4, stopped during a measurement, finished.
KINDS = ("stopped", "within", "finished")
SETTINGS = ("teacher.reason_first=true", "preflight.problems=12")
#: Files that describe the machine, are made from other files, or are not read once there is a
#: checkpoint: damage to them changes no number.
NO_NUMBERS = (
    run_directory.ENVIRONMENT, "report.html", run_directory.PREFLIGHT,
    run_directory.PREFLIGHT_SAMPLES,
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Outcome of one damaged run; `said` is the error that a user reads."""

    kind: str
    file: str
    damage: str
    outcome: str
    said: str


def make(folder: Path) -> dict[str, Path]:
    """Train a run of each kind, and "whole", which nothing interrupted."""
    for kind, stop in (
        ("whole", None),
        ("finished", None),
        ("stopped", StopAfter(4)),
        ("within", StopWithin("test (final)", 3)),
    ):
        try:
            if stop is None:
                begin(folder / kind, *SETTINGS)
            else:
                begin(folder / kind, *SETTINGS, listener=stop, stop=stop)
        except Interrupted:
            pass
    return {kind: folder / kind for kind in ("whole", *KINDS)}


def cases(made: dict[str, Path], folder: Path, count: int, seed: int) -> list[Case]:
    """Damage a run and resume it, `count` times."""
    expected = numbers(made["whole"])
    chosen = random.Random(seed)
    found = []
    for number in range(count):
        kind, damage = chosen.choice(KINDS), chosen.choice(DAMAGES)
        run = folder / f"case-{number}"
        shutil.copytree(made[kind], run)
        files = sorted(p for p in run.rglob("*") if p.is_file() and p.name != run_directory.LOCK)
        file = chosen.choice(files)
        damage(file, random.Random(chosen.random()))
        outcome, said = resumed(run, expected)
        name = str(file.relative_to(run))
        found.append(Case(kind, name, damage.__name__, outcome, said))
        shutil.rmtree(run)
    return found


def resumed(run: Path, expected: dict[str, object]) -> tuple[str, str]:
    """Resume a damaged run; returns the outcome and the error or the names that differ."""
    try:
        resume(run)
        write_run_report(run)
    except OpsdError as error:
        clear = "\n" not in error.message and error.hint
        return ("refused" if clear else "unexpected"), f"{error.message} ({error.hint})"
    except Exception as error:
        return "unexpected", f"{type(error).__name__}: {error}"
    mine = numbers(run)
    lost = {name for name in expected.keys() - mine.keys() if name.startswith("checkpoints/")}
    wrong = [name for name in expected.keys() - lost if mine.get(name) != expected[name]]
    wrong += mine.keys() - expected.keys()
    return ("different", ", ".join(wrong)) if wrong else ("the same", "")


def numbers(run: Path) -> dict[str, object]:
    """Contents of a run at its end, without files that resuming set aside."""
    for path in [*run.glob(f"{LATER}-*"), *(run / "checkpoints").iterdir()]:
        if path.is_file():
            path.unlink()
        elif step_of(path) is None or fault_of(path) is not None:
            shutil.rmtree(path)  # set aside, or found out by whoever would use it
    return run_contents(run, without=NO_NUMBERS)


def table(found: list[Case]) -> str:
    """Table of the outcomes by file."""
    rows = [f"{'file':<44}{'tried':>6}" + "".join(f"{each:>12}" for each in OUTCOMES)]
    by_file: dict[str, Counter[str]] = {}
    for case in found:
        name = case.file.split("/")[-1] if "checkpoints" in case.file else case.file
        by_file.setdefault(name, Counter())[case.outcome] += 1
    total: Counter[str] = Counter()
    for name, counts in sorted(by_file.items()):
        rows.append(_row(name, counts))
        total += counts
    return "\n".join([*rows, _row("all", total)])


def _row(name: str, counts: Counter[str]) -> str:
    return f"{name:<44}{counts.total():>6}" + "".join(f"{counts[each]:>12}" for each in OUTCOMES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = cases(make(Path(name)), Path(name), arguments.cases, arguments.seed)
    for case in found:
        if case.outcome in ("different", "unexpected"):
            print(json.dumps(case.__dict__))
    print(table(found))


if __name__ == "__main__":
    main()
