"""Tables that compare this package with others, and their summary in docs/measured.md.

    python benchmarks/tables.py                      # the summary again, from benchmarks/results
    python benchmarks/tables.py --kit DIR/gpu.json   # with the results of a proof kit

Printed are medians over rounds with the minimum in brackets. The first form of a case is ours;
ratios are to its medians.
"""

from __future__ import annotations

import math
import re
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring import ROOT, Found, parser
from benchmarks.proof.saved import save_kit, with_kits

RESULTS = Path(__file__).parent / "results"
#: The page with the summary.
PAGE = ROOT / "docs" / "measured.md"
#: Results whose tables the page sums up, with what a case of theirs is called there.
SUMMED_UP = {
    "loss_head": "loss head", "step": "training step", "rollouts": "rollouts",
    "evaluation_speed": "evaluation",
}  # fmt: skip
START, END = "<!-- peers: python -m benchmarks.tables -->", "<!-- /peers -->"
#: Stands for what cannot be compared.
UNKNOWN = "n/a"
COLUMNS = ("case", "form", "CPU", "wall", "peak memory", "CPU and memory against ours")


class Table:
    """A table of cases and forms, printed row by row.

    Args:
        name: of its file among the results.
        unit: of `cpu` and `wall` in the measurements, "s" or "ms"; `peak_mb` is in MB, or NaN
            where it cannot be compared.
    """

    def __init__(self, name: str, unit: str) -> None:
        self.name, self.unit = name, unit
        self.lines: list[str] = []
        self._print(f"| {' | '.join(COLUMNS)} |")
        self._print("|" + "---|" * len(COLUMNS))

    def add(self, case: str, found: Found) -> None:
        """Rows of one case."""
        first: tuple[float, float] | None = None
        for form, rows in found.items():
            cpu, wall, peak = ([row[key] for row in rows] for key in ("cpu", "wall", "peak_mb"))
            own = statistics.median(cpu), statistics.median(peak)
            ratio = (
                ""
                if first is None
                else ", ".join(
                    _figure(mine / ours, ".2f") for mine, ours in zip(own, first, strict=True)
                )
            )
            first = first or own
            memory = _figure(own[1], ",.0f", " MB")
            self._print(
                f"| {case} | {form} | {own[0]:.2f} {self.unit} ({min(cpu):.2f}) "
                f"| {statistics.median(wall):.2f} {self.unit} ({min(wall):.2f}) "
                f"| {memory} | {ratio} |"
            )

    def save(self) -> None:
        """Replace the cases in the results file's table, and bring the summary up to date.

        Cases that were not measured this time stay as they are.

        Raises:
            SystemExit: the results file has no table.
        """
        path = RESULTS / f"{self.name}.md"
        text = path.read_text()
        old = re.search(r"(?m)(^\|.*\n)+", text)
        if old is None:
            raise SystemExit(f"{path} has no table to replace")
        measured = {_case(line) for line in self.lines}
        kept = [line for line in old[0].splitlines()[2:] if _case(line) not in measured]
        lines = [*self.lines[:2], *kept, *self.lines[2:]]
        path.write_text(text.replace(old[0], "\n".join(lines) + "\n"))
        PAGE.write_text(summed_up(PAGE.read_text()))

    def _print(self, line: str) -> None:
        print(line, flush=True)
        self.lines.append(line)


def summed_up(page: str) -> str:
    """The page with its table of peers made from the results."""
    lines = [
        "| the same work by | CPU time against ours | memory against ours |",
        "|---|---|---|",
    ]
    for name, called in SUMMED_UP.items():
        path = RESULTS / f"{name}.md"
        cases: dict[str, list[tuple[str, str, str]]] = {}
        for line in path.read_text().splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            ratios = cells[-1].split(", ")
            if line.startswith("|") and len(cells) == len(COLUMNS) and len(ratios) == 2:
                cpu, memory = (_short(ratio) for ratio in ratios)
                cases.setdefault(cells[0], []).append((cells[1], cpu, memory))
        link = f"../{path.relative_to(ROOT).as_posix()}"
        for case, peers in cases.items():
            cells_of_peers = (
                ", ".join(f"{peer[0]} {peer[place]}" for peer in peers if peer[place] != UNKNOWN)
                for place in (1, 2)
            )
            lines.append(f"| [{called}]({link}), {case} | {' | '.join(cells_of_peers)} |")
    before, rest = page.split(START)
    after = rest.split(END)[1]
    return with_kits(f"{before}{START}\n" + "\n".join(lines) + f"\n{END}{after}", RESULTS)


def _case(line: str) -> str:
    """The first cell of a row."""
    return line.split("|")[1].strip()


def _figure(value: float, form: str, unit: str = "") -> str:
    return UNKNOWN if math.isnan(value) else f"{value:{form}}{unit}"


def _short(ratio: str) -> str:
    """A ratio to two significant figures, which is as precise as it is."""
    if ratio == UNKNOWN:
        return ratio
    value = float(ratio)
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--kit", type=Path, help="a kit's JSON, to be saved among the results")
    if given := options.parse_args().kit:
        save_kit(given, RESULTS)
    PAGE.write_text(summed_up(PAGE.read_text()))
