"""The section "Which choice helped" of a comparison's page: picture, verdicts and all outcomes.

The picture has a row for each arm: a dot at its difference to the base arm, and a line for the 95%
interval. It is HTML with places in percent, so that it fits wide and narrow windows, and its
colours are the page's own in both schemes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from opsd_cli.comparison.choice_words import (
    base_text,
    caution,
    difference_text,
    headline,
    only_choices,
    others,
    verdict_text,
)
from opsd_cli.comparison.choices import HELPED, HURT, UNKNOWN
from opsd_cli.comparison.variants import change_text
from opsd_cli.formatting import count, percent, points, score, score_change, signed
from opsd_cli.reports.page import figure, table
from opsd_cli.reports.scales import nice_ticks
from opsd_cli.statistics import Estimate

#: What the intervals of the verdicts are: those of the other tables of the page are bootstrapped.
ESTIMATOR = (
    "Intervals of this table: two-way table of seeds and problems (Student's t), so they differ a "
    "little from the bootstrapped ones of the same accuracies under “Methods”."
)
#: The colour of an arm's dot and line.
COLOURS = {HELPED: "var(--three)", HURT: "var(--two)", UNKNOWN: "var(--dim)"}
STYLE = """<style>
.dots{display:grid;grid-template-columns:minmax(6rem,max-content) 1fr;gap:.35rem .75rem;
align-items:center;font-size:.9rem}
.dots .track{position:relative;height:1.6rem;min-width:0}
.dots .track i{position:absolute;top:0;bottom:0;border-left:1px solid var(--grid)}
.dots .track i.zero{border-left:2px solid var(--dim)}
.dots .span{position:absolute;top:50%;height:3px;margin-top:-1.5px;border-radius:2px}
.dots .dot{position:absolute;top:50%;width:11px;height:11px;margin:-5.5px;border-radius:50%}
.dots .ticks{height:1.1rem}
.dots .ticks .tick{transform:translateX(-50%);top:0}
@media(max-width:36rem){.dots{grid-template-columns:1fr}.dots .blank{display:none}
.dots .name{margin-top:.3rem}}
</style>"""

Choices = Mapping[str, Any]


def choices_section(summary: Mapping[str, Any]) -> str:
    """The section as HTML; empty for a comparison without `--vary`."""
    choices = summary.get("choices")
    if choices is None:
        return ""
    seeds = len(summary["seeds"])
    # Where the arms are the whole comparison, the page's headline says this already.
    said = "" if only_choices(summary) else f"<p>{escape(headline(choices))}</p>"
    return (
        f"{STYLE}<h2>Which choice helped</h2>{said}"
        + figure(
            "test accuracy against the base arm, points, with 95% intervals", dot_picture(choices)
        )
        + verdicts_table(choices, seeds)
        + f"<p class=dim>{ESTIMATOR}</p>"
        + f"<p class=dim>{escape(caution(choices, seeds))}</p>"
        + outcomes_table(choices)
        + "<p class=dim>These outcomes give no verdict. Lengths, words and pass@k are those of the "
        "checkpoint that validation chose, on the test problems. Intervals of pass@k and the watch "
        "set are of the two-way table too, those of lengths and words over seeds.</p>"
    )


def dot_picture(choices: Choices) -> str:
    """A dot and an interval for each arm, around a line at no difference."""
    arms = others(choices)
    found = [arm["difference"]["best"] for arm in arms.values()]
    low, high = (pick(edge) for pick, edge in (
        (min, [0.0, *(each["low"] for each in found)]),
        (max, [0.0, *(each["high"] for each in found)]),
    ))  # fmt: skip
    room = 0.04 * (high - low) or 0.01
    low, high = low - room, high + room

    def place(x: float) -> str:
        return f"{100 * (x - low) / (high - low):.2f}%"

    ticks = [tick for tick in nice_ticks(low, high, 5) if low <= tick <= high]
    lines = "".join(f'<i style="left:{place(tick)}"></i>' for tick in ticks)
    lines += f'<i class=zero style="left:{place(0.0)}"></i>'
    rows = []
    for arm in arms.values():
        value, colour = arm["difference"]["best"], COLOURS[arm["verdict"]]
        width = f"{100 * (value['high'] - value['low']) / (high - low):.2f}%"
        name = change_text(arm["changes"])
        told = f"{name}: {difference_text(arm)}, {arm['verdict']}"
        rows.append(
            f"<span class=name>{escape(name)}</span><div class=track role=img "
            f'aria-label="{escape(told)}" title="{escape(told)}">{lines}'
            f'<span class=span style="left:{place(value["low"])};width:{width};'
            f'background:{colour}"></span>'
            f'<span class=dot style="left:{place(value["value"])};background:{colour}"></span>'
            "</div>"
        )
    labels = "".join(
        f'<span class=tick style="left:{place(tick)}">{signed(tick) if tick else 0}</span>'
        for tick in ticks
    )
    return (
        f"<div class=dots>{''.join(rows)}<span class=blank></span>"
        f'<div class="track ticks">{labels}</div></div>'
    )


def verdicts_table(choices: Choices, seeds: int) -> str:
    """Each arm's accuracy at the best and the last step, its difference, and the verdict."""
    rows: list[Sequence[str]] = []
    for label, arm in choices["arms"].items():
        accuracy = [percent(Estimate(**arm["accuracy"][when])) for when in ("best", "last")]
        if label == choices["base"]:
            rows.append((base_text(choices), *accuracy, "", "", "the base"))
            continue
        rows.append(
            (
                change_text(arm["changes"]),
                *accuracy,
                difference_text(arm),
                _p_value(arm["p_adjusted"]),
                verdict_text(arm, seeds),
            )
        )
    heads = (
        "choice", "best checkpoint", "last step", "best against the base", "Holm's p", "verdict",
    )  # fmt: skip
    return table(heads, rows)


