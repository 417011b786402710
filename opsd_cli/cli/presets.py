"""`opsd presets`: list them, show one, copy one, list every key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from opsd_cli.cli.console import Output
from opsd_cli.config.presets import preset_names, preset_path
from opsd_cli.config.schema import key_paths
from opsd_cli.config.yaml_files import write_new


def summary(name: str) -> str:
    """A preset's first comment line."""
    return preset_path(name).read_text(encoding="utf-8").splitlines()[0].lstrip("# ")


def show_all(as_json: bool) -> None:
    """List the presets with their summaries."""
    out = Output(as_json)
    summaries = {name: summary(name) for name in preset_names()}
    if not as_json:
        width = max(map(len, summaries))
        for name, text in summaries.items():
            out.exact(f"{name:<{width}}  {text}")
    out.object(summaries)


def show(name: str) -> None:
    """Print a preset's file."""
    Output().exact(preset_path(name).read_text(encoding="utf-8").removesuffix("\n"))


def copy(name: str, file: Path) -> None:
    """Copy a preset to a new file; raises `UsageError` if it exists or cannot be written."""
    text = preset_path(name).read_text(encoding="utf-8")
    write_new(file, text)
    Output().exact(f"copied to {file}; use it with --config {file}")


def keys(as_json: bool) -> None:
    """List every config key with its default and help."""
    listed: dict[str, Any] = {}
    for path, field in key_paths():
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            help_text = " ".join((field.description or "").split())
            default = field.default
            listed[path] = {"default": default, "help": help_text}
    out = Output(as_json)
    if not as_json:
        for path, entry in listed.items():
            out.exact(f"{path} = {json.dumps(entry['default'])}\n    {entry['help']}")
    out.object(listed)
