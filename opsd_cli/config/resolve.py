"""Resolve preset, file, `--set` and flags to one `Config`, each overriding the one before."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML

from opsd_cli.config.choices import OneOf
from opsd_cli.config.explain import SHOWN, explain, shown, suggest
from opsd_cli.config.presets import preset_names, preset_trees
from opsd_cli.config.schema import DEFAULT_METHOD, Config, key_paths
from opsd_cli.config.yaml_files import DEEPEST, read_tree, read_yaml
from opsd_cli.embedded import EMBEDDED
from opsd_cli.errors import ConfigError
from opsd_cli.methods import METHODS

Tree = dict[str, Any]


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Tree:
    """`over` merged into `base` key by key, nested mappings too; `over` wins."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def parse_set(assignment: str) -> Tree:
    """`a.b=value` as a nested mapping.

    The value is YAML, except for a text key, whose value is taken literally. `null` and an empty
    value are null for either.

    Raises:
        ConfigError: the text is not key=value, or the value is not valid YAML.
    """
    key, equals, value = assignment.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {assignment!r} is not key=value", "write --set train.steps=50")
    key, value = key.strip(), value.strip()
    parts = key.split(".")
    if len(parts) > DEEPEST:
        raise ConfigError(f"unknown config key '{key[:SHOWN]}...'", "see `opsd presets keys`")
    leaf: Any = None
    if _holds_text(key):
        leaf = None if value in ("", "null") else value
    elif value:
        leaf = read_yaml(value, f"--set {key}")
    tree: Tree = {parts[-1]: leaf}
    for part in reversed(parts[:-1]):
        tree = {part: tree}
    return tree


def _holds_text(key: str) -> bool:
    field = dict(key_paths()).get(key)
    if field is None or any(isinstance(entry, OneOf) for entry in field.metadata):
        return False
    return field.annotation in (str, str | None)


def validate(tree: Mapping[str, Any]) -> Config:
    """The `Config` of a nested mapping; raises `ConfigError` for the first mistake."""
    _refuse_control_characters(tree)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise explain(error) from error


def _refuse_control_characters(value: Any, path: str = "") -> None:
    """Raise `ConfigError` for text with NUL or surrogates, which no file or prompt can hold."""
    if isinstance(value, str):
        if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
            raise ConfigError(
                f"{path or 'a key'} holds a character that is no text, got {shown(value)}",
                "NUL and halves of surrogate pairs are not allowed",
            )
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _refuse_control_characters(key)
            _refuse_control_characters(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            _refuse_control_characters(item, path)


def resolve(
    config: str | None = None,
    assignments: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    base: Path | None = None,
) -> Config:
    """Resolve base < preset < file < --set < flag.

    A preset or file may have a `methods` section with overrides per method, since learning rates
    that suit one method rarely suit another.

    Args:
        config: a preset's name, or a YAML file, whose `preset:` key names the preset below it.
        assignments: `--set` arguments, in order.
        flags: nested mapping of the flags that were given; None values are ignored.
        base: file of a complete config, such as a run's, below everything else.

    Raises:
        ConfigError: an unknown key (with the nearest known one), preset, file or bad value.
    """
    file: Tree = {}
    preset: str | None = None
    if config is not None:
        path = Path(config)
        if config in preset_names():
            preset = config
        elif path.suffix in (".yaml", ".yml") or path.exists():
            file = read_tree(path)
            preset = file.pop("preset", None)
        else:
            raise ConfigError(
                f"{config!r} is neither a preset nor a file",
                suggest(config, preset_names(), "opsd presets"),
            )
    given: Tree = {}
    for assignment in assignments:
        given = merge(given, parse_set(assignment))
    given = merge(given, _without_none(flags or {}))
    below = [read_tree(base)] if base is not None else []
    model = given.get("model", file.get("model", EMBEDDED))
    if preset is None and model == EMBEDDED and not below:
        preset = EMBEDDED
    trees = [*below, *preset_trees(preset), file]
    named = (tree["method"] for tree in (given, *reversed(trees)) if "method" in tree)
    method = next(named, DEFAULT_METHOD)
    resolved: Tree = {}
    for tree in trees:
        resolved = merge(resolved, _for_method(tree, method))
    return validate(merge(resolved, given))


def assigned(config: Config, key: str, value: Any) -> Config:
    """A copy of a config with one dotted key changed; raises `ConfigError`."""
    tree: Any = value
    for part in reversed(key.split(".")):
        tree = {part: tree}
    return validate(merge(config.model_dump(mode="json"), tree))


def _for_method(tree: Tree, method: str) -> Tree:
    """A preset or file with its `methods` section's overrides for this method merged in."""
    tree = dict(tree)
    sections = tree.pop("methods", None) or {}
    if not isinstance(sections, dict) or not all(isinstance(v, dict) for v in sections.values()):
        raise ConfigError(
            "`methods` is not a mapping from methods to config keys",
            "write lines like `methods: {grpo: {train: {steps: 200}}}`",
        )
    for name in sections:
        if name not in METHODS:
            raise ConfigError(
                f"`methods` names {name!r}, which is no method",
                suggest(str(name), list(METHODS), "opsd train --help"),
            )
    return merge(tree, sections.get(method, {}) if isinstance(method, str) else {})


def _without_none(tree: Mapping[str, Any]) -> Tree:
    kept: Tree = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            value = _without_none(value)
            if value:
                kept[key] = value
        elif value is not None:
            kept[key] = value
    return kept


def to_yaml(config: Config) -> str:
    """The config as YAML, which `read_tree` and `validate` turn back into an equal one."""
    out = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 100
    yaml.dump(config.model_dump(mode="json"), out)
    return out.getvalue()
