"""The sections of a comparison's page on what its plan asked for, and what came of it.

The search over learning rates, the arms that were ended early, and planned beside spent tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from opsd_cli.comparison.choice_words import chosen_on, none_ended_text
from opsd_cli.formatting import count, duration, points, share
from opsd_cli.reports.page import table
from opsd_cli.statistics import Estimate
from opsd_cli.training.totals import TOKEN_KINDS

Summary = Mapping[str, Any]


def tuning_section(summary: Summary) -> str:
    """The learning rates tried by `--tune`, and the one selected for each method."""
    if not summary["tuned"]:
        return (
            "<h2>Learning rates</h2><p>Taken from the config; no search was part of this "
            "comparison (<code>--tune</code> makes one).</p>"
        )
    rows = [
        (
            name,
            ", ".join(
                f"{rate:g}: {share(accuracy)}"
                for rate, accuracy in zip(entry["rates"], entry["validation"], strict=True)
            ),
            f"{entry['chosen']:g}",
            count(entry["generated"]),
            duration(entry["cpu_seconds"]),
        )
        for name, entry in summary["tuned"].items()
    ]
    heads = ("method", "best validation accuracy at each rate", "chosen", "tokens", "CPU")
    return "<h2>The search over learning rates, on validation alone</h2>" + table(heads, rows)


def halving_section(summary: Summary) -> str:
    """Which arms `--halving` ended, when, and what that rests on; empty without it."""
    halving = summary.get("halving")
    if halving is None:
        return ""
    base, cost, spent = halving["base"], halving["planned"], halving["spent"]
    rows: list[Sequence[str]] = [
        (
            label,
            f"step {how['step']} of {how['steps']}",
            share(how["validation"]),
            f"{share(how['than_validation'])}, {how['than']}",
            _points(how["difference"]),
            _points(how["base_difference"]),
            "worse there" if how["worse"] else "not shown to be worse",
        )
        for label, how in halving["ended"].items()
    ]
    heads = (
        "arm", "ended at", "its validation", "vs the last that went on", "difference",
        f"against {base}", "verdict",
    )  # fmt: skip
    said = (
        f"{halving['rounds']} round{'s' * (halving['rounds'] != 1)} on seed {halving['seed']} "
        f"ended {len(rows)} of {len(rows) + len(halving['went_on'])} arms. These verdicts rest on "
        "one seed's validation problems, with 95% intervals over problems; no test problem was "
        "sampled for them."
    )
    if not rows:
        said = none_ended_text(halving)
    kinds = ("generated", "evaluation")
    costs = [
        (
            TOKEN_KINDS[kind][0],
            *(count(number) for number in (spent[kind], cost[kind], cost[f"full_{kind}"])),
        )
        for kind in kinds
    ]
    return (
        f"<h2>Arms that were ended early</h2><p>{escape(said)}</p>"
        + (table(heads, rows) if rows else "")
        + (f"<p class=dim>{escape(chosen_on(halving))}</p>" if rows else "")
        + table(
            ("tokens of all runs", "spent", "planned, at most", "every arm on every seed, at most"),
            costs,
        )
    )


def planned_section(summary: Summary) -> str:
    """Planned tokens of each arm beside those spent; empty where there was no plan."""
    planned = summary.get("planned")
    if not planned:
        return ""
    kinds = list(next(iter(planned.values())))
    rows = [(label, *(_cell(found[kind]) for kind in kinds)) for label, found in planned.items()]
    heads = ("arm, one run", *(TOKEN_KINDS[kind][0] for kind in kinds))
    return (
        "<h2>Planned and spent tokens</h2>"
        + table(heads, rows)
        + "<p class=dim>Spent by the mean run; in brackets what was planned: the estimate, and the "
        "bound that no run exceeds. The bound takes every completion as long as it may get. The "
        "estimate takes the mean length on validation before training. In both every prompt is as "
        "long as the longest.</p>"
    )


def _cell(found: Mapping[str, Any]) -> str:
    estimate = "" if found["estimated"] is None else f"{count(found['estimated'])}; "
    return f"{count(found['spent'])} ({estimate}{count(found['at_most'])})"


def _points(found: Mapping[str, Any]) -> str:
    return points(Estimate(found["value"], found["low"], found["high"]))
