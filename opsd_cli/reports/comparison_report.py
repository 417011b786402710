"""`report.html` of a comparison: result, learning curves, ratios, tokens, rollouts.

All text from models and data sets is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsd_cli.comparison.common_rows import sentence
from opsd_cli.comparison.curves import COSTS
from opsd_cli.comparison.verdict import (
    generates_nothing,
    ratio_of,
    tokens_needed,
    tokens_spent,
    verdict,
)
from opsd_cli.files.atomic_write import write_atomic
from opsd_cli.files.json_files import read_object
from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.formatting import count, duration, numbered, percent, score_change, share, signed
from opsd_cli.reports.chart import Series, line_chart
from opsd_cli.reports.choices_section import choices_section
from opsd_cli.reports.collapse_verdict import collapse_verdict
from opsd_cli.reports.page import figure, folded, html_page, named_model, table
from opsd_cli.reports.plan_sections import halving_section, planned_section, tuning_section
from opsd_cli.reports.run_report import COLOURS, REPORT
from opsd_cli.reports.scales import linear_until
from opsd_cli.statistics import Estimate
from opsd_cli.training import run_directory
from opsd_cli.training.totals import TIME_KINDS, TOKEN_KINDS

if TYPE_CHECKING:
    from opsd_cli.comparison.curves import Curve

#: Keys of metrics.jsonl that are drawn, with their titles.
COLLAPSE_METRICS = {
    "reward": "share of training rollouts that are right",
    "completion_tokens": "completion length, tokens",
    "entropy": "student's entropy, nats a token",
    "truncated": "share of completions cut at the limit",
    "hedges_per_100_words": "hedging words per 100 words",
    "copied": "share of the completion copied from the reference",
    "zero_variance_groups": "share of groups all right or all wrong",
    "siblings_missing": "share of rollouts without a right sibling",
    "feedback_missing": "share of rollouts without feedback",
    "learnt_share": "share of the rollouts that are learnt from",
    "grad_norm": "gradient norm",
}
#: Those that are shares, from 0 to 1.
SHARES = {
    "reward", "truncated", "copied", "zero_variance_groups", "siblings_missing",
    "feedback_missing", "learnt_share",
}  # fmt: skip
#: Colour scale of tokens: (upper edge in nats, share of colour in percent).
SHADES = ((0.01, 0), (0.05, 18), (0.2, 36), (0.5, 58), (float("inf"), 85))

Summary = Mapping[str, Any]
Groups = Mapping[str, Sequence["Curve"]]


def write_comparison_report(
    summary: Summary, groups: Groups, samples: Mapping[str, list[dict[str, Any]]], directory: Path
) -> Path:
    """Write the report.

    Args:
        summary: as `opsd_cli.comparison.summary.summarise` returns it.
        groups: the compared curves by method.
        samples: by method, completions of the same validation problems.
        directory: where to write.

    Returns:
        The path of `report.html`.
    """
    sections = [
        f"<h1>{escape(verdict(summary))}</h1>",
        f"<p class=dim>{escape(what_was_compared(summary, groups))}</p>",
        choices_section(summary),
        halving_section(summary),
        curves_section(summary),
        methods_section(summary),
        efficiency_section(summary),
        differences_section(summary),
        tokens_section(summary),
        planned_section(summary),
        tuning_section(summary),
        collapse_section(summary, groups),
        samples_section(samples),
        reproduction_section(summary, groups),
    ]
    path = directory / REPORT
    write_atomic(path, html_page(f"opsd compare: {directory.name}", sections))
    return path


def what_was_compared(summary: Summary, groups: Groups) -> str:
    """Model, methods, seeds, test problems, target and excluded runs, in sentences."""
    model = named_model(next(iter(groups.values()))[0].config.model).removeprefix("the model ")
    seeds = (
        f"seed{'s' if len(summary['seeds']) > 1 else ''} {', '.join(map(str, summary['seeds']))}"
    )
    left = "".join(f" Left out: {path}, {why}." for path, why in summary["left_out"].items())
    what = "arms" if "choices" in summary else "methods"
    rows = f" {sentence(summary['common_rows'])}" if "common_rows" in summary else ""
    return (
        f"Model: {model}. {len(summary['methods'])} {what}, "
        f"{seeds}, "
        f"{numbered(summary['test_problems'], 'test problem')}, which chose nothing. The target is "
        f"{summary['target_from']}. Intervals: paired bootstrap over seeds and problems."
        f"{rows}{left}"
    )


def curves_section(summary: Summary) -> str:
    """Learning curves with 95% bands, one chart per kind of cost."""
    figures, methods = [], summary["methods"]
    for cost, title in COSTS.items():
        series = [
            Series(
                name,
                colour,
                list(zip(entry["curve"]["cost"][cost], entry["curve"]["accuracy"], strict=True)),
                [tuple(edges) for edges in entry["curve"]["band"]],
            )
            for (name, entry), colour in zip(methods.items(), cycle(COLOURS), strict=False)
        ]
        chart = line_chart(
            series,
            title,
            "accuracy",
            percent=True,
            level=summary["target_accuracy"],
            bend=linear_until([[x for x, _ in line.points] for line in series]),
        )
        figures.append(figure(f"accuracy against {title}", chart))
    return (
        f"<h2>Accuracy against what it cost</h2>{figures[0]}"
        f"<div class=grid2 style='margin-top:1rem'>{''.join(figures[1:])}</div>"
    )


def methods_section(summary: Summary) -> str:
    """A table with each method's accuracies, tokens and settings."""
    target = share(summary["target_accuracy"])
    rows = [
        (
            name,
            share(entry["base_accuracy"]),
            percent(Estimate(**entry["accuracy"])),
            share(entry["best"]),
            tokens_needed(summary, name),
            tokens_spent(summary, name),
            f"{entry['learning_rate']:g}",
            f"{entry['steps']} × {entry['questions_per_step']}",
        )
        for name, entry in summary["methods"].items()
    ]  # fmt: skip
    heads = (
        "method", "base", "checkpoint chosen on validation", "best of the curve",
        f"tokens to {target}", "tokens generated", "learning rate", "steps × questions",
    )  # fmt: skip
    return (
        "<h2>Methods</h2>"
        + table(heads, rows)
        + "<p class=dim>Intervals of this table: bootstrap over seeds and problems.</p>"
    )


