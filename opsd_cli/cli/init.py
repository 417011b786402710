"""`opsd init`: its flags, and what it shows of the config that it writes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opsd_cli import typed_settings
from opsd_cli.cli.console import Output
from opsd_cli.config.json_schema import SCHEMA_FILE, modeline
from opsd_cli.config.yaml_files import refuse_existing, write_new
from opsd_cli.embedded import EMBEDDED
from opsd_cli.errors import UsageError
from opsd_cli.planning.first_config import first_config

#: The config that is written where no name is given.
FILE = Path("opsd.yaml")


def run(
    file: Path | None,
    other: Path | None,
    model: str | None,
    data: str | None,
    assignments: Sequence[str],
    flags: Mapping[str, Any],
    dry_run: bool,
    out: Output,
) -> None:
    """Write a config for a model and data; with `dry_run`, print it.

    Args:
        file, other: the config to write, as the argument and as `--out` name it; by default
            `FILE`.

    Raises:
        UsageError: the file exists or cannot be written, or is named twice, or model or data are
            missing.
    """
    if file is not None and other is not None and file != other:
        raise UsageError(f"two configs are named: {file} and --out {other}", "leave out one")
    file = file or other or FILE
    asked = [f" {flag} {shlex.quote(value)}" for flag, value in
             (("--model", model), ("--data", data)) if value is not None]  # fmt: skip
    if model is None and data not in (None, EMBEDDED):
        raise UsageError(
            "--model is missing", f"name a folder or hub id: opsd init --model MODEL --data {data}"
        )
    model = model or EMBEDDED
    if data is None and model != EMBEDDED:
        raise UsageError(
            f"--data is missing: what to train {model} on",
            "name a file of problems, or a set that `opsd data` lists",
        )
    if file.suffix.lower() not in (".yaml", ".yml"):
        raise UsageError(f"{file} is no name of a config", "end it in .yaml")
    refuse_existing(file, f"give another name: opsd init OTHER.yaml{''.join(asked)}")
    typed_settings.note(typed_settings.words((), assignments))
    with out.working("reading the model's files and the problems"):
        found = first_config(model, data or EMBEDDED, assignments, flags)
    text = found.text
    if (file.parent / SCHEMA_FILE).is_file():
        text = f"# {modeline()}\n{text}"
    if dry_run:
        out.show(text.rstrip())
    else:
        write_new(file, text)
    for note in found.notes:
        out.note(note)
    for warning in found.warnings:
        out.warn(warning)
    if dry_run:
        out.show("nothing was written")
    else:
        out.show(f"wrote {file}; train with: opsd train --config {file}")
    config = json.loads(found.config.model_dump_json())
    written = None if dry_run else str(file)
    told = {"notes": found.notes, "warnings": found.warnings}
    out.object({"file": written, "config": config, **found.facts, **told})
