"""`report.html` of a training run: the verdict first, then what it rests on.

Everything a model or a data set wrote is escaped: a completion may hold any markup.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from opsd_cli import runs
from opsd_cli.cli.console import count, duration
from opsd_cli.reports.svg import Series, line_chart

REPORT = "report.html"
SAMPLES_SHOWN = 4
STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--dim:#667080;--page:#fff;--card:#f5f7fa;--grid:#dfe4ea;
--one:#0b6bcb;--two:#c2410c;--three:#15803d;--four:#7e22ce}
@media(prefers-color-scheme:dark){:root{--ink:#e6eaf0;--dim:#98a2b3;--page:#12161c;--card:#1b212a;
--grid:#303846;--one:#6cb2ff;--two:#fb923c;--three:#4ade80;--four:#c084fc}}
*{box-sizing:border-box}body{margin:0 auto;max-width:1080px;padding:1.5rem 1rem;color:var(--ink);
background:var(--page);font:16px/1.5 system-ui,sans-serif}h1{font-size:1.35rem;line-height:1.35}
h2{font-size:1.05rem;margin:2rem 0 .5rem}.dim,.legend,.tick{color:var(--dim);fill:var(--dim)}
.grid2{display:grid;gap:1rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr))}
figure{margin:0;padding:.75rem;background:var(--card);border-radius:.5rem}
figcaption{font-weight:600}
svg{width:100%;height:auto;display:block}svg .grid{stroke:var(--grid)}.tick{font-size:12px}
.legend{font-size:.85rem;margin:.25rem 0 0}.legend span{margin-right:1rem}
.legend i{display:inline-block;width:.7em;height:.7em;border-radius:50%;margin-right:.35em}
.scroll{overflow-x:auto}
table{border-collapse:collapse}td,th{padding:.25rem .9rem .25rem 0;text-align:left;
border-bottom:1px solid var(--grid);vertical-align:top}
pre{white-space:pre-wrap;word-break:break-word;
background:var(--card);padding:.75rem;border-radius:.5rem;font-size:.85rem;margin:.25rem 0}
"""


def write_run_report(run_dir: Path) -> Path:
    """Write `report.html` for a run, finished or not; returns its path."""
    page = build_page(run_dir)
    runs.write_whole(run_dir / REPORT, page)
    return run_dir / REPORT


def build_page(run_dir: Path) -> str:
    """The page's HTML."""
    metrics = list(runs.read_rows(run_dir / runs.METRICS))
    evaluations = list(runs.read_rows(run_dir / runs.EVALUATIONS))
    rollouts = list(runs.read_rows(run_dir / runs.ROLLOUTS))
    result_path = run_dir / runs.RESULT
    result = json.loads(result_path.read_text(encoding="utf-8")) if result_path.exists() else None
    config = (run_dir / runs.CONFIG).read_text(encoding="utf-8")
    environment = json.loads((run_dir / runs.ENVIRONMENT).read_text(encoding="utf-8"))
    sections = [
        f"<h1>{escape(verdict(result, metrics))}</h1>",
        accuracy_section(result, evaluations),
        learning_section(metrics),
        monitors_section(metrics),
        tokens_section(metrics),
        rollouts_section(rollouts),
        "<h2>How to run it again</h2>"
        f"<pre>opsd train --config {escape(str(run_dir / runs.CONFIG))} --out NEW_DIRECTORY</pre>",
        f"<details><summary>config.yaml</summary><pre>{escape(config)}</pre></details>",
        "<details><summary>environment</summary><pre>"
        f"{escape(json.dumps(environment, indent=1))}</pre></details>",
    ]
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<title>opsd: {escape(run_dir.name)}</title><style>{STYLE}</style></head><body>"
        + "".join(sections)
        + "</body></html>\n"
    )


def verdict(result: dict[str, Any] | None, metrics: list[dict[str, Any]]) -> str:
    """The run in a sentence."""
    if result is None:
        return f"This run has not finished: {len(metrics)} steps are done."
    base, best = result["accuracy"]["base"], result["accuracy"]["best"]
    return (
        f"Accuracy on unseen test problems went from {_percent(base)} to {_percent(best)} "
        f"(checkpoint of step {result['best_step']}, chosen on validation) with "
        f"{count(result['tokens']['generated'])} generated tokens in "
        f"{duration(result['seconds'])}."
    )


