"""`report.html` of a training run: the result in a sentence, then curves, metrics and rollouts.

All text from models and data sets is escaped: a completion can contain any markup.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from opsd_cli.files.atomic_write import write_atomic
from opsd_cli.files.directory_lock import lock_holder
from opsd_cli.files.json_files import read_object
from opsd_cli.files.jsonl_log import read_rows
from opsd_cli.formatting import count, duration, gibibytes, numbered, percent
from opsd_cli.reports.chart import Series, line_chart
from opsd_cli.reports.collapse_verdict import collapse_verdict
from opsd_cli.reports.held_out_section import held_out_section, held_out_verdict, ungraded
from opsd_cli.reports.page import figure, folded, html_page, model_name, table
from opsd_cli.statistics import Estimate
from opsd_cli.training import run_directory
from opsd_cli.training.remarks import remarks
from opsd_cli.training.totals import TIME_KINDS, TOKEN_KINDS, Totals, totals_of

REPORT = "report.html"
#: Rollouts shown of the first and of the last step.
SAMPLES_SHOWN = 4
COLOURS = ("var(--one)", "var(--two)", "var(--three)", "var(--four)", "var(--dim)", "var(--ink)")


def write_run_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write `report.html` of a run, finished or not; returns its path.

    Args:
        out: the directory to write to; by default the run's.
    """
    path = (out or run_dir) / REPORT
    page = build_page(run_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, page)
    return path


def build_page(run_dir: Path) -> str:
    """The HTML of a run's report."""
    metrics = list(read_rows(run_dir / run_directory.METRICS))
    evaluations = list(read_rows(run_dir / run_directory.EVALUATIONS))
    rollouts = list(read_rows(run_dir / run_directory.ROLLOUTS))
    preflight = read_object(run_dir / run_directory.PREFLIGHT)
    result = run_directory.result_of(run_dir)
    config = (run_dir / run_directory.CONFIG).read_text(encoding="utf-8")
    environment = read_object(run_dir / run_directory.ENVIRONMENT) or {"lost": "not known any more"}
    model = model_name(config)
    sections = [
        f"<h1>{escape(verdict(result, metrics, model))}</h1>",
        *(f"<p class=remark>{escape(text)}</p>" for text in _state(result, run_dir)),
        *(
            f"<p class=remark>{escape(sentence[0].upper() + sentence[1:])}.</p>"
            for sentence in remarks(metrics, evaluations)
        ),
        (held_out_section if ungraded(evaluations) else accuracy_section)(result, evaluations),
        learning_section(metrics),
        collapse_section(metrics, evaluations),
        totals_section(totals_of(result, metrics, evaluations, preflight), result is not None),
        rollouts_section(rollouts),
        "<h2>How to run it again</h2>"
        f"<pre>opsd train --config {escape(str(run_dir / run_directory.CONFIG))} "
        "--out NEW_DIRECTORY</pre>",
        folded("config.yaml", config),
        folded("environment", json.dumps(environment, indent=1)),
    ]
    return html_page(f"opsd: {run_dir.name}", sections)


def verdict(
    result: dict[str, Any] | None, metrics: list[dict[str, Any]], model: str = "the model"
) -> str:
    """The run's result in a sentence; `metrics` are the rows of metrics.jsonl."""
    if result is None:
        whole = metrics[-1].get("steps") if metrics else None
        done = numbered(len(metrics), "step")
        if whole:
            done = f"{len(metrics)} of {numbered(whole, 'step')}"
        done += " is done" if len(metrics) == 1 else " are done"
        return f"Training of {model} has not finished: {done}."
    if not result["accuracy"]:
        return held_out_verdict(result, metrics, model)
    base, best, final = (
        percent(Estimate(**result["accuracy"][name])) for name in ("base", "best", "final")
    )
    spent = (
        f"{count(result['tokens']['generated'])} generated tokens in {duration(result['seconds'])}"
    )
    if result["best_step"] == 0 and metrics:
        return (
            f"Nothing learnt: no step made {model} better on validation than before training. "
            f"Its accuracy on unseen test problems was {base} before and {final} after the last "
            f"step; the run took {spent}."
        )
    return (
        f"The accuracy of {model} on unseen test problems went from {base} to {best} "
        f"(checkpoint of step {result['best_step']}, chosen on validation) with {spent}."
    )


