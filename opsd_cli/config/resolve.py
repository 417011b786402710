"""From presets, files, `--set` and flags to one `Config`, with errors a person can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML

from opsd_cli.config.choices import OneOf
from opsd_cli.config.schema import EMBEDDED, METHODS, OPSD, Config
from opsd_cli.config.yaml_files import DEEPEST, read_tree, read_yaml
from opsd_cli.errors import ConfigError

Tree = dict[str, Any]

#: Characters of a wrong value that an error shows.
SHOWN = 80


def preset_folder() -> Path:
    """`configs/` inside an installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def preset_names() -> list[str]:
    return sorted(path.stem for path in preset_folder().glob("*.yaml"))


def preset_path(name: str) -> Path:
    """The file of a preset; raises `ConfigError` for an unknown name."""
    if not isinstance(name, str):
        raise ConfigError(f"`preset` is {_shown(name)}, not a name", "see `opsd presets`")
    path = preset_folder() / f"{name}.yaml"
    if name not in preset_names():
        raise ConfigError(
            f"there is no preset {name!r}", suggest(name, preset_names(), "opsd presets")
        )
    return path


def suggest(word: str, known: Sequence[str], otherwise: str) -> str:
    """A "did you mean" where a known word is close, else where to look."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"see `{otherwise}`"


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Tree:
    """`over` laid on `base`, mapping by mapping; `chat_arguments` merge key by key as well."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def parse_set(assignment: str) -> Tree:
    """`a.b=value` as a nested mapping.

    The value is YAML, but that of a key that holds text is taken as it stands, braces and all;
    `null` and an empty value are null either way.
    """
    key, equals, value = assignment.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {assignment!r} is not key=value", "write --set train.steps=50")
    key, value = key.strip(), value.strip()
    parts = key.split(".")
    if len(parts) > DEEPEST:
        raise ConfigError(f"unknown config key '{key[:SHOWN]}...'", "see `opsd presets keys`")
    tree: Any = None
    if _holds_text(key):
        tree = None if value in ("", "null") else value
    elif value:
        tree = read_yaml(value, f"--set {key}")
    for part in reversed(parts):
        tree = {part: tree}
    return tree


def _holds_text(key: str) -> bool:
    field = dict(key_paths()).get(key)
    if field is None or any(isinstance(entry, OneOf) for entry in field.metadata):
        return False
    return field.annotation in (str, str | None)


def key_paths(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key of the schema with its field, sections included."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        yield path, field
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from key_paths(field.annotation, f"{path}.")


def explain(error: ValidationError) -> ConfigError:
    """The first validation failure as one line with a hint."""
    first = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in first["loc"])
    known = [name for name, _ in key_paths()]
    if first["type"] in ("extra_forbidden", "invalid_key"):
        close = difflib.get_close_matches(path[:SHOWN], known, n=1, cutoff=0.6)
        if not close:
            leaf = path.rpartition(".")[2]
            close = [name for name in known if name.rpartition(".")[2] == leaf]
        hint = f"did you mean {close[0]!r}?" if close else "see `opsd presets keys`"
        return ConfigError(f"unknown config key {_shown(path)}", hint)
    message = str(first["msg"]).removeprefix("Value error, ")
    if not path:  # a validator of ours, whose second line is the hint
        message, _, hint = message.partition("\n")
        return ConfigError(message, hint)
    fields = dict(key_paths())
    field = next((path[: len(name)] for name in _prefixes(path) if name in fields), path)
    hint = " ".join((fields[field].description or "").split()) if field in fields else ""
    return ConfigError(
        f"{path[:SHOWN]}: {message[0].lower()}{message[1:]}, got {_shown(first['input'])}", hint
    )


def _prefixes(path: str) -> Iterator[str]:
    """A dotted key and all that it is part of, the longest first."""
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        yield ".".join(parts[:count])


def _shown(value: Any) -> str:
    """A value as an error shows it: one line, and not all of a long one."""
    if isinstance(value, int) and value.bit_length() > 4 * SHOWN:
        return "a number of a hundred digits or more"
    text = repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def validate(tree: Mapping[str, Any]) -> Config:
    """The tree as a `Config`; raises `ConfigError`."""
    _refuse_control_characters(tree)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise explain(error) from error


def _refuse_control_characters(value: Any, path: str = "") -> None:
    """Raise `ConfigError` for text that no file name and no prompt can hold."""
    if isinstance(value, str):
        if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
            raise ConfigError(
                f"{path or 'a key'} holds a character that is no text, got {_shown(value)}",
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

    A preset or file may have a `methods` section, whose part for the chosen method is laid over
    the rest of it: learning rates that suit one method rarely suit another.

    Args:
        config: a preset's name or a YAML file, whose own `preset:` key names what it builds on.
        assignments: `--set` arguments, in order.
        flags: nested mapping of the flags that were given; None values are left out.
        base: a whole config's file, of a run say, that the rest is laid over.

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
    trees = [*below, *_preset_trees(preset), file]
    method = next((tree["method"] for tree in (given, *reversed(trees)) if "method" in tree), OPSD)
    resolved: Tree = {}
    for tree in trees:
        resolved = merge(resolved, _for_method(tree, method))
    return validate(merge(resolved, given))


def assigned(config: Config, key: str, value: Any) -> Config:
    """The config with one dotted key changed."""
    tree: Any = value
    for part in reversed(key.split(".")):
        tree = {part: tree}
    return validate(merge(config.model_dump(mode="json"), tree))


def _preset_trees(name: str | None) -> list[Tree]:
    """A preset and what it builds on, the lowest first."""
    if name is None:
        return []
    tree = read_tree(preset_path(name))
    return [*_preset_trees(tree.pop("preset", None)), tree]


def _for_method(tree: Tree, method: str) -> Tree:
    """A preset or file with what its `methods` section says of this method laid over it."""
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
                suggest(str(name), METHODS, "opsd train --help"),
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
    """The config as YAML that `resolve` reads back to an equal one."""
    import io

    out = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 100
    yaml.dump(config.model_dump(mode="json"), out)
    return out.getvalue()