def outcomes_table(choices: Choices) -> str:
    """The other outcomes of each arm, and below each the difference to the base."""
    arms = choices["arms"]
    k = arms[choices["base"]]["pass_at"]["k"]
    heads = ["choice"]
    heads += [f"pass@{k}"] * (k > 1)
    heads += ["tokens generated", "completion length, tokens", "hedging words per 100"]
    scored = all("mean_score" in arm for arm in arms.values())
    heads += ["mean score"] * scored
    watched = any(arm["watch_change"] for arm in arms.values())
    heads += ["change on the watch set"] * watched
    rows = []
    for label, arm in arms.items():
        base = label == choices["base"]
        less = {} if base else arm["difference"]
        row = [base_text(choices) if base else change_text(arm["changes"])]
        if k > 1:
            row.append(_with(percent(_estimate(arm["pass_at"])), less.get("pass_at"), _points))
        row.append(_with(count(arm["generated"]["value"]), less.get("generated"), _of_count))
        for key in ("mean_tokens", "hedges_per_100_words"):
            value = arm[key]
            row.append("" if value is None else _with(_interval(value), less.get(key), _of_number))
        if scored:
            row.append(
                _with(score(_estimate(arm["mean_score"])), less.get("mean_score"), score_change)
            )
        if watched:
            value = arm["watch_change"]
            change = "" if value is None else _points(value)
            row.append(_with(change, less.get("watch_change"), _points))
        rows.append(row)
    return "<h3>Other outcomes, and the difference to the base</h3>" + table(heads, rows)


def _with(value: str, difference: Mapping[str, Any] | None, text: Any) -> str:
    """A value, and after it the difference to the base in words."""
    return value if difference is None else f"{value}; {text(difference)} against the base"


def _estimate(found: Mapping[str, Any]) -> Estimate:
    return Estimate(found["value"], found["low"], found["high"])


def _points(found: Mapping[str, Any]) -> str:
    return points(_estimate(found))


def _interval(found: Mapping[str, Any]) -> str:
    """A number with its interval over seeds, as in "12.3 (11.8–12.8)"."""
    if found["low"] is None:
        return f"{found['value']:.1f}"
    return f"{found['value']:.1f} ({found['low']:.1f}–{found['high']:.1f})"


def _of_number(found: Mapping[str, Any]) -> str:
    value, low, high = (
        None if found[key] is None else f"{round(found[key], 1) + 0.0:+.1f}"
        for key in ("value", "low", "high")
    )
    return f"{value}" if low is None else f"{value} ({low} to {high})"


def _of_count(found: Mapping[str, Any]) -> str:
    sign = "-" if found["value"] < 0 else "+"
    return f"{sign}{count(abs(found['value']))}"


def _p_value(value: float) -> str:
    return "below 0.001" if value < 0.001 else f"{value:.3f}"
