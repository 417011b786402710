"""What the page of a run shows where nothing is graded: divergence and likelihood, not accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opsd_cli.formatting import count, duration, nats
from opsd_cli.reports.chart import Series, line_chart
from opsd_cli.reports.page import figure, table
from opsd_cli.statistics import Estimate

#: Key of rows and results -> its name on the page, and what its direction says.
MEASURES = {
    "divergence": ("divergence from the teacher", "lower is nearer to the teacher"),
    "reference_log_prob": (
        "log-probability of the solutions", "higher is nearer to their own words",
    ),
}  # fmt: skip
COLOURS = {"validation": "var(--one)", "test": "var(--two)"}


def ungraded(evaluations: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the rows of evaluations.jsonl are of a run in which nothing is graded."""
    return any(row["accuracy"] is None for row in evaluations)


def measures_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys of `MEASURES` that any of the rows has; of a result, the row is the result."""
    return [key for key in MEASURES if any(row.get(key) for row in rows)]


def held_out_verdict(
    result: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], model: str
) -> str:
    """The result of a finished run in a sentence."""
    spent = (
        f"{count(result['tokens']['generated'])} generated tokens in {duration(result['seconds'])}"
    )
    if result["best_step"] == 0 and metrics:
        return (
            f"Nothing learnt that can be shown: no step of {model} was better on validation than "
            f"before training; nothing is graded. The run took {spent}."
        )
    changes = [
        f"the {MEASURES[key][0]} went from {_value(result[key]['base'])} to "
        f"{_value(result[key]['best'])}"
        for key in measures_of([result])
    ]
    where = f"checkpoint of step {result['best_step']}, chosen on validation"
    if not changes:
        return f"Trained {model} ({where}) with {spent}; the test split has nothing to measure by."
    return (
        f"On unseen test problems of {model}, {' and '.join(changes)} nats a token ({where}) with "
        f"{spent}. Nothing is graded."
    )


def _value(estimate: Mapping[str, float]) -> str:
    value = estimate["value"]
    return nats(Estimate(value, value, value))


def held_out_section(
    result: Mapping[str, Any] | None, evaluations: Sequence[dict[str, Any]]
) -> str:
    """A chart of each measure against generated tokens, and the table of the test split."""
    figures = []
    keys = measures_of(evaluations)
    chosen = (
        "The best checkpoint has the lowest divergence on validation. Divergences of two runs "
        "compare only if divergence and teacher are the same in both."
        if "divergence" in keys
        else "The best checkpoint has the highest log-probability of the solutions on validation."
    )
    for key in keys:
        name, better = MEASURES[key]
        series = [_series(key, split, evaluations) for split in COLOURS]
        chart = line_chart([each for each in series if each.points], "generated tokens", name)
        figures.append(figure(f"{name}, nats a token, with 95% intervals; {better}", chart))
    tables = ""
    if result is not None:
        watched = {key: result.get(f"watch_{key}") for key in MEASURES}
        tables = _table("test split", result, result) + _table("watch set", watched, result)
    return (
        "<h2>Held-out measures</h2><p>Nothing is graded in this run, so there is no accuracy. "
        f"{chosen}</p>"
        f"<div class=grid2>{''.join(figures)}</div>{tables}"
    )


def _series(key: str, split: str, evaluations: Sequence[dict[str, Any]]) -> Series:
    rows = sorted(
        (row for row in evaluations if row["split"] == split and row.get(key)),
        key=lambda row: row["step"],
    )
    best = [place for place, row in enumerate(rows) if row["best"]]
    return Series(
        split,
        COLOURS[split],
        [(row["generated"], row[key]["value"]) for row in rows],
        [(row[key]["low"], row[key]["high"]) for row in rows],
        marked=best[-1] if best else None,
        joined=split == "validation" or len(rows) > 3,
    )


def _table(where: str, found: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """The measures of base, best and final; empty if there are none."""
    keys = measures_of([found])
    if not keys:
        return ""
    step = {"best": f" (step {result['best_step']})", "final": f" (step {result['steps']})"}
    rows = [
        (label + step.get(label, ""), *(nats(Estimate(**found[key][label])) for key in keys))
        for label in ("base", "best", "final")
    ]
    heads = tuple(f"{MEASURES[key][0]}, nats a token (95% interval)" for key in keys)
    return table((f"on the {where}", *heads), rows)