def efficiency_section(summary: Summary) -> str:
    """The ratio of the two methods' costs at the target, for each kind of cost."""
    headline = summary["token_efficiency"]
    found = {title: ratio_of(summary, cost) for cost, title in COSTS.items()}
    rows = [(title, *ratio) for title, ratio in found.items() if ratio is not None]
    left = "; ".join(title for title, ratio in found.items() if ratio is None)
    why = f"Without a ratio, because a method spends none of it: {left}."
    if not rows:
        why = "There is no ratio; the headline says why."
    return (
        f"<h2>How many times less {escape(headline['better'])} spends than "
        f"{escape(headline['than'])} for the same accuracy</h2>"
        + (table(("counted", "ratio", "95% interval"), rows) if rows else "")
        + (f"<p class=dim>{escape(why)}</p>" if left else "")
    )


def differences_section(summary: Summary) -> str:
    """Paired differences of best accuracy, for each pair of methods."""
    scored = all("mean_score" in d for d in summary["differences"])
    rows = [
        (f"{d['one']} less {d['other']}", f"{signed(d['value'])} points",
         f"{signed(d['low'])} to {signed(d['high'])}",
         *([score_change(d["mean_score"])] if scored else []))
        for d in summary["differences"]
    ]  # fmt: skip
    heads = ("", "difference", "95% interval", *(["mean score, chosen checkpoints"] * scored))
    return "<h2>Best accuracy, paired differences</h2>" + table(heads, rows)


def tokens_section(summary: Summary) -> str:
    """Mean token counts and CPU time of each method's runs."""
    methods = summary["methods"]
    kinds = list(next(iter(methods.values()))["tokens"])
    rows = [
        (name, *(count(entry["tokens"][kind]) for kind in kinds),
         duration(entry["spent"]["cpu_seconds"]))
        for name, entry in methods.items()
    ]  # fmt: skip
    named = [TOKEN_KINDS.get(kind, (kind, ""))[0] for kind in kinds]
    heads = ("method, mean of its runs", *named, TIME_KINDS["training_cpu_seconds"][0])
    return "<h2>Tokens and time</h2>" + table(heads, rows)


