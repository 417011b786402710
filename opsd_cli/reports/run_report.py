"""`report.html` of a training run: the result in a sentence, then curves, metrics and rollouts.

All text from models and data sets is escaped: a completion can contain any markup.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from opsd_cli.files.atomic_write import write_atomic
from opsd_cli.files.json_files import read_object
from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.formatting import count, duration, gibibytes, percent
from opsd_cli.reports.collapse_verdict import collapse_verdict
from opsd_cli.reports.page import figure, html_page
from opsd_cli.reports.svg import Series, line_chart
from opsd_cli.statistics import Estimate
from opsd_cli.training import run_directory
from opsd_cli.training.remarks import remarks

REPORT = "report.html"
#: Rollouts shown of the first and of the last step.
SAMPLES_SHOWN = 4


def write_run_report(run_dir: Path) -> Path:
    """Write `report.html` of a run, finished or not; returns its path."""
    page = build_page(run_dir)
    write_atomic(run_dir / REPORT, page)
    return run_dir / REPORT


def build_page(run_dir: Path) -> str:
    """The HTML of a run's report."""
    metrics = list(read_rows(run_dir / run_directory.METRICS))
    evaluations = list(read_rows(run_dir / run_directory.EVALUATIONS))
    rollouts = list(read_rows(run_dir / run_directory.ROLLOUTS))
    result = run_directory.result_of(run_dir)
    config = (run_dir / run_directory.CONFIG).read_text(encoding="utf-8")
    environment = read_object(run_dir / run_directory.ENVIRONMENT) or {"lost": "not known any more"}
    sections = [
        f"<h1>{escape(verdict(result, metrics))}</h1>",
        *(
            f"<p class=remark>{escape(sentence[0].upper() + sentence[1:])}.</p>"
            for sentence in remarks(metrics, evaluations)
        ),
        accuracy_section(result, evaluations),
        learning_section(metrics),
        collapse_section(metrics),
        tokens_section(metrics),
        rollouts_section(rollouts),
        "<h2>How to run it again</h2>"
        f"<pre>opsd train --config {escape(str(run_dir / run_directory.CONFIG))} "
        "--out NEW_DIRECTORY</pre>",
        f"<details><summary>config.yaml</summary><pre>{escape(config)}</pre></details>",
        "<details><summary>environment</summary><pre>"
        f"{escape(json.dumps(environment, indent=1))}</pre></details>",
    ]
    return html_page(f"opsd: {run_dir.name}", sections)


def verdict(result: dict[str, Any] | None, metrics: list[dict[str, Any]]) -> str:
    """The run's result in a sentence; `metrics` are the rows of metrics.jsonl."""
    if result is None:
        return f"This run has not finished: {len(metrics)} steps are done."
    base, best = (percent(Estimate(**result["accuracy"][name])) for name in ("base", "best"))
    return (
        f"Accuracy on unseen test problems went from {base} to {best} "
        f"(checkpoint of step {result['best_step']}, chosen on validation) with "
        f"{count(result['tokens']['generated'])} generated tokens in "
        f"{duration(result['seconds'])}."
    )


def accuracy_section(result: dict[str, Any] | None, evaluations: list[dict[str, Any]]) -> str:
    """Accuracy of both splits against generated tokens, and the table of test accuracies."""
    series = []
    for split, colour in (("validation", "var(--one)"), ("test", "var(--two)")):
        rows = sorted((r for r in evaluations if r["split"] == split), key=lambda r: r["step"])
        best = [index for index, row in enumerate(rows) if row["best"]]
        series.append(
            Series(
                split,
                colour,
                [(row["generated"], row["accuracy"]["value"]) for row in rows],
                [(row["accuracy"]["low"], row["accuracy"]["high"]) for row in rows],
                marked=best[-1] if best else None,
            )
        )
    chart = line_chart(series, "generated tokens", "accuracy", percent=True)
    table = ""
    if result is not None:
        flexible = result.get("flexible_accuracy")
        rows_html = "".join(
            f"<tr><td>{name}<td>{percent(Estimate(**result['accuracy'][name]))}"
            + (f"<td>{percent(Estimate(**flexible[name]))}" if flexible else "")
            for name in ("base", "best", "final")
        )
        head = "<tr><th>test<th>accuracy" + ("<th>with flexible extraction" if flexible else "")
        table = f"<div class=scroll><table>{head}{rows_html}</table></div>"
    return f"<h2>Accuracy</h2>{figure('accuracy, with 95% intervals', chart)}{table}"