def _state(result: dict[str, Any] | None, run_dir: Path) -> list[str]:
    """Whether an unfinished run is at work or interrupted."""
    if result is not None:
        return []
    holder = lock_holder(run_dir)
    if holder is not None:
        return [f"At the time of this page the run was at work ({holder})."]
    return [
        "The run was interrupted. Everything below is of the steps so far. Go on with it: "
        f"opsd train --resume --out {run_dir}"
    ]


def accuracy_section(result: dict[str, Any] | None, evaluations: list[dict[str, Any]]) -> str:
    """Accuracy of both splits against generated tokens, and the table of test accuracies.

    Test accuracy is joined by a line only where it was measured as often as validation: otherwise
    it has no value between base and the end.
    """
    splits = {
        split: sorted((r for r in evaluations if r["split"] == split), key=lambda r: r["step"])
        for split in ("validation", "test")
    }
    validated = {row["step"] for row in splits["validation"]}
    series = []
    for (split, rows), colour in zip(splits.items(), COLOURS, strict=False):
        best = [index for index, row in enumerate(rows) if row["best"]]
        often = len(rows) > 2 and {row["step"] for row in rows} >= validated
        series.append(
            Series(
                split,
                colour,
                [(row["generated"], row["accuracy"]["value"]) for row in rows],
                [(row["accuracy"]["low"], row["accuracy"]["high"]) for row in rows],
                marked=best[-1] if best else None,
                joined=split == "validation" or often,
            )
        )
    chart = line_chart(series, "generated tokens", "accuracy", percent=True)
    results = ""
    if result is not None:
        step = {"best": f" (step {result['best_step']})", "final": f" (step {result['steps']})"}
        flexible = result.get("flexible_accuracy")
        heads = ["on the test split", "accuracy (95% interval)"]
        heads += ["with flexible extraction"] if flexible else []
        rows_of_test = [
            (name + step.get(name, ""), percent(Estimate(**result["accuracy"][name])))
            + ((percent(Estimate(**flexible[name])),) if flexible else ())
            for name in ("base", "best", "final")
        ]
        results = table(tuple(heads), rows_of_test) + _watched(result, step)
    return f"<h2>Accuracy</h2>{figure('accuracy, with 95% intervals', chart)}{results}"


def _watched(result: dict[str, Any], step: dict[str, str]) -> str:
    """The table of accuracies on the watch set; empty where the run has none."""
    watched = result.get("watch_accuracy")
    if not watched:
        return ""
    rows = [
        (name + step.get(name, ""), percent(Estimate(**watched[name])))
        for name in ("base", "best", "final")
    ]
    return (
        "<p>The watch set has problems of another kind and decides nothing: a fall there is what "
        "the training cost.</p>" + table(("on the watch set", "accuracy (95% interval)"), rows)
    )


def learning_section(metrics: list[dict[str, Any]]) -> str:
    """Loss, reward, gradient norm and entropy by step."""
    verdicts = not any("correct" in row for row in metrics)  # else the grader gives numbers
    reward = "share of training rollouts that are right"
    reward = reward if verdicts else "mean score of training rollouts"
    graded = not metrics or any(row.get("reward") is not None for row in metrics)
    charts = [
        ("loss", [("loss", "loss")], False),
        *([(reward, [("reward", "right" if verdicts else "score")], verdicts)] if graded else []),
        ("gradient norm", [("grad_norm", "norm")], False),
        ("entropy, nats a token", [("entropy", "student"), ("teacher_entropy", "teacher")], False),
    ]
    return _charts("Learning", charts, metrics)


