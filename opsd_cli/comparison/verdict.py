"""What a comparison's numbers say, in words: the headline, and costs that are no number.

A ratio of costs has no value where a method takes none (supervised distillation generates no
tokens), where a method does not reach the target, or where the target is reached before training.
Each is said in words. The summary may be one that was read back from JSON, in which infinity and
NaN are None: everything here is derived from each method's own cost at the target.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from opsd_cli.comparison import choice_words
from opsd_cli.formatting import count, share, times

Summary = Mapping[str, Any]
GENERATED, EVERYTHING = "generated", "all"


def verdict(summary: Summary) -> str:
    """The comparison's headline in one to four sentences.

    That of one method's variants says which choice helped, and not which takes fewer tokens.
    """
    if choice_words.only_choices(summary):
        found = choice_words.headline(summary["choices"])
    else:
        found = f"{_headline(summary)}{_never_improved(summary)}"
    return found + choice_words.ended_names(summary.get("halving"))


def _never_improved(summary: Summary) -> str:
    """A sentence on the methods that do not determine the target, or nothing."""
    names = summary.get("never_improved") or []  # files of earlier versions have no such key
    if not names:
        return ""
    return (
        f" {_listed(names)} never improved on the accuracy before training by more than chance; "
        f"the target is {summary['target_from']}."
    )


def _headline(summary: Summary) -> str:
    one, other = _pair(summary)
    without = _without_ratio(summary)
    if without is not None:
        return without
    target = share(summary["target_accuracy"])
    idle = [name for name in (one, other) if generates_nothing(summary, name)]
    if idle:
        return _of_all_tokens(summary, idle)
    found = summary["token_efficiency"]
    ratio = found["ratio"]
    interval = f"95% interval {times(found['low'])} to {times(found['high'])}"
    with_teacher = summary["token_efficiency_all"]
    also = (
        f"Counting the tokens the teacher scores as well: {times(with_teacher['ratio'])} "
        f"({times(with_teacher['low'])} to {times(with_teacher['high'])})."
    )
    if ratio >= 1:
        said = f"{one} needs {times(ratio)} fewer generated tokens than {other}"
    else:
        said = f"{one} needs {times(1 / ratio)} more generated tokens than {other}"
        interval = f"ratio {times(ratio)}, {interval}"
    return f"{said} to reach {target} ({interval}). {also}"


def title(summary: Summary) -> str:
    """The headline in few words, for a picture."""
    if choice_words.only_choices(summary):
        return choice_words.brief(summary["choices"])
    one, other = _pair(summary)
    found = summary["token_efficiency"]
    if _without_ratio(summary) is not None or any(
        generates_nothing(summary, name) for name in (one, other)
    ):
        return verdict(summary).partition(". ")[0].rstrip(".")
    said = f"{one} against {other}: {times(found['ratio'])} fewer tokens"
    return f"{said} (95% interval {times(found['low'])} to {times(found['high'])})"


def had_before(summary: Summary, name: str) -> bool:
    """Whether a method has the target accuracy before training."""
    accuracy = summary["methods"][name]["curve"]["accuracy"]
    return bool(accuracy[0] >= summary["target_accuracy"] - 1e-12)


def generates_nothing(summary: Summary, name: str) -> bool:
    """Whether a method's runs generate no tokens, as supervised distillation does."""
    return not summary["methods"][name]["tokens_generated"]


def tokens_needed(summary: Summary, name: str) -> str:
    """A method's generated tokens at the target, or why there is no such number."""
    needed = summary["methods"][name]["tokens_to_target"]
    if had_before(summary, name):
        return "reached before training"
    if needed is None:
        if generates_nothing(summary, name):
            return "never, generates none"
        return f"never within {tokens_spent(summary, name)}"
    return "reached, generates none" if generates_nothing(summary, name) else count(needed)


def tokens_spent(summary: Summary, name: str) -> str:
    """All tokens that a method generated, or "none"."""
    if generates_nothing(summary, name):
        return "none"
    return count(summary["methods"][name]["tokens_generated"])


def ratio_of(summary: Summary, cost: str) -> tuple[str, str] | None:
    """The headline's ratio for a kind of cost and its interval, in words; None without a ratio."""
    one, other = _pair(summary)
    found = summary["efficiency"][cost]
    costs = [summary["methods"][name]["cost_to_target"][cost] for name in (one, other)]
    if None in costs or not all(costs) or found["ratio"] is None or math.isnan(found["ratio"]):
        return None
    return times(found["ratio"]), f"{times(found['low'])} to {times(found['high'])}"


def _pair(summary: Summary) -> tuple[str, str]:
    found = summary["token_efficiency"]
    return found["better"], found["than"]


def _without_ratio(summary: Summary) -> str | None:
    """The headline where a method does not reach the target, or has it before training."""
    one, other = _pair(summary)
    target = share(summary["target_accuracy"])
    before = [name for name in (one, other) if had_before(summary, name)]
    best = _best(summary, (one, other))
    if before:
        weakest = [
            name for name, entry in summary["methods"].items()
            if entry["best"] <= summary["target_accuracy"] + 1e-12
        ]  # fmt: skip
        why = ""
        if summary["target_from"] != "given" and weakest:
            why = f", because {_listed(weakest)} never rose above it"
        who = "both methods have" if len(before) == 2 else f"{before[0]} has"
        return (
            f"{best}. There is no ratio of tokens: the target is {target}{why}, and {who} that "
            "before training. Give a higher one with --target."
        )
    reached = [
        name for name in (one, other)
        if summary["methods"][name]["cost_to_target"][GENERATED] is not None
    ]  # fmt: skip
    if not reached:
        return f"Neither {one} nor {other} reaches {target}. {best}."
    if len(reached) == 1:
        (missing,) = {one, other} - set(reached)
        highest = share(summary["methods"][missing]["best"])
        return f"{reached[0]} reaches {target}; {missing} does not: its best is {highest}."
    return None


def _of_all_tokens(summary: Summary, idle: Sequence[str]) -> str:
    """The headline where a method generates nothing: all tokens are counted instead."""
    one, other = _pair(summary)
    target = share(summary["target_accuracy"])
    generate = "generate" if len(idle) > 1 else "generates"
    said = f"{_listed(idle)} {generate} no tokens, so there is no ratio of generated tokens."
    found = ratio_of(summary, EVERYTHING)
    if found is None:
        return f"{_best(summary, (one, other))}. {said}"
    needs = {
        name: count(summary["methods"][name]["cost_to_target"][EVERYTHING]) for name in (one, other)
    }
    return (
        f"To reach {target}, {one} takes {needs[one]} tokens of all kinds and {other} "
        f"{needs[other]}: ratio {found[0]} (95% interval {found[1]}). {said}"
    )


def _best(summary: Summary, names: Sequence[str]) -> str:
    """As in "Best accuracies: opsd 61.3%, sft 56.2%"."""
    best = (f"{name} {share(summary['methods'][name]['best'])}" for name in names)
    return f"Best test accuracy: {', '.join(best)}"


def _listed(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
