"""The presets that ship with opsd: one YAML file per recipe in `configs/`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from opsd_cli.config.explain import shown, suggest
from opsd_cli.config.yaml_files import read_tree, write_new
from opsd_cli.errors import ConfigError


def preset_folder() -> Path:
    """`configs/` inside an installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def preset_names() -> list[str]:
    """Names of all presets, sorted."""
    return sorted(path.stem for path in preset_folder().glob("*.yaml"))


def preset_path(name: str) -> Path:
    """The file of a preset; raises `ConfigError` for an unknown name."""
    if not isinstance(name, str):
        raise ConfigError(f"`preset` is {shown(name)}, not a name", "see `opsd presets`")
    path = preset_folder() / f"{name}.yaml"
    if name not in preset_names():
        raise ConfigError(
            f"there is no preset {name!r}", suggest(name, preset_names(), "opsd presets")
        )
    return path


def preset_summary(name: str) -> str:
    """A preset's first comment line."""
    return preset_path(name).read_text(encoding="utf-8").splitlines()[0].lstrip("# ")


def copy_preset(name: str, file: Path) -> None:
    """Copy a preset to a new file; raises `UsageError` if it exists or cannot be written."""
    write_new(file, preset_path(name).read_text(encoding="utf-8"))


def preset_trees(name: str | None) -> list[dict[str, Any]]:
    """A preset's mapping after those of the presets that it builds on; empty for None."""
    if name is None:
        return []
    tree = read_tree(preset_path(name))
    return [*preset_trees(tree.pop("preset", None)), tree]
