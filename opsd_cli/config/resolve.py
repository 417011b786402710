"""Resolve preset, file, `--set` and flags to one `Config`, each overriding the one before."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML

from opsd_cli.config.choices import OneOf
from opsd_cli.config.explain import SHOWN, explain, shown
from opsd_cli.config.layers import Layer, Tree, layers_of, merge, place_of, preset_layers
from opsd_cli.config.schema import DEFAULT_METHOD, Config, key_paths
from opsd_cli.config.yaml_files import DEEPEST, read_tree, read_yaml
from opsd_cli.embedded import EMBEDDED
from opsd_cli.errors import ConfigError


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
    if holds_text(key):
        leaf = None if value in ("", "null") else value
    elif value:
        leaf = read_yaml(value, f"--set {key}")
    tree: Tree = {parts[-1]: leaf}
    for part in reversed(parts[:-1]):
        tree = {part: tree}
    return tree


def holds_text(key: str) -> bool:
    """Whether a key's value is text, which `--set` takes literally."""
    field = dict(key_paths()).get(key)
    if field is None or any(isinstance(entry, OneOf) for entry in field.metadata):
        return False
    return field.annotation in (str, str | None)


def validate(tree: Mapping[str, Any], layers: Sequence[Layer] = ()) -> Config:
    """The `Config` of a nested mapping.

    Args:
        layers: what the mapping was merged from, to name the file and line of a mistake.

    Raises:
        ConfigError: for the first mistake, with all others beside it.
    """
    _refuse_control_characters(tree)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        method = tree.get("method", DEFAULT_METHOD)
        raise explain(error, lambda location: place_of(location, layers, method)) from error


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
    config: str | Sequence[str] | None = None,
    assignments: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    base: Path | Mapping[str, Any] | None = None,
) -> Config:
    """Resolve base < preset < file < --set < flag.

    A preset or file may have a `methods` section with overrides per method, since learning rates
    that suit one method rarely suit another.

    Args:
        config: a preset's name, or a YAML file, whose `preset:` key names the preset below it; or
            several, each laid over the one before.
        assignments: `--set` arguments, in order.
        flags: nested mapping of the flags that were given; None values are ignored.
        base: file of a complete config, such as a run's, or a mapping, below everything else; with
            one, the embedded preset is not assumed.

    Raises:
        ConfigError: an unknown key (with the nearest known one), preset, file or bad value; all
            other mistakes are beside the first.
    """
    return _resolved(*layers_given(config, assignments, flags, base))


def layers_given(
    config: str | Sequence[str] | None = None,
    assignments: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    base: Path | Mapping[str, Any] | None = None,
) -> tuple[list[Layer], list[ConfigError]]:
    """What `resolve` merges, the lowest layer first, and the mistakes in reading it."""
    mistakes: list[ConfigError] = []
    layers: list[Layer] = []
    named = False
    for name in [config] if isinstance(config, str) else config or ():
        try:
            found = layers_of(name)
        except ConfigError as error:
            mistakes.append(error)
            continue
        named = named or len(found) > 1 or found[0].file is None
        layers += found
    given: Tree = {}
    for assignment in assignments:
        try:
            given = merge(given, parse_set(assignment))
        except ConfigError as error:
            mistakes.append(error)
    given = merge(given, _without_none(flags or {}))
    if base is not None:
        file = base if isinstance(base, Path) else None
        layers.insert(0, Layer(read_tree(file) if file else dict(base), file))  # type: ignore[arg-type]
    models = (layer.tree["model"] for layer in reversed(layers) if "model" in layer.tree)
    model = given.get("model", next(models, EMBEDDED))
    if not named and model == EMBEDDED and base is None:
        layers = [*preset_layers(EMBEDDED), *layers]
    layers.append(Layer(given, name="--set"))
    return layers, mistakes


def _resolved(layers: Sequence[Layer], mistakes: Sequence[ConfigError]) -> Config:
    """The layers merged and validated.

    Raises:
        ConfigError: the mistakes found so far, and those of the layers.
    """
    method = next(
        (layer.tree["method"] for layer in reversed(layers) if "method" in layer.tree),
        DEFAULT_METHOD,
    )
    found = list(mistakes)
    tree: Tree = {}
    for layer in layers:
        try:
            tree = merge(tree, layer.of_method(method))
        except ConfigError as error:
            found.append(error)
    try:
        config = validate(tree, layers)
    except ConfigError as error:
        # A rule about several keys is not to be trusted where some of them could not be read.
        found += [each for each in error.all() if not mistakes or each.located]
    else:
        if not found:
            return config
    raise ConfigError.of(found)


def assigned(config: Config, key: str, value: Any) -> Config:
    """A copy of a config with one dotted key changed; raises `ConfigError`."""
    tree: Any = value
    for part in reversed(key.split(".")):
        tree = {part: tree}
    return validate(merge(config.model_dump(mode="json"), tree))


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
