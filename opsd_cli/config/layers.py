"""The sources of a config, one over the other, and the file and line that a key is from.

Layers are merged before they are validated, so a mistake is known by its key alone. It is then
looked up in the layers, the uppermost first, and in the text of the file that holds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from opsd_cli.config.explain import suggest
from opsd_cli.config.presets import preset_names, preset_trees
from opsd_cli.config.yaml_files import LONGEST_TEXT, compose, read_tree
from opsd_cli.errors import ConfigError
from opsd_cli.methods import METHODS

Tree = dict[str, Any]
Location = tuple[str | int, ...]
#: Keys of a file whose places are looked up; a config has a few hundred.
_MOST_PLACES = 100_000


@dataclass(frozen=True)
class Layer:
    """One source of keys.

    Attributes:
        tree: as it was read, its `methods` section included.
        file: the file that it is from; None for presets, `--set` and flags, which name themselves
            in errors.
        name: what a layer without a file is ("preset small-cpu").
    """

    tree: Tree
    file: Path | None = None
    name: str = ""

    def of_method(self, method: Any) -> Tree:
        """The keys with the `methods` section's overrides for this method merged in.

        Raises:
            ConfigError: the section is no mapping from methods to config keys.
        """
        tree = dict(self.tree)
        sections = tree.pop("methods", None) or {}
        if not isinstance(sections, dict) or not all(
            isinstance(v, dict) for v in sections.values()
        ):
            raise self.placed(
                "`methods` is not a mapping from methods to config keys",
                "write lines like `methods: {grpo: {train: {steps: 200}}}`",
                ("methods",),
            )
        for name in sections:
            if name not in METHODS:
                raise self.placed(
                    f"`methods` names {name!r}, which is no method",
                    suggest(str(name), list(METHODS), "opsd train --help"),
                    ("methods", name),
                )
        return merge(tree, sections.get(method, {}) if isinstance(method, str) else {})

    def placed(self, message: str, hint: str, location: Location) -> ConfigError:
        if self.file is None:
            return ConfigError(message, hint)
        return ConfigError(f"{_named(self.file, line_of(self.file, location))}: {message}", hint)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Tree:
    """`over` merged into `base` key by key, nested mappings too; `over` wins."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def layers_of(config: str) -> list[Layer]:
    """The layers of a `--config` argument: a preset's, or a file's over its `preset`'s.

    Raises:
        ConfigError: it is neither, the file is empty or cannot be read, or its preset does not
            exist.
    """
    if config in preset_names():
        return preset_layers(config)
    path = Path(config)
    if path.suffix not in (".yaml", ".yml") and not path.exists():
        raise ConfigError(
            f"{config!r} is neither a preset nor a file",
            suggest(config, preset_names(), "opsd presets"),
        )
    tree = read_tree(path)
    if not tree:
        raise ConfigError(
            f"{path} holds no config key",
            "write lines like `seed: 1`, or leave out --config for the embedded model's preset",
        )
    file = Layer(tree, path)
    preset = tree.pop("preset", None)
    try:
        below = preset_layers(preset)
    except ConfigError as error:
        raise file.placed(error.message, error.hint, ("preset",)) from error
    return [*below, file]


def preset_layers(name: str | None) -> list[Layer]:
    """The layers of a preset, those that it builds on first; none for None.

    Raises:
        ConfigError: there is no such preset.
    """
    return [Layer(tree, name=f"preset {name}") for tree in preset_trees(name)]


def place_of(
    location: Sequence[str | int], layers: Sequence[Layer], method: Any
) -> tuple[int, int, str]:
    """Where a key is set: the layer's number, the line, and both in words ("mine.yaml, line 3").

    The words are empty for a key that no file sets.
    """
    for length in range(len(location), 0, -1):
        wanted = tuple(location[:length])
        for number in range(len(layers) - 1, -1, -1):
            layer = layers[number]
            for path in (("methods", str(method), *wanted), wanted):
                if not _holds(layer.tree, path):
                    continue
                if layer.file is None:
                    return number, 0, ""
                line = line_of(layer.file, path)
                return number, line, _named(layer.file, line)
    return len(layers), 0, ""


def _named(file: Path, line: int) -> str:
    return f"{file}, line {line}" if line else str(file)


def _holds(tree: Any, path: Location) -> bool:
    for part in path:
        if isinstance(tree, Mapping):
            part = next((key for key in tree if key == part or str(key) == part), part)
        try:
            tree = tree[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def line_of(file: Path, location: Location) -> int:
    """The line of a file, counted from 1, that sets a key or what contains it; 0 if unknown."""
    try:
        with file.open(encoding="utf-8") as opened:
            root = compose(opened.read(LONGEST_TEXT))
    except (OSError, ValueError, YAMLError, RecursionError):
        return 0
    lines = dict(_lines(root))
    parts = tuple(map(str, location))
    return next((lines[parts[:n]] for n in range(len(parts), 0, -1) if parts[:n] in lines), 0)


def _lines(root: Any) -> Iterator[tuple[tuple[str, ...], int]]:
    """The line of each key and list item, by its path."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), root)]
    for _ in range(_MOST_PLACES):
        if not waiting:
            return
        path, node = waiting.pop()
        if not isinstance(getattr(node, "value", None), list):
            continue
        for number, item in enumerate(node.value):
            key, value = item if isinstance(item, tuple) else (None, item)
            name = str(number) if key is None else str(key.value)
            yield (*path, name), (value if key is None else key).start_mark.line + 1
            waiting.append(((*path, name), value))
