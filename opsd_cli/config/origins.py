"""Which settings of a config differ from the defaults, and where each of them is from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opsd_cli.config.layers import place_of
from opsd_cli.config.resolve import layers_given
from opsd_cli.config.schema import Config, key_paths


@dataclass(frozen=True)
class Setting:
    """A config key whose value is not the default.

    Attributes:
        origin: "preset embedded", "mine.yaml, line 3", "--set" or "a flag"; empty where the value
            was derived, as the model of an adapter is.
    """

    key: str
    value: Any
    origin: str


def changed_settings(
    config: Config,
    names: Sequence[str] = (),
    assignments: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> list[Setting]:
    """The settings of a config that differ from the defaults, in the order of the schema.

    Args:
        config: what the rest resolves to.
        names, assignments, flags: as `opsd_cli.config.resolve.resolve` takes them.
    """
    layers, _ = layers_given(names, assignments, flags)
    found = []
    values, defaults = config.model_dump(mode="json"), Config().model_dump(mode="json")
    keys = [key for key, _ in key_paths()]
    sections = {key.rpartition(".")[0] for key in keys}
    for key in keys:
        if key in sections:
            continue
        path = key.split(".")
        value = _at(values, path)
        if value == _at(defaults, path):
            continue
        if _at(flags, path) is not None:
            origin = "a flag"
        else:
            number, _, words = place_of(path, layers, config.method)
            origin = words or (layers[number].name if number < len(layers) else "")
        found.append(Setting(key, value, origin))
    return found


def _at(tree: Any, path: Sequence[str]) -> Any:
    """The value at a path of nested mappings; None where there is none."""
    for part in path:
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree
