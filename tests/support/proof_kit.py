"""A kit whose sections do nothing but end in every way that a section can end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.proof.recorder import Recorder, Skip
from benchmarks.proof.sections import Kit, Section


def describe(tiny: bool) -> str:
    """The device; only the tiny form can run."""
    if not tiny:
        raise SystemExit("no such device here; --tiny runs anywhere")
    return "a stand-in"


def measures(record: Recorder) -> None:
    """Rows of every kind."""
    record.row(form="one", time_ms=1.25)
    with record.attempt(form="two") as row:
        row["time_ms"] = 2.5
        raise Skip("it has no GPU")
    with record.attempt(form="three"):
        import surely_not_a_package  # noqa: F401
    with record.attempt(form="four"):
        raise MemoryError("CUDA out of memory. Tried to allocate")
    record.check("one is one", True)
    record.note("a note")


def disagrees(record: Recorder) -> None:
    """A check that does not hold."""
    record.check("one is two", False, gap=1.0)


def raises(record: Recorder) -> None:
    """An error after the first row."""
    record.row(form="one")
    raise ValueError("the first line\nthe second")


def dies(record: Recorder) -> None:
    """A process that ends without a word."""
    os._exit(9)


def hangs(record: Recorder) -> None:
    """A row, a grandchild, and no end."""
    code = "import time; time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", code])
    Path(os.environ["OPSD_TEST_GRANDCHILD"]).write_text(str(child.pid))
    record.row(form="one")
    time.sleep(600)


WAYS = {
    "measures": measures, "disagrees": disagrees, "raises": raises, "dies": dies, "hangs": hangs,
    "lacks": measures,
}  # fmt: skip
KIT = Kit(
    name="stand_in",
    title="a kit for tests",
    device="tests.support.proof_kit:describe",
    packages=("numpy", "surely_not_a_package"),
    own_module="tests.support.proof_kit",
    sections=tuple(
        Section(
            name, f"A section that {name}", f"tests.support.proof_kit:{work.__name__}", 10,
            ("surely_not_a_package.part",) if name == "lacks" else ("json",),
        )
        for name, work in WAYS.items()
    ),
)  # fmt: skip
