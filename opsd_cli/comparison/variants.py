"""The arms of `opsd compare --vary KEY=A,B`: one method's config, and variants of it.

The base arm is the config as given and has the method's name. Each `--vary` changes one key of it,
so that every other arm differs from the base in one choice; with `--grid` the arms are all
combinations. A value that equals the base's makes no arm of its own.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from opsd_cli.comparison.curves import basis_of
from opsd_cli.config.resolve import holds_text
from opsd_cli.config.schema import Config
from opsd_cli.config.yaml_files import read_yaml
from opsd_cli.errors import UsageError
from opsd_cli.printable import shortened, visible

#: Keys that are no choice of an arm, and what to give instead.
REFUSED = {
    "seed": "every arm is trained with the same seeds: give --seeds and --seed",
    "method": "name methods in --methods",
    "backend": "give --backend once for all runs",
}
#: Letters of a value in an arm's label, and of a label in a folder's name.
LONGEST_VALUE, LONGEST_FOLDER = 40, 100
Choice = TypeVar("Choice")
_CLOSING = {"[": "]", "{": "}"}


@dataclass(frozen=True)
class Variation:
    """What the arms of one method differ in.

    Attributes:
        base: label of the base arm, its method's name.
        base_values: the base's value of each varied key.
        changes: label of each other arm -> key -> value.
        folders: label of each other arm -> the name that its run directories begin with.
    """

    base: str
    base_values: Mapping[str, Any]
    changes: Mapping[str, Mapping[str, Any]]
    folders: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """The object `variation` of plan.json."""
        arms = {
            label: {"folder": self.folders[label], "changes": dict(changes)}
            for label, changes in self.changes.items()
        }
        return {"base": self.base, "base_values": dict(self.base_values), "arms": arms}

    @classmethod
    def of_plan(cls, plan: Mapping[str, Any]) -> Variation | None:
        """The variation of a comparison's plan.json; None for one without."""
        found = plan.get("variation")
        if found is None:
            return None
        arms = found["arms"]
        return cls(
            found["base"],
            found["base_values"],
            {label: arm["changes"] for label, arm in arms.items()},
            {label: arm["folder"] for label, arm in arms.items()},
        )


def folders_of(plan: Mapping[str, Any]) -> Mapping[str, str]:
    """The folder names of the arms whose label is not their folder's name."""
    variation = Variation.of_plan(plan)
    return {} if variation is None else variation.folders


def arms_of(
    method: str,
    texts: Sequence[str],
    grid: bool,
    config_with: Callable[[Sequence[str]], Config],
) -> tuple[dict[str, Config], Variation]:
    """The configs of all arms, the base first.

    Args:
        method: the varied one; label of the base arm.
        texts: arguments of `--vary`, as KEY=A,B.
        grid: all combinations in place of one change at a time.
        config_with: the method's config with more `--set` assignments.

    Returns:
        Label -> config, and how the arms differ.

    Raises:
        UsageError: an argument is not KEY=A,B, a key is named twice, or no arm differs.
        ConfigError: a key or value is not valid, as for `--set`.
    """
    choices: dict[str, list[str]] = {}
    for text in texts:
        key, assignments = parse_vary(text)
        if key in choices:
            raise UsageError(
                f"--vary names {key} twice", f"give all its values at once: --vary {key}=A,B,C"
            )
        choices[key] = assignments
    return arms_of_choices(method, choices, grid, config_with)


def arms_of_choices(
    method: str,
    choices: Mapping[str, Sequence[Choice]],
    grid: bool,
    config_with: Callable[[Sequence[Choice]], Config],
) -> tuple[dict[str, Config], Variation]:
    """As `arms_of`, from a list of choices for each key, which `config_with` applies."""
    base = config_with(())
    combinations = (
        itertools.product(*choices.values())
        if grid
        else ((assignment,) for each in choices.values() for assignment in each)
    )
    resolved = [config_with(assignments) for assignments in combinations]
    configs, changes = {method: base}, dict[str, Mapping[str, Any]]()
    before = {key: value_of(base, key) for key in choices}
    for config in resolved:
        if config in configs.values():
            continue
        changed = {key: value_of(config, key) for key in choices}
        changed = {key: value for key, value in changed.items() if value != before[key]}
        label = _unique(label_of(method, changed), configs)
        configs[label], changes[label] = config, changed
    if not changes:
        raise UsageError(
            "no value of --vary differs from the config's own: there is nothing to compare",
            "; ".join(f"{key} is {shown(value)}" for key, value in before.items()),
        )
    return configs, Variation(method, before, changes, _folders(list(changes)))