def collapse_section(summary: Summary, groups: Groups) -> str:
    """Collapse metrics of each method's first run, against generated tokens, and the verdicts."""
    metrics = {
        name: list(read_rows(curves[0].directory / run_directory.METRICS))
        for name, curves in groups.items()
    }
    idle = [name for name in groups if generates_nothing(summary, name)]
    note = f" Not drawn, because it generates no tokens: {', '.join(idle)}." if idle else ""
    figures = []
    for key, title in COLLAPSE_METRICS.items():
        series = [
            Series(
                name,
                colour,
                [
                    (row["ledger"]["generated"], row[key])
                    for row in rows
                    if row.get(key) is not None
                ],
            )
            for (name, rows), colour in zip(metrics.items(), cycle(COLOURS), strict=False)
            if name not in idle
        ]
        series = [line for line in series if line.points]
        if series:
            figures.append(
                figure(title, line_chart(series, "tokens generated", title, key in SHARES))
            )
    verdicts = [
        f"<h3>{escape(name)}</h3>"
        + collapse_verdict(
            rows, list(read_rows(groups[name][0].directory / run_directory.EVALUATIONS))
        )
        for name, rows in metrics.items()
    ]
    return (
        "<h2>Signs of collapse</h2><p class=dim>Each method's first seed."
        f"{escape(note)}</p>"
        f"<div class=grid2>{''.join(figures)}</div>{''.join(verdicts)}"
    )


def samples_section(samples: Mapping[str, list[dict[str, Any]]]) -> str:
    """Completions of the same problems by each method's model, shaded by divergence per token."""
    if not samples:
        return ""
    names = list(samples)
    problems = list(dict.fromkeys(entry["problem_id"] for entry in samples[names[0]]))
    parts = []
    for problem in problems:
        cards = []
        for name in names:
            entry = next((e for e in samples[name] if e["problem_id"] == problem), None)
            if entry is not None:
                cards.append(
                    f"<div><p class=dim>{escape(name)}: {escape(str(entry['status']))}, "
                    f"{entry['tokens']} tokens</p><pre>{_shaded(entry)}</pre>"
                    + "".join(
                        folded(f"{role}'s prompt as sent", text)
                        for role, text in entry.get("prompts", {}).items()
                    )
                    + "</div>"
                )
        parts.append(f"<h3>{escape(problem)}</h3><div class=grid2>{''.join(cards)}</div>")
    return (
        "<h2>Rollouts on validation problems</h2><p class=dim>Shaded by how far the trained model, "
        "shown the reference, would still answer differently: "
        + " ".join(
            f"<span style='{_shade(share)}'>{'above' if edge == float('inf') else 'to'} "
            f"{low if edge == float('inf') else edge:g}</span>"
            for (edge, share), low in zip(SHADES, (0.0, 0.01, 0.05, 0.2, 0.5), strict=True)
        )
        + " nats.</p>"
        + "".join(parts)
    )


def _shaded(entry: Mapping[str, Any]) -> str:
    found = entry.get("divergence")
    if not found:
        return escape(entry["completion"])
    parts = []
    for token in found["tokens"]:
        share = next(share for edge, share in SHADES if token["value"] <= edge)
        text = escape(token["text"])
        title = f"{token['value']:.3f} nats"
        parts.append(f"<span style='{_shade(share)}' title='{title}'>{text}</span>")
    return "".join(parts)


def _shade(share: int) -> str:
    if not share:
        return ""
    return f"background:color-mix(in srgb,var(--two) {share}%,transparent)"


def reproduction_section(summary: Summary, groups: Groups) -> str:
    """Commands, configs and environment that reproduce the comparison."""
    parts = ["<h2>Exactly what ran</h2>"]
    first = next(iter(groups.values()))[0]
    environment = read_object(first.directory / run_directory.ENVIRONMENT) or {}
    parts.append(
        "<p>Train any of these runs again: <code>opsd train --config RUN/config.yaml --out NEW"
        "</code>; compare them again: <code>opsd compare "
        + " ".join(escape(run) for e in summary["methods"].values() for run in e["runs"])
        + "</code></p>"
    )
    for name, curves in groups.items():
        config = (curves[0].directory / run_directory.CONFIG).read_text(encoding="utf-8")
        parts.append(
            f"<details><summary>{escape(name)}: config.yaml (seed {curves[0].seed})</summary>"
            f"<pre>{escape(config)}</pre></details>"
        )
    parts.append(
        "<details><summary>environment</summary><pre>"
        f"{escape(json.dumps(environment, indent=1))}</pre></details>"
    )
    return "".join(parts)
