"""`opsd presets`: list them, show one, copy one, list every key, print the schema."""

from __future__ import annotations

import json
from pathlib import Path

from opsd_cli.cli.console import Output
from opsd_cli.config.explain import suggest
from opsd_cli.config.json_schema import json_schema
from opsd_cli.config.presets import copy_preset, preset_names, preset_path, preset_summary
from opsd_cli.config.reference import allowed_values
from opsd_cli.config.schema import described_keys
from opsd_cli.errors import UsageError


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


def copy(name: str, file: Path | None) -> None:
    """Copy a preset to a new file, by default of its own name in the current folder."""
    file = file or Path(f"{name}.yaml")
    copy_preset(name, file)
    Output().exact(f"copied to {file}; use it with --config {file}")


def schema() -> None:
    """Print a JSON schema of config files."""
    Output().exact(json.dumps(json_schema(), indent=2, ensure_ascii=False))


def keys(word: str | None, as_json: bool) -> None:
    """List config keys with default, allowed values and help.

    Args:
        word: list only keys that have it in their name or help text.

    Raises:
        UsageError: no key has the word.
    """
    values = allowed_values()
    listed = {path: entry | values[path] for path, entry in described_keys().items()}
    if word is not None:
        sought = word.lower()
        found = {
            path: entry
            for path, entry in listed.items()
            if sought in path or sought in entry["help"].lower()
        }
        if not found:
            raise UsageError(
                f"no config key has {word!r} in its name or description",
                suggest(word, list(listed), "opsd presets keys"),
            )
        listed = found
    out = Output(as_json)
    if not as_json:
        for path, entry in listed.items():
            allowed = ", ".join(part for part in (entry["type"], entry["bounds"]) if part)
            default = json.dumps(entry["default"])
            out.exact(f"{path} = {default}\n    {allowed}\n    {entry['help']}")
    out.object(listed)