def learning_section(metrics: list[dict[str, Any]]) -> str:
    """Loss, reward, gradient norm and entropy by step."""
    charts = [
        ("loss", [("loss", "loss")]),
        ("share of training rollouts that are right", [("reward", "right")]),
        ("gradient norm", [("grad_norm", "norm")]),
        ("entropy, nats a token", [("entropy", "student"), ("teacher_entropy", "teacher")]),
    ]
    return _charts("Learning", charts, metrics)


def collapse_section(metrics: list[dict[str, Any]]) -> str:
    """Collapse metrics and divergence by class of token, by step, and the verdict on them."""
    charts = [
        ("completion length, tokens", [("completion_tokens", "mean")]),
        ("share of completions cut at the limit", [("truncated", "truncated")]),
        ("hedging words per 100 words", [("hedges_per_100_words", "hedges")]),
        ("share of the completion copied from the reference", [("copied", "copied")]),
        ("share of tokens clipped", [("clipped", "clipped")]),
    ]
    classes = sorted({name for row in metrics for name in row.get("divergence_by_class", {})})
    colours = (
        "var(--one)",
        "var(--two)",
        "var(--three)",
        "var(--four)",
        "var(--dim)",
        "var(--ink)",
    )
    by_class = line_chart(
        [
            Series(
                name,
                colours[index % len(colours)],
                [
                    (row["step"], row["divergence_by_class"][name])
                    for row in metrics
                    if name in row.get("divergence_by_class", {})
                ],
            )
            for index, name in enumerate(classes)
        ],
        "step",
        "divergence",
    )
    extra = figure("divergence by class of token, nats", by_class)
    return _charts("Signs of collapse", charts, metrics, extra) + collapse_verdict(metrics)


def _charts(
    heading: str,
    charts: list[tuple[str, list[tuple[str, str]]]],
    metrics: list[dict[str, Any]],
    extra: str = "",
) -> str:
    """A section of line charts by step.

    Args:
        charts: (title, lines) of each chart; a line is (key of metrics.jsonl, label).
        extra: further figures, as HTML.
    """
    colours = ("var(--one)", "var(--two)")
    figures = []
    for title, lines in charts:
        series = [
            Series(
                name,
                colour,
                [(row["step"], row[key]) for row in metrics if row.get(key) is not None],
            )
            for (key, name), colour in zip(lines, colours, strict=False)
        ]
        figures.append(figure(title, line_chart(series, "step", title)))
    return f"<h2>{escape(heading)}</h2><div class=grid2>{''.join(figures)}{extra}</div>"


def tokens_section(metrics: list[dict[str, Any]]) -> str:
    """The token ledger, time and memory at the last step."""
    if not metrics:
        return ""
    last = metrics[-1]
    rows = "".join(
        f"<tr><td>{escape(kind.replace('_', ' '))}<td>{number:,}"
        for kind, number in last["ledger"].items()
    )
    return (
        f"<h2>Tokens</h2><div class=scroll><table><tr><th>kind<th>count{rows}</table></div>"
        f"<p class=dim>{duration(last['seconds'])} in all, {duration(last['cpu_seconds'])} of CPU; "
        f"highest memory {gibibytes(last['memory_peak'])}.</p>"
    )


def _divergence(row: dict[str, Any]) -> str:
    value = row.get("divergence")
    return "" if value is None else f", divergence {value:.3f}"


def rollouts_section(rollouts: list[dict[str, Any]]) -> str:
    """Rollouts of the first and of the last step in two columns."""
    if not rollouts:
        return ""
    columns = []
    for step in dict.fromkeys((rollouts[0]["step"], rollouts[-1]["step"])):
        mine = [row for row in rollouts if row["step"] == step][:SAMPLES_SHOWN]
        cards = "".join(
            f"<p class=dim>{escape(row['problem_id'])}: {'right' if row['correct'] else 'wrong'}, "
            f"{row['tokens']} tokens{_divergence(row)}</p>"
            f"<pre>{escape(row['completion'])}</pre>"
            for row in mine
        )
        columns.append(f"<div><h3>step {step}</h3>{cards}</div>")
    return f"<h2>Rollouts</h2><div class=grid2>{''.join(columns)}</div>"
