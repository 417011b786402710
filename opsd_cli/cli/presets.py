"""`opsd presets`: list them, show one, copy one, list every key."""

from __future__ import annotations

import json
from pathlib import Path

from opsd_cli.cli.console import Output
from opsd_cli.config.presets import copy_preset, preset_names, preset_path, preset_summary
from opsd_cli.config.schema import described_keys


def show_all(as_json: bool) -> None:
    """List the presets with their summaries."""
    out = Output(as_json)
    summaries = {name: preset_summary(name) for name in preset_names()}
    if not as_json:
        width = max(map(len, summaries))
        for name, text in summaries.items():
            out.exact(f"{name:<{width}}  {text}")
    out.object(summaries)


def show(name: str) -> None:
    """Print a preset's file."""
    Output().exact(preset_path(name).read_text(encoding="utf-8").removesuffix("\n"))


def copy(name: str, file: Path) -> None:
    """Copy a preset to a new file."""
    copy_preset(name, file)
    Output().exact(f"copied to {file}; use it with --config {file}")


def keys(as_json: bool) -> None:
    """List every config key with its default and help."""
    listed = described_keys()
    out = Output(as_json)
    if not as_json:
        for path, entry in listed.items():
            out.exact(f"{path} = {json.dumps(entry['default'])}\n    {entry['help']}")
    out.object(listed)