def collapse_section(metrics: list[dict[str, Any]], evaluations: list[dict[str, Any]]) -> str:
    """Collapse metrics and divergence by class of token, by step, and the verdict on them."""
    charts = [
        ("completion length, tokens", [("completion_tokens", "mean")], False),
        ("share of completions cut at the limit", [("truncated", "truncated")], True),
        ("hedging words per 100 words", [("hedges_per_100_words", "hedges")], False),
        ("share of the completion copied from the reference", [("copied", "copied")], True),
        ("share of tokens clipped", [("clipped", "clipped")], True),
    ]
    classes = sorted({name for row in metrics for name in row.get("divergence_by_class", {})})
    by_class = line_chart(
        [
            Series(
                name,
                COLOURS[index % len(COLOURS)],
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
    verdict = collapse_verdict(metrics, evaluations)
    return _charts("Signs of collapse", charts, metrics, extra) + verdict


def _charts(
    heading: str,
    charts: list[tuple[str, list[tuple[str, str]], bool]],
    metrics: list[dict[str, Any]],
    extra: str = "",
) -> str:
    """A section of line charts by step.

    Args:
        charts: (title, lines, whether they are shares) of each chart; a line is (key of
            metrics.jsonl, label).
        extra: further figures, as HTML.
    """
    figures = []
    for title, lines, shares in charts:
        series = [
            Series(
                name,
                colour,
                [(row["step"], row[key]) for row in metrics if row.get(key) is not None],
            )
            for (key, name), colour in zip(lines, COLOURS, strict=False)
        ]
        figures.append(figure(title, line_chart(series, "step", title, percent=shares)))
    return f"<h2>{escape(heading)}</h2><div class=grid2>{''.join(figures)}{extra}</div>"


def totals_section(totals: Totals, finished: bool) -> str:
    """The run's tokens, times and memory, and what each contains."""
    if not totals.tokens:
        return ""
    rows = [(*_named(TOKEN_KINDS, kind), f"{number:,}") for kind, number in totals.tokens.items()]
    rows += [(*_named(TIME_KINDS, kind), duration(value)) for kind, value in totals.times.items()]
    if totals.memory_peak is not None:
        what = "the highest of the process, or of the device"
        rows.append(("memory", what, gibibytes(totals.memory_peak)))
    whole = (
        "Of the whole run, in every process that worked on it, as in result.json."
        if finished
        else "Of the run so far, in every process that worked on it."
    )
    found = table(("", "what it contains", "total"), [(a, b, c) for a, b, c in rows])
    return f"<h2>Totals</h2><p class=dim>{whole}</p>{found}"


def _named(kinds: dict[str, tuple[str, str]], kind: str) -> tuple[str, str]:
    """The name of a total for people, and what it contains."""
    return kinds.get(kind, (kind.replace("_", " "), ""))


def _divergence(row: dict[str, Any]) -> str:
    value = row.get("divergence")
    return "" if value is None else f", divergence {value:.3f} nats a token"


def rollouts_section(rollouts: list[dict[str, Any]]) -> str:
    """Rollouts of the first and of the last step in two columns, with the prompts as sent."""
    if not rollouts:
        return ""
    columns = []
    for step in dict.fromkeys((rollouts[0]["step"], rollouts[-1]["step"])):
        mine = [row for row in rollouts if row["step"] == step]
        prompts = {row["problem_id"]: row for row in mine if "prompt" in row}
        cards = "".join(
            f"<p class=dim>{escape(row['problem_id'])}: {_verdict_of(row)}"
            f"{row['tokens']} tokens{_divergence(row)}</p>"
            f"<pre>{escape(row['completion'])}</pre>"
            f"{_prompts(prompts.get(row['problem_id'], {}), row)}"
            for row in mine[:SAMPLES_SHOWN]
        )
        columns.append(f"<div><h3>step {step}</h3>{cards}</div>")
    return f"<h2>Rollouts</h2><div class=grid2>{''.join(columns)}</div>"


def _verdict_of(row: dict[str, Any]) -> str:
    """Whether a rollout is right, in words; empty where nothing is graded."""
    return "" if row["correct"] is None else "right, " if row["correct"] else "wrong, "


def _prompts(first: dict[str, Any], row: dict[str, Any]) -> str:
    """The prompts of a rollout as they were sent, folded; empty for an older run.

    Args:
        first: the first rollout of its question, which has the prompts that all of them share.
    """
    titles = {
        "prompt": "prompt as sent",
        "teacher_prompt": "the teacher's prompt as sent",
        "contrast_prompt": "the teacher's prompt with the wrong reference as sent",
    }
    sent = {title: row.get(key, first.get(key)) for key, title in titles.items()}
    return "".join(folded(title, text) for title, text in sent.items() if text)