def parse_vary(text: str) -> tuple[str, list[str]]:
    """The key of an argument `KEY=A,B`, and an assignment for each value as `--set` takes it.

    Commas in brackets, braces or quotes belong to a value. Quotes around a whole text are removed.

    Raises:
        UsageError: it has another form, or the key cannot be varied.
    """
    key, equals, values = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise UsageError(
            f"--vary {text!r} is not KEY=A,B", "write --vary divergence.kind=forward_kl,jsd"
        )
    require_variable(key)
    pieces = split_values(values)
    if not all(pieces):
        raise UsageError(
            f"--vary {text!r} has an empty value", "write null for none, and '[A, B]' for a list"
        )
    if holds_text(key):
        pieces = [_unquoted(piece) for piece in pieces]
    return key, [f"{key}={piece}" for piece in pieces]


def require_variable(key: str) -> None:
    """Raise `UsageError` for a key that is no choice of an arm."""
    if key in REFUSED:
        raise UsageError(f"--vary cannot vary {key}", REFUSED[key])


def split_values(text: str) -> list[str]:
    """The parts between those commas that are outside of brackets, braces and quotes."""
    parts, open_, quote, start = [], list[str](), "", 0
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'" and not text[start:place].strip(" [{,:"):
            quote = letter  # an apostrophe inside a word opens nothing
        elif letter in "\"'" and open_:
            quote = letter
        elif letter in _CLOSING:
            open_.append(_CLOSING[letter])
        elif open_ and letter == open_[-1]:
            open_.pop()
        elif letter == "," and not open_:
            parts.append(text[start:place].strip())
            start = place + 1
    return [*parts, text[start:].strip()]


def _unquoted(piece: str) -> str:
    if len(piece) > 1 and piece[0] == piece[-1] and piece[0] in "\"'":
        return str(read_yaml(piece, "--vary"))
    return piece


def value_of(config: Config, key: str) -> Any:
    """A config's value of a dotted key, as JSON has it."""
    found: Any = config.model_dump(mode="json")
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def shown(value: Any) -> str:
    """A value as a label has it, in one line."""
    if isinstance(value, float):
        return f"{value:g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shortened(visible(" ".join(text.split())), LONGEST_VALUE)


def change_text(changes: Mapping[str, Any]) -> str:
    """The changes of an arm, as in "divergence.kind=jsd train.passes=4"."""
    return " ".join(f"{key}={shown(value)}" for key, value in changes.items())


def label_of(method: str, changes: Mapping[str, Any]) -> str:
    """An arm's label, as in "opsd divergence.kind=jsd"."""
    return f"{method} {change_text(changes)}"


def _unique(name: str, taken: Iterable[str], numbered: str = " ({})") -> str:
    """The name, with a number where it is taken; case does not tell two folders apart."""
    used = {each.casefold() for each in taken}
    numbers = itertools.chain([""], (numbered.format(n) for n in itertools.count(2)))
    return next(name + number for number in numbers if (name + number).casefold() not in used)


def _folders(labels: Sequence[str]) -> dict[str, str]:
    """A name for each label that every file system takes, as "opsd+divergence.kind=jsd"."""
    found: dict[str, str] = {}
    for label in labels:
        safe = re.sub(r"[^A-Za-z0-9_.=+-]+", "+", label)[:LONGEST_FOLDER].rstrip("+. ")
        found[label] = _unique(safe, found.values(), "+{}")
    return found


def require_measured_alike(configs: Mapping[str, Config], variation: Variation) -> None:
    """Raise `UsageError` where an arm's test accuracy could not be paired with the base's.

    Args:
        configs: label -> config, as `opsd_cli.comparison.session.measured_alike` gives them.
    """
    base = configs[variation.base]
    wanted = {**basis_of(base, {}, ""), "test problems": _test_problems(base)}
    for label in variation.changes:
        config = configs[label]
        found = {**basis_of(config, {}, ""), "test problems": _test_problems(config)}
        differing = [name for name, value in found.items() if value != wanted[name]]
        held_out = "test problems" in differing and base.data.test is None
        if differing:
            raise UsageError(
                f"{label!r} would be measured with another {' and another '.join(differing)} than "
                f"{variation.base!r}",
                "vary a key that changes the training alone"
                + ("; data.test=FILE keeps the test problems" if held_out else ""),
            )


def _test_problems(config: Config) -> Any:
    """What decides which test problems a config has."""
    data = config.data.model_dump(mode="json")
    if config.data.test is not None:
        return [data["test"], data["test_problems"], data["columns"]]
    del data["limit"], data["watch"], data["watch_problems"]
    return data