def _percent(estimate: dict[str, float]) -> str:
    return (
        f"{100 * estimate['value']:.1f}% ({100 * estimate['low']:.1f}–{100 * estimate['high']:.1f})"
    )


def _figure(title: str, body: str) -> str:
    return f"<figure><figcaption>{escape(title)}</figcaption>{body}</figure>"


def accuracy_section(result: dict[str, Any] | None, evaluations: list[dict[str, Any]]) -> str:
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
    if result is not None:  # test rows carry the ledger of the moment they were measured
        at = {row["step"]: row["generated"] for row in evaluations if row["split"] == "validation"}
        tests = {row["step"]: row for row in evaluations if row["split"] == "test"}
        chosen = [tests[step] for step in sorted(tests)]
        series[1] = Series(
            "test",
            "var(--two)",
            [(at.get(r["step"], r["generated"]), r["accuracy"]["value"]) for r in chosen],
            [(r["accuracy"]["low"], r["accuracy"]["high"]) for r in chosen],
        )
    chart = line_chart(series, "generated tokens", "accuracy", percent=True)
    table = ""
    if result is not None:
        rows_html = "".join(
            f"<tr><td>{name}<td>{_percent(result['accuracy'][name])}"
            for name in ("base", "best", "final")
        )
        table = f"<div class=scroll><table><tr><th>test<th>accuracy{rows_html}</table></div>"
    return f"<h2>Accuracy</h2>{_figure('accuracy, with 95% intervals', chart)}{table}"


def learning_section(metrics: list[dict[str, Any]]) -> str:
    charts = [
        ("loss", [("loss", "loss")]),
        ("share of training rollouts that are right", [("reward", "right")]),
        ("gradient norm", [("grad_norm", "norm")]),
        ("entropy, nats a token", [("entropy", "student"), ("teacher_entropy", "teacher")]),
    ]
    return _charts("Learning", charts, metrics)


def monitors_section(metrics: list[dict[str, Any]]) -> str:
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
                    if name in row["divergence_by_class"]
                ],
            )
            for index, name in enumerate(classes)
        ],
        "step",
        "divergence",
    )
    extra = _figure("divergence by class of token, nats", by_class)
    return _charts("Signs of collapse", charts, metrics, extra)


def _charts(
    heading: str,
    charts: list[tuple[str, list[tuple[str, str]]]],
    metrics: list[dict[str, Any]],
    extra: str = "",
) -> str:
    colours = ("var(--one)", "var(--two)")
    figures = []
    for title, lines in charts:
        series = [
            Series(name, colour, [(row["step"], row[key]) for row in metrics if key in row])
            for (key, name), colour in zip(lines, colours, strict=False)
        ]
        figures.append(_figure(title, line_chart(series, "step", title)))
    return f"<h2>{escape(heading)}</h2><div class=grid2>{''.join(figures)}{extra}</div>"


def tokens_section(metrics: list[dict[str, Any]]) -> str:
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
        f"highest memory {last['memory_peak'] / 2**30:.2f} GiB.</p>"
    )


def rollouts_section(rollouts: list[dict[str, Any]]) -> str:
    """A few rollouts of the first and of the last step, side by side."""
    if not rollouts:
        return ""
    columns = []
    for step in dict.fromkeys((rollouts[0]["step"], rollouts[-1]["step"])):
        mine = [row for row in rollouts if row["step"] == step][:SAMPLES_SHOWN]
        cards = "".join(
            f"<p class=dim>{escape(row['problem_id'])}: {'right' if row['correct'] else 'wrong'}, "
            f"{row['tokens']} tokens, divergence {row['divergence']:.3f}</p>"
            f"<pre>{escape(row['completion'])}</pre>"
            for row in mine
        )
        columns.append(f"<div><h3>step {step}</h3>{cards}</div>")
    return f"<h2>Rollouts</h2><div class=grid2>{''.join(columns)}</div>"
