"""Listeners of training and evaluation: a live panel on a terminal, plain lines elsewhere.

Events come from the thread that computes. What ticks (the panel's clock, a line every so often) is
drawn in a thread of its own from the newest numbers.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from opsd_cli.cli import progress
from opsd_cli.cli.console import SILENT_SECONDS, Output
from opsd_cli.cli.ticking import ticking
from opsd_cli.formatting import count, duration, gibibytes, nats, numbered, percent
from opsd_cli.printable import visible
from opsd_cli.statistics import Estimate
from opsd_cli.tracking.listener import Decoded, EvaluationRow, Listener, StepRow, WorkAhead
from opsd_cli.tracking.pace import Pace
from opsd_cli.tracking.published import PROGRESS_FILE, publish

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

Result = TypeVar("Result")
BARS = "▁▂▃▄▅▆▇█"
#: Validations in the sparkline; more do not fit into 80 columns.
COURSE = 7
#: Without a terminal, least seconds between two lines about steps.
PLAIN_SECONDS = 5.0
#: Seconds between two looks at the clock.
TICK_SECONDS = 1.0


def sparkline(values: list[float]) -> str:
    """The values as block characters, scaled to their minimum and maximum."""
    if not values:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(BARS[round((value - low) / span * (len(BARS) - 1))] for value in values)


class PacedListener(Listener):
    """Keeps the pace of the work.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.pace = Pace(clock)

    def ahead(self, work: WorkAhead) -> None:
        self.pace.ahead(work)

    def phase(self, name: str, total: int, done: int = 0) -> None:
        self.pace.phase(name, total, done)

    def advance(self, units: int = 1) -> None:
        self.pace.advance(units)

    def decoding(self, progress: Decoded) -> None:
        self.pace.decoding(progress)

    def learning(self, done: int, total: int) -> None:
        self.pace.learning(done, total)

    def step(self, row: StepRow) -> None:
        self.pace.step(row)

    def tick(self) -> None:
        """Called about every second, in a thread of its own."""


