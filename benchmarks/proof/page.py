"""The table of a kit's results, in Markdown."""

from __future__ import annotations

from typing import Any

from benchmarks.proof.recorder import DONE, STATE
from benchmarks.proof.results import summary

#: Endings of a row's keys, and the unit that they stand for.
UNITS = {
    "s": "s", "ms": "ms", "gib": "GiB", "mib": "MiB", "tflops": "TFLOP/s", "gbs": "GB/s",
    "share": "%", "nats": "nats",
}  # fmt: skip
EMPTY = ""


def page(results: dict[str, Any], level: int = 1) -> str:
    """The whole page, under a heading of that level."""
    mark = "#" * level
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    lines = [
        f"{mark} {results['title']}",
        "",
        f"`{results['command']}` on {results['device']}; {results['seconds']:.0f} s of at most "
        f"{60 * results['minutes']:.0f} s; {results['started']}.",
        f"opsd {results['opsd']}; {versions}.",
    ]
    if results["tiny"]:
        lines += ["", "**Tiny shapes: they show that the kit works, not how fast anything is.**"]
    for name, section in results["sections"].items():
        lines += ["", f"{mark}# {section['title']}", "", f"`{name}`: {summary(section)}; "
                  f"{section['seconds']:.0f} s of {section['budget_s']:.0f} s."]  # fmt: skip
        lines += ["", *table(section["rows"])] if section["rows"] else []
        broken = [check for check in section["checks"] if not check["holds"]]
        lines += (
            ["", *(f"- **does not hold**: {said(check)}" for check in broken)] if broken else []
        )
        lines += ["", *(f"- {note}" for note in section["notes"])] if section["notes"] else []
    return "\n".join(lines) + "\n"


def said(check: dict[str, Any]) -> str:
    """A check with its numbers."""
    more = ", ".join(f"{key} {figure(value)}" for key, value in check.items()
                     if key not in ("what", "holds"))  # fmt: skip
    return check["what"] + (f" ({more})" if more else "")


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Rows under the columns of all of them, the state last."""
    columns = list(dict.fromkeys(key for row in rows for key in row if key != STATE))
    if any(row.get(STATE, DONE) != DONE for row in rows):
        columns.append(STATE)
    lines = [f"| {' | '.join(heading(key) for key in columns)} |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = (cell(key, row.get(key)) for key in columns)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def heading(key: str) -> str:
    """A column's heading: `step_s` is "step, s"."""
    name, _, unit = key.rpartition("_")
    if name and unit in UNITS:
        return f"{name.replace('_', ' ')}, {UNITS[unit]}"
    return key.replace("_", " ")


def cell(key: str, value: Any) -> str:
    """A value as its column shows it; shares are in per cent."""
    if key.endswith("_share") and isinstance(value, float):
        return f"{100 * value:.1f}"
    return figure(value).replace("|", "\\|")


def figure(value: Any) -> str:
    """A number to four significant figures."""
    if value is None:
        return EMPTY
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)
