"""A config file for people: a few keys, each under a one-line comment."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from opsd_cli.config.layers import Tree, merge
from opsd_cli.config.presets import preset_trees
from opsd_cli.config.resolve import parse_set, resolve, validate
from opsd_cli.config.schema import Config, key_paths
from opsd_cli.embedded import EMBEDDED

#: Text that YAML 1.2 reads as itself without quotes.
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")
_NOT_TEXT = ("null", "true", "false", "yes", "no", "on", "off")


@dataclass(frozen=True)
class Setting:
    """One key of a config file.

    Attributes:
        key: dotted.
        value: as `--set` takes it.
        reason: why it has this value, in one line; empty for the key's help text.
        fixed: True for a value that a suggestion does not change.
    """

    key: str
    value: Any
    reason: str = ""
    fixed: bool = False

    @property
    def comment(self) -> str:
        """The reason, or the first sentence of the schema's docstring of the key."""
        if self.reason:
            return " ".join(self.reason.split())
        text = " ".join((dict(key_paths())[self.key].description or "").split())
        return re.split(r"(?<=\.) ", text)[0]


class Draft:
    """A config in the making: what was given, and suggestions for the rest.

    What was given stays as it is. So does what the embedded model's preset has, which applies to
    every config of that model.

    Args:
        assignments: `--set` arguments.
        named: nested mapping of other keys that were given, `model` among them.

    Raises:
        ConfigError: an unknown key, or a value that is not valid.
    """

    def __init__(self, assignments: Sequence[str], named: Tree) -> None:
        resolve(None, assignments, named)  # names a wrong key or value as every command does
        self._tree: Tree = {}
        for assignment in assignments:
            self._tree = merge(self._tree, parse_set(assignment))
        self._tree = merge(self._tree, named)
        self._preset: Tree = {}
        if self._tree["model"] == EMBEDDED:
            for below in preset_trees(EMBEDDED):
                self._preset = merge(self._preset, below)
            self._preset.pop("methods", None)
        self._kept = {
            key: Setting(key, value, "as in the embedded model's preset", True)
            for key, value in _values(self._preset)
        }
        self._settings = {
            key: Setting(key, value, "as given to `opsd init`", True)
            for key, value in _values(self._tree)
        }

    @property
    def config(self) -> Config:
        """The config that the settings so far make."""
        return validate(merge(self._preset, self._tree))

    @property
    def settings(self) -> list[Setting]:
        """The settings so far, in the order of the schema."""
        order = {key: place for place, (key, _) in enumerate(key_paths())}
        return sorted(self._settings.values(), key=lambda setting: order[setting.key])

    def is_given(self, key: str) -> bool:
        """Whether a key was given, or is in the preset: a suggestion would not change it."""
        fixed = self._settings.get(key, self._kept.get(key))
        return fixed is not None and fixed.fixed

    def put(self, key: str, value: Any, reason: str = "") -> None:
        """Suggest a value; one that was given, or is in the preset, takes its place."""
        fixed = self._settings.get(key, self._kept.get(key))
        if fixed is not None and fixed.fixed:
            self._settings[key] = fixed
            return
        tree: Any = value
        for part in reversed(key.split(".")):
            tree = {part: tree}
        self._tree = merge(self._tree, tree)
        self._settings[key] = Setting(key, value, reason)

    def explain(self, key: str, reason: str, fixed: bool = False) -> None:
        """Say why a key has its value; of a fixed value only with `fixed`."""
        if fixed or not self._settings[key].fixed:
            self._settings[key] = replace(self._settings[key], reason=reason)


def commented_yaml(settings: Sequence[Setting], head: Sequence[str]) -> str:
    """The settings as YAML, which `opsd_cli.config.yaml_files.read_tree` reads back.

    Args:
        settings: keys of one section next to each other.
        head: lines of the comment at the top.
    """
    lines = [f"# {line}" for line in head]
    above: list[str] = []
    for setting in settings:
        *sections, leaf = setting.key.split(".")
        same = 0
        while same < min(len(above), len(sections)) and above[same] == sections[same]:
            same += 1
        if same == 0:
            lines.append("")
        for depth in range(same, len(sections)):
            lines.append(f"{'  ' * depth}{sections[depth]}:")
        indent = "  " * len(sections)
        lines += [f"{indent}# {setting.comment}", f"{indent}{leaf}: {_scalar(setting.value)}"]
        above = sections
    return "\n".join(lines) + "\n"


def _scalar(value: Any) -> str:
    """A value on one line: plain text, or JSON, which YAML reads too."""
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.casefold() not in _NOT_TEXT:
        return value
    return json.dumps(value, ensure_ascii=False)


def _values(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The values of a nested mapping by dotted key of the schema."""
    for key, field in key_paths():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            continue
        value: Any = tree
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                break
            value = value[part]
        else:
            yield key, value