class PlainListener(PacedListener):
    """Prints lines, as for a log file: one at least every `SILENT_SECONDS` while it is ticked."""

    def __init__(self, out: Output, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self.out = out
        self._stepped = float("-inf")
        self._told = clock()

    def tick(self) -> None:
        if self.clock() - self._told >= SILENT_SECONDS:
            self.note(progress.line(self.pace))

    def note(self, message: str) -> None:
        self._told = self.clock()
        self.out.note(message)

    def warn(self, message: str) -> None:
        self.out.warn(message)

    def step(self, row: StepRow) -> None:
        super().step(row)
        now = self.clock()
        if now - self._stepped < PLAIN_SECONDS and row.step not in (1, row.steps):
            return
        self._stepped = now
        self.note(
            f"step {row.step}/{row.steps}  loss {row.loss:.4f}  "
            f"train {_reward(row)}  generated {count(row.ledger.generated)}  "
            f"{_speed(row)}  {duration(row.seconds)}"
        )

    def evaluation(self, row: EvaluationRow) -> None:
        best = "  (best so far)" if row.best else ""
        self.note(f"step {row.step}: {row.split} {measured_text(row)}{best}")

    def preflight(self, student: Estimate, teacher: Estimate, problems: int) -> None:
        self.note(preflight_line(student, teacher, problems))


def measured_text(row: EvaluationRow) -> str:
    """What an evaluation has measured, in words."""
    if row.accuracy is not None:
        return f"accuracy {percent(row.accuracy)}"
    found = {"divergence": row.divergence, "log-probability of the solutions":
             row.reference_log_prob}  # fmt: skip
    parts = [f"{name} {nats(value)}" for name, value in found.items() if value is not None]
    if not parts:
        return f"{row.mean_tokens:.0f} tokens a completion, {row.truncated:.0%} cut off"
    return f"{', '.join(parts)}, nats a token"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _reward(row: StepRow) -> str:
    """The share of a step's rollouts that is right, or the mean of the grader's numbers."""
    if "correct" in row.metrics:
        return f"score {_number(row.reward, 3)}"
    if row.reward is None and "divergence" in row.metrics:
        return f"divergence {row.metrics['divergence']:.4f}"
    return f"accuracy {_share(row.reward)}"


def _speed(row: StepRow) -> str:
    speed = row.tokens_per_second
    return "–" if speed is None else progress.pace_text(speed)


def _tokens(number: int) -> str:
    return f"{count(number)} tokens"


def preflight_line(student: Estimate, teacher: Estimate, problems: int) -> str:
    return (
        f"preflight on {numbered(problems, 'problem')}: {student.value:.0%} right without the "
        f"reference, {teacher.value:.0%} with it"
    )


class LiveListener(PlainListener):
    """Shows a panel that is redrawn in place; evaluations are printed above it."""

    #: Each drawing takes some milliseconds; clocks show seconds.
    drawings_per_second = 2

    def __init__(self, out: Output, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(out, clock)
        self._validations: list[EvaluationRow] = []

    def tick(self) -> None:
        """Nothing: the panel is drawn anew anyway."""

    def step(self, row: StepRow) -> None:
        self.pace.step(row)

    def evaluation(self, row: EvaluationRow) -> None:
        if row.split == "validation":
            self._validations.append(row)
        super().evaluation(row)

    def panel(self) -> RenderableType:
        """The newest numbers; called in the thread that draws."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        pace, row = self.pace, self.pace.row
        parts: list[RenderableType] = []

        def add(name: Text, bar: tuple[float, float], amount: str, below: str) -> None:
            line = Table.grid(padding=(0, 1), expand=True)
            line.add_column(min_width=20, no_wrap=True)
            line.add_column(ratio=1)
            line.add_column(no_wrap=True, justify="right")
            line.add_row(name, ProgressBar(*bar) if bar[0] else "", amount)
            parts.extend((line, Text(below, style="dim", justify="right", no_wrap=True)))

        if row:
            steps = f"{row.step}/{row.steps} steps"
            add(Text("training", "bold"), (row.steps, row.step), steps, progress.whole(pace))
        below = "  ".join(progress.facts(pace))
        add(
            Text(visible(progress.title(pace)), "dim"),
            progress.bar(pace),
            progress.amount(pace),
            below,
        )
        if row is not None:
            parts.append(self._facts(row))
        elif pace.more_follows and pace.left is not None:
            rest = f"in all {progress.remaining(pace.left)}"
            parts.append(Text(rest, style="dim", justify="right"))
        return Group(*parts)

    def _facts(self, row: StepRow) -> Table:
        """The newest step's numbers."""
        from rich.table import Table

        ledger = row.ledger
        facts = Table.grid(padding=(0, 2, 0, 0))
        for _ in range(6):
            facts.add_column(no_wrap=True)
        latest, best = self._validated()
        facts.add_row(
            "loss", f"{row.loss:.4f}",
            "train", _number(row.reward, 3) if "correct" in row.metrics else _share(row.reward),
            "generated", _tokens(ledger.generated),
        )  # fmt: skip
        facts.add_row(
            "divergence", _number(row.metrics.get("divergence"), 4),
            "validation", latest,
            "teacher", _tokens(ledger.teacher_scored),
        )  # fmt: skip
        facts.add_row(
            "entropy", _number(row.metrics.get("entropy"), 3),
            "best", best,
            "trained", _tokens(ledger.trained),
        )  # fmt: skip
        facts.add_row(
            "speed", _speed(row),
            "memory", gibibytes(row.memory_peak),
        )  # fmt: skip
        return facts

    def _validated(self) -> tuple[str, str]:
        """The newest validation's measure with a sparkline, and the best so far."""
        if not self._validations:
            return "–", "–"
        if all(row.accuracy is not None for row in self._validations):
            found = [row.accuracy.value for row in self._validations if row.accuracy is not None]
            shown, best = "{:.1%}", max(found)
        else:
            kept = [row.divergence or row.reference_log_prob for row in self._validations]
            found = [each.value for each in kept if each is not None]
            if not found:
                return "–", "–"
            diverges = any(row.divergence is not None for row in self._validations)
            shown, best = "{:.4f}", min(found) if diverges else max(found)
        return f"{shown.format(found[-1])} {sparkline(found[-COURSE:])}", shown.format(best)


def watched(
    out: Output,
    work: Callable[[Listener], Result],
    on_terminal: Callable[[], LiveListener] | None = None,
) -> Result:
    """Call `work` with a listener for the terminal, for plain lines, or for warnings alone.

    Args:
        on_terminal: makes the listener for the terminal.
    """
    if out.quiet:
        quiet = Quiet(out)
        if quiet.file is None:
            return work(quiet)
        try:
            with ticking(quiet.tick, TICK_SECONDS):
                return work(quiet)
        finally:
            with contextlib.suppress(OSError):
                quiet.file.unlink(missing_ok=True)
    if not out.messages.is_terminal:
        plain = PlainListener(out)
        with ticking(plain.tick, TICK_SECONDS):
            return work(plain)
    from rich.live import Live

    listener = on_terminal() if on_terminal else LiveListener(out)
    with Live(
        get_renderable=listener.panel,
        console=out.messages,
        refresh_per_second=listener.drawings_per_second,
        transient=True,
    ):
        return work(listener)


class Quiet(PacedListener):
    """Prints warnings alone; writes its progress to the file that `PROGRESS_FILE` names."""

    def __init__(self, out: Output, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._out = out
        name = os.environ.get(PROGRESS_FILE)
        self.file = Path(name) if name else None

    def tick(self) -> None:
        if self.file is not None:
            publish(self.file, self.pace)

    def warn(self, message: str) -> None:
        self._out.warn(message)
