"""What the benchmarks share: options, memory of this process, figures of another process.

Each figure comes from a process of its own, because a process's peak memory never goes down. The
forms of one case take turns, so that other work on the machine slows all of them equally.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

#: Seconds between two readings of the memory of a process's children.
POLL_SECONDS = 0.5

#: For each form, what each of its measuring processes printed.
Found = dict[str, list[dict[str, float]]]


def parser(
    doc: str | None, rounds: int | None = None, saves: bool = False
) -> argparse.ArgumentParser:
    """A parser described by a script's first docstring line.

    Args:
        doc: the script's docstring.
        rounds: the default of `--rounds`; None: the script has no rounds.
        saves: whether the script's table can be saved among the results.
    """
    made = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    if rounds is not None:
        made.add_argument(
            "--rounds", type=int, default=rounds, help=f"measurements of each form ({rounds})"
        )
    if saves:
        made.add_argument("--save", action="store_true", help="into the results and README")
    return made


def threads_here() -> int:
    """Threads of this measuring process: OMP_NUM_THREADS, which `measured_elsewhere` sets."""
    return int(os.environ["OMP_NUM_THREADS"])


def resident_mb() -> float:
    """Resident memory now in MB; where the system does not say, the peak so far."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return peak_mb()
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def peak_mb() -> float:
    """Peak resident memory in MB since the process began."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def forget_peak() -> None:
    """Begin a new peak, which `new_peak_mb` reads; Linux alone can do that."""
    Path("/proc/self/clear_refs").write_text("5")


def new_peak_mb() -> float:
    """Peak resident memory in MB since `forget_peak`.

    Raises:
        SystemExit: this system does not report it.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024 / 1e6
    raise SystemExit("this system does not report the peak of resident memory")


class Meter:
    """CPU and wall seconds, and the peak of memory, of this process and its children.

    What comes before `loaded` is counted apart.
    """

    def __init__(self) -> None:
        import psutil

        self._own = psutil.Process()
        self._gone = psutil.Error
        self._children_mb = 0.0
        self._load: dict[str, float] = {}
        self._loaded = (0.0, 0.0)
        threading.Thread(target=self._watch, daemon=True).start()

    def loaded(self) -> None:
        """All is loaded; the measured work begins."""
        self._loaded = self._cpu(), time.perf_counter()
        began = self._own.create_time()
        resident = self._own.memory_info().rss / 1e6
        self._load = {
            "load_cpu": self._loaded[0], "load_wall": time.time() - began, "resident_mb": resident
        }  # fmt: skip

    def figures(self) -> dict[str, float]:
        """What was measured, at the work's end."""
        cpu, wall = self._loaded
        return {
            "cpu": self._cpu() - cpu,
            "wall": time.perf_counter() - wall,
            "peak_mb": peak_mb() + self._children_mb,
            "children_mb": self._children_mb,
            **self._load,
        }

    def _cpu(self) -> float:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        total = time.process_time() + ended.ru_utime + ended.ru_stime
        for child in self._own.children(recursive=True):
            with contextlib.suppress(self._gone):
                spent = child.cpu_times()
                total += spent.user + spent.system
        return total

    def _watch(self) -> None:
        """Keep the greatest sum of the children's resident memory."""
        while True:
            total = 0.0
            for child in self._own.children(recursive=True):
                with contextlib.suppress(self._gone):
                    total += child.memory_info().rss / 1e6
            self._children_mb = max(self._children_mb, total)
            time.sleep(POLL_SECONDS)


def measured_elsewhere(command: Sequence[str | Path], **environment: str) -> dict[str, float]:
    """Run a measuring process, and give the JSON object of its last line.

    It has two threads, or as many as OMP_NUM_THREADS of `environment` says, which do not spin as
    they wait. If it fails, so does this process, with its standard error.
    """
    done = subprocess.run(
        [str(part) for part in command],
        env={
            **os.environ,
            "OMP_WAIT_POLICY": "PASSIVE",
            "OMP_NUM_THREADS": "2",
            "PYTHONPATH": str(ROOT),
            "HF_HUB_OFFLINE": "1",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def take_turns(forms: Mapping[str, Sequence[str | Path]], rounds: int, **environment: str) -> Found:
    """Measure every form once per round, one after another in each round."""
    found: Found = {form: [] for form in forms}
    for _ in range(rounds):
        for form, command in forms.items():
            found[form].append(measured_elsewhere(command, **environment))
    return found
