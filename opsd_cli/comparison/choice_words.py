"""What the numbers of `opsd_cli.comparison.choices` say, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opsd_cli.comparison.choices import HELPED, HURT, UNKNOWN
from opsd_cli.comparison.crossed import MOST_SEEDS
from opsd_cli.comparison.variants import change_text
from opsd_cli.formatting import points, share, signed
from opsd_cli.statistics import CONFIDENCE, Estimate

Choices = Mapping[str, Any]


def others(choices: Choices) -> dict[str, Mapping[str, Any]]:
    """The arms that are compared with the base, by label."""
    return {label: arm for label, arm in choices["arms"].items() if label != choices["base"]}


def base_text(choices: Choices) -> str:
    """The base arm with its values, as in "opsd (divergence.kind=reverse_kl)"."""
    return f"{choices['base']} ({change_text(choices['base_values'])})"


def difference_text(arm: Mapping[str, Any]) -> str:
    """An arm's difference to the base, as in "+3.2 points (-1.0 to +7.4)"."""
    found = arm["difference"]["best"]
    return points(Estimate(found["value"], found["low"], found["high"]))


def verdict_text(arm: Mapping[str, Any], seeds: int) -> str:
    """An arm's verdict, and what would decide where nothing is decided.

    Args:
        seeds: number of seeds of the comparison.
    """
    if arm["verdict"] != UNKNOWN:
        return str(arm["verdict"])
    return f"{UNKNOWN}: {needed_text(arm, seeds)}"


def needed_text(arm: Mapping[str, Any], seeds: int) -> str:
    """How many more seeds would tell, if the observed difference is the true one."""
    if arm["seeds_needed"] is not None:
        more = arm["seeds_needed"] - seeds
        return f"about {more} more seed{'s' * (more != 1)} would tell"
    if seeds == 1:
        return "one seed does not show how many would tell"
    if not arm["difference"]["best"]["value"]:
        return "no difference was observed"
    return f"{MOST_SEEDS:,} seeds would not tell; more test problems may"


def ended_text(how: Mapping[str, Any]) -> str:
    """When an arm of `--halving` was ended, and what that rests on.

    Args:
        how: the values of an `opsd_cli.comparison.halving.Ended`.
    """
    found = how["difference"]
    difference = points(Estimate(found["value"], found["low"], found["high"]))
    told = "worse there" if how["worse"] else "not shown to be worse there"
    return (
        f"ended at step {how['step']} of {how['steps']} after validation "
        f"{share(how['validation'])} vs {share(how['than_validation'])} of {how['than']}, the last "
        f"that went on ({difference}, seed {how['seed']}): {told}"
    )


def ended_names(halving: Mapping[str, Any] | None) -> str:
    """The arms that were ended early, in a sentence, or why none was; empty without `--halving`.

    Args:
        halving: the object `halving` of a summary.
    """
    if halving is None:
        return ""
    names = list(halving["ended"])
    if not names:
        return f" {none_ended_text(halving)}"
    return f" Ended early, on validation: {', '.join(names)}."


def none_ended_text(halving: Mapping[str, Any]) -> str:
    """Why `--halving` ended no arm, in one sentence.

    Args:
        halving: the object `halving` of a summary.
    """
    reasons = dict(halving.get("none_ended", {}))
    told = [
        why if halving["rounds"] == 1 else f"round {number}: {why}"
        for number, why in reasons.items()
    ]
    number = halving["rounds"]
    rounds = "its one round" if number == 1 else f"its {number} rounds"
    return f"--halving ended no arm in {rounds}{': ' if told else ''}{'; '.join(told)}."


def chosen_on(halving: Mapping[str, Any]) -> str:
    """What the verdicts on arms that were chosen on one of their own seeds allow for."""
    return (
        f"The arms that went on were chosen on validation with seed {halving['seed']}, before any "
        "test problem was sampled. Their runs with that seed count here too, which favours the "
        "chosen arms a little against the base, as it is always kept; other seeds (--seed) confirm "
        "a choice."
    )


def headline(choices: Choices) -> str:
    """Every choice in one sentence, by verdict."""
    found: dict[str, list[str]] = {HELPED: [], HURT: [], UNKNOWN: []}
    for arm in others(choices).values():
        change = signed(arm["difference"]["best"]["value"])
        found[arm["verdict"]].append(f"{change_text(arm['changes'])} ({change} points)")
    parts = [f"{verdict}: {', '.join(names)}" for verdict, names in found.items() if names]
    return f"Against {base_text(choices)}, {'; '.join(parts)}."


def brief(choices: Choices) -> str:
    """The verdicts counted, for a picture's title."""
    arms = others(choices).values()
    counts = {verdict: sum(arm["verdict"] == verdict for arm in arms)
              for verdict in (HELPED, HURT, UNKNOWN)}  # fmt: skip
    told = ", ".join(f"{number} {verdict}" for verdict, number in counts.items() if number)
    return f"{choices['base']}, {len(arms)} choice{'s' * (len(arms) != 1)}: {told}"


def caution(choices: Choices, seeds: int) -> str:
    """What the verdicts allow for, and what they do not."""
    count = choices["comparisons"]
    chance = 1.0 - CONFIDENCE**count
    several = (
        f"With {count} comparisons, the chance that at least one interval excludes 0 although "
        f"nothing differs grows to as much as {chance:.0%} where they are independent. The "
        "verdicts allow for that: they are Holm's, and at most 5% of such pages have a false one. "
        if count > 1
        else ""
    )
    found = [arm["detectable"] for arm in others(choices).values()]
    least, most = (signed(edge(found)).lstrip("+") for edge in (min, max))
    if max(found) > 1:  # no accuracy differs by so much
        most = "more than 100"
    size = f"{least} points" if least == most else f"{least} to {most} points, by choice,"
    budget = (
        f"At this budget, a true difference is found four times in five if it has {size} or more; "
        "smaller ones mostly cannot be told apart."
        if min(found) <= 1
        else "At this budget, no true difference would be found four times in five."
    )
    alone = (
        " One seed: the intervals are of the problems alone, and runs vary between seeds."
        if seeds == 1
        else ""
    )
    return f"{several}{budget}{alone}"


def only_choices(summary: Mapping[str, Any]) -> bool:
    """Whether a comparison has the arms of one method alone."""
    choices = summary.get("choices")
    return choices is not None and set(choices["arms"]) == set(summary["methods"])
