"""Listeners of training and evaluation: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from opsd_cli.cli.console import Output
from opsd_cli.formatting import count, duration, percent
from opsd_cli.printable import visible
from opsd_cli.statistics import Estimate
from opsd_cli.tracking.listener import EvaluationRow, Listener, StepRow

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live

Result = TypeVar("Result")
BARS = "▁▂▃▄▅▆▇█"
#: Validations in the sparkline; more do not fit into 80 columns.
COURSE = 7
#: Without a terminal, least seconds between two lines about steps.
PLAIN_SECONDS = 5.0
#: Likewise, seconds between two lines about the progress of a phase.
PHASE_SECONDS = 60.0


def sparkline(values: list[float]) -> str:
    """The values as block characters, scaled to their minimum and maximum."""
    if not values:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(BARS[round((value - low) / span * (len(BARS) - 1))] for value in values)


class Phase:
    """The progress of a phase, and the time left at its average pace."""

    def __init__(self, name: str, total: int, done: int = 0) -> None:
        self.name, self.total, self.done = name, total, done
        self._before = done
        self._began = time.monotonic()

    def advance(self, units: int) -> None:
        self.done += units

    @property
    def share(self) -> str:
        return f"{self.done:,}/{self.total:,}"

    @property
    def left(self) -> str:
        """As in "3:20 left"; empty until a unit is done."""
        new = self.done - self._before
        if not new:
            return ""
        seconds = (time.monotonic() - self._began) / new * (self.total - self.done)
        return f"{duration(seconds)} left"


class PlainListener(Listener):
    """Prints lines, as for a log file."""

    def __init__(self, out: Output) -> None:
        self.out = out
        self._last = 0.0
        self._phase = Phase("starting", 0)
        self._told = time.monotonic()

    def phase(self, name: str, total: int, done: int = 0) -> None:
        self._phase = Phase(name, total, done)
        self._told = time.monotonic()

    def advance(self, units: int = 1) -> None:
        self._phase.advance(units)
        if time.monotonic() - self._told >= PHASE_SECONDS:
            self._told = time.monotonic()
            self.out.note(f"{self._phase.name} {self._phase.share}, {self._phase.left}")

    def note(self, message: str) -> None:
        self.out.note(message)

    def warn(self, message: str) -> None:
        self.out.warn(message)

    def step(self, row: StepRow) -> None:
        now = time.monotonic()
        if now - self._last < PLAIN_SECONDS and row.step not in (1, row.steps):
            return
        self._last = now
        self.out.note(
            f"step {row.step}/{row.steps}  loss {row.loss:.4f}  "
            f"train accuracy {_share(row.reward)}  generated {count(row.ledger.generated)}  "
            f"{_speed(row)}  {duration(row.seconds)}"
        )

    def evaluation(self, row: EvaluationRow) -> None:
        best = "  (best so far)" if row.best else ""
        self.out.note(f"step {row.step}: {row.split} accuracy {percent(row.accuracy)}{best}")

    def preflight(self, student: Estimate, teacher: Estimate, problems: int) -> None:
        self.out.note(preflight_line(student, teacher, problems))


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _speed(row: StepRow) -> str:
    return "–" if row.tokens_per_second is None else f"{row.tokens_per_second:.0f} tok/s"


def preflight_line(student: Estimate, teacher: Estimate, problems: int) -> str:
    return (
        f"preflight on {problems} problems: {student.value:.0%} right without the reference, "
        f"{teacher.value:.0%} with it"
    )


class LiveListener(PlainListener):
    """Shows a panel that is redrawn in place; evaluations are printed above it."""

    def __init__(self, out: Output, live: Live) -> None:
        super().__init__(out)
        self._live = live
        self._row: StepRow | None = None
        self._validations: list[float] = []
        self._base: float | None = None
        self._draw()

    def phase(self, name: str, total: int, done: int = 0) -> None:
        super().phase(name, total, done)
        self._draw()

    def advance(self, units: int = 1) -> None:
        self._phase.advance(units)
        self._draw()

    def step(self, row: StepRow) -> None:
        self._row = row
        self._draw()

    def evaluation(self, row: EvaluationRow) -> None:
        if row.split == "validation":
            self._validations.append(row.accuracy.value)
        super().evaluation(row)
        self._draw()

    def _draw(self) -> None:
        self._live.update(self._panel())

    def _panel(self) -> Group:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        phase, row = self._phase, self._row
        bars = Table.grid(padding=(0, 1), expand=True)
        bars.add_column(width=24, no_wrap=True)
        bars.add_column(ratio=1)
        bars.add_column(no_wrap=True, justify="right")
        if row:
            bars.add_row(
                Text("training", style="bold"),
                ProgressBar(row.steps, row.step),
                f"{row.step}/{row.steps}",
            )
        # Before the first step there is no other estimate of the time left.
        state = f"{phase.share}  {phase.left}".rstrip() if row is None else phase.share
        bar = ProgressBar(max(1, phase.total), phase.done)
        bars.add_row(Text(visible(phase.name), style="dim"), bar, state)
        if row is None:
            return Group(bars)
        left = (row.steps - row.step) * row.seconds / max(1, row.step)
        ledger = row.ledger
        facts = Table.grid(padding=(0, 2, 0, 0))
        for _ in range(6):
            facts.add_column(no_wrap=True)
        latest, best = self._validated()
        facts.add_row(
            "loss", f"{row.loss:.4f}",
            "train", _share(row.reward),
            "generated", count(ledger.generated),
        )  # fmt: skip
        facts.add_row(
            "divergence", _number(row.metrics.get("divergence"), 4),
            "validation", latest,
            "teacher", count(ledger.teacher_scored),
        )  # fmt: skip
        facts.add_row(
            "entropy", _number(row.metrics.get("entropy"), 3),
            "best", best,
            "trained", count(ledger.trained),
        )  # fmt: skip
        facts.add_row(
            "speed", _speed(row),
            "memory", f"{row.memory_peak / 2**30:.2f} GiB",
            "time", f"{duration(row.seconds)}, {duration(left)} left",
        )  # fmt: skip
        return Group(bars, facts)

    def _validated(self) -> tuple[str, str]:
        """The newest validation accuracy with a sparkline, and the best so far."""
        if not self._validations:
            return "–", "–"
        course = sparkline(self._validations[-COURSE:])
        return f"{self._validations[-1]:.1%} {course}", f"{max(self._validations):.1%}"


def watched(out: Output, work: Callable[[Listener], Result]) -> Result:
    """Call `work` with a listener for the terminal, for plain lines, or for warnings alone."""
    if out.quiet:
        return work(Quiet(out))
    if not out.messages.is_terminal:
        return work(PlainListener(out))
    from rich.live import Live

    with Live(console=out.messages, refresh_per_second=8, transient=True) as live:
        return work(LiveListener(out, live))


class Quiet(Listener):
    """Prints warnings alone."""

    def __init__(self, out: Output) -> None:
        self._out = out

    def warn(self, message: str) -> None:
        self._out.warn(message)
