"""Runs a kit: one child process a section, each within its share of the time that is left."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.measuring import ROOT
from benchmarks.proof import results as files
from benchmarks.proof.page import page
from benchmarks.proof.recorder import FAILED, STOPPED
from benchmarks.proof.sections import Kit, Section, versions
from opsd_cli import __version__
from opsd_cli.processes.child_processes import package_environment, termination_interrupts, tied

#: Default of `--minutes`; the sum of all budgets.
MINUTES = 8.5
#: Seconds between two looks at a child.
LOOK = 0.2
#: Seconds kept back for ending a child and writing.
MARGIN = 2.0


def main(kit: Kit, arguments: list[str] | None = None) -> int:
    """The command of a kit.

    Returns:
        The exit code: 0; 1 if a section failed or a check does not hold; 3 if the kit cannot run
        on this machine; 130 if it was interrupted.
    """
    given = options_of(kit).parse_args(arguments)
    if given.list:
        for section in kit.sections:
            needs = ", ".join(section.needs)
            print(f"{section.name:<14}{section.seconds:>4.0f} s  {section.title}; needs {needs}")
        return 0
    names = [section.name for section in kit.sections]
    only = given.only.split(",") if given.only else names
    unknown = sorted(set(only) - set(names))
    if unknown:
        print(f"no section is called {', '.join(unknown)}\nchoose from {', '.join(names)}",
              file=sys.stderr)  # fmt: skip
        return 2
    try:
        device = found_device(kit, given.tiny)
    except SystemExit as error:
        print(error, file=sys.stderr)
        return 3
    run = Run(kit, device, given.out, given.minutes, given.tiny)
    try:
        with termination_interrupts():
            for place, section in enumerate(chosen := [kit.section(name) for name in only]):
                run.section(section, sum(other.seconds for other in chosen[place:]))
    except KeyboardInterrupt:
        print(f"interrupted; what was measured is in {run.json}", file=sys.stderr)
        return 130
    print(f"{run.json}\n{run.page}")
    return int(files.has_failed(run.results))


def options_of(kit: Kit) -> argparse.ArgumentParser:
    """The options of a kit's command."""
    options = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{kit.name}", description=kit.title
    )
    options.add_argument("--out", type=Path, default=Path("proof"), help="folder of the results")
    options.add_argument("--minutes", type=float, default=MINUTES, help=f"in all ({MINUTES})")
    options.add_argument("--only", help="sections, separated by commas")
    options.add_argument("--tiny", action="store_true", help="tiny shapes, on any machine")
    options.add_argument("--list", action="store_true", help="list the sections and their needs")
    return options


def found_device(kit: Kit, tiny: bool) -> str:
    """The device's description, asked for in a process of its own: it may import a framework.

    Raises:
        SystemExit: the kit cannot run here, with the reason in one line.
    """
    module, _, function = kit.device.partition(":")
    code = f"import {module} as m; print(m.{function}({tiny}))"
    asked = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=package_environment(), capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    if asked.returncode:
        raise SystemExit(last_line(asked.stderr) or "the device cannot be asked")
    return asked.stdout.strip().splitlines()[-1]


def last_line(text: str) -> str:
    """The last line that is not empty."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


class Run:
    """One run of a kit and its files.

    Args:
        kit: which.
        device: its description.
        out: the folder; made, and emptied of an earlier run's results.
        minutes: for all sections together.
        tiny: whether shapes are tiny.
    """

    def __init__(self, kit: Kit, device: str, out: Path, minutes: float, tiny: bool) -> None:
        self.kit, self.tiny = kit, tiny
        self.json, self.page = out / f"{kit.name}.json", out / f"{kit.name}.md"
        self._rows = out / "sections"
        self._rows.mkdir(parents=True, exist_ok=True)
        self._start = time.monotonic()
        self._deadline = self._start + 60 * minutes - MARGIN
        command = f"python -m benchmarks.{kit.name}" + (" --tiny" if tiny else "")
        self.results: dict[str, Any] = {
            "kit": kit.name, "form": files.VERSION, "title": kit.title, "command": command,
            "tiny": tiny, "opsd": __version__, "device": device,
            "started": datetime.now(UTC).isoformat(timespec="seconds"), "minutes": minutes,
            "seconds": 0.0, "versions": versions(kit.packages), "sections": {},
        }  # fmt: skip
        print(f"{kit.title}: {device}", flush=True)

    def section(self, section: Section, seconds_ahead: float) -> None:
        """Run a section within its share of the time left.

        Args:
            section: which.
            seconds_ahead: shares of this section and those after it.
        """
        left = self._deadline - time.monotonic()
        budget = max(0.0, left * section.seconds / seconds_ahead)
        rows, log = (self._rows / f"{section.name}.{ending}" for ending in ("jsonl", "log"))
        rows.unlink(missing_ok=True)
        started = time.monotonic()

        def keep(state: str) -> None:
            found = {
                "title": section.title, "state": state, "budget_s": round(budget, 1),
                "seconds": round(time.monotonic() - started, 1), **files.read_rows(rows),
            }  # fmt: skip
            self.results["sections"][section.name] = found
            self._write()

        try:
            keep(self._watched(section, rows, log, budget, keep))
        except KeyboardInterrupt:
            keep(f"{STOPPED}: the kit was interrupted")
            raise
        print(f"{section.name:<14}{files.summary(self.results['sections'][section.name])}",
              flush=True)  # fmt: skip

    def _watched(self, section: Section, rows: Path, log: Path, budget: float, keep: Any) -> str:
        """Start the child and wait; gives the state of one that wrote none itself."""
        command = [
            sys.executable, "-m", "benchmarks.proof.child", self.kit.module, section.name,
            str(rows.resolve()), "--seconds", f"{budget:.1f}", *(["--tiny"] if self.tiny else []),
        ]  # fmt: skip
        environment = {**package_environment(), "HF_HUB_OFFLINE": "1", **section.environment}
        deadline = time.monotonic() + budget
        size = 0
        with log.open("w", encoding="utf-8") as output:
            child = subprocess.Popen(
                command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True,
                **tied(environment),
            )  # fmt: skip
            try:
                while child.poll() is None and time.monotonic() < deadline:
                    time.sleep(LOOK)
                    grown = rows.stat().st_size if rows.exists() else 0
                    if grown != size:
                        size = grown
                        keep(files.RUNNING)
                if child.poll() is None:
                    return f"{STOPPED}: its {budget:.0f} s were over"
            finally:
                end_group(child)
        return f"{FAILED}: {last_line(log.read_text(encoding='utf-8')) or 'no reason given'}"

    def _write(self) -> None:
        self.results["seconds"] = round(time.monotonic() - self._start, 1)
        files.write(self.json, json.dumps(self.results, indent=1) + "\n")
        files.write(self.page, page(self.results))


def end_group(child: subprocess.Popen[Any]) -> None:
    """Kill a child that leads a group, with all that it started, and wait for it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
