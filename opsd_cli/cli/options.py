"""Flags that several commands share, written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def _backends() -> list[str]:
    """What `--backend` takes; nothing where the registry is not ours, which `main` refuses."""
    from opsd_cli.errors import UsageError
    from opsd_cli.processes import import_check

    try:
        import_check.require_own_backends()
    except UsageError:
        return []
    import backends

    return list(backends.choices())


def _presets() -> list[str]:
    from opsd_cli.config.presets import preset_names

    return preset_names()


def _benchmarks() -> list[str]:
    from opsd_cli.problems.catalog import BENCHMARKS

    return ["embedded", *BENCHMARKS]


def _sets() -> list[str]:
    from opsd_cli.problems.catalog import BENCHMARKS, TRAINING

    return [*BENCHMARKS, *TRAINING]


def _keys(incomplete: str) -> list[str]:
    from opsd_cli.config.schema import key_paths

    return [f"{path}=" for path, _ in key_paths() if path.startswith(incomplete)]


Config = Annotated[
    str | None,
    typer.Option(
        "--config", "-c", metavar="FILE|PRESET", autocompletion=_presets,
        help="A YAML file, or a preset (see `opsd presets`).",
    ),
]  # fmt: skip
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-s", metavar="KEY=VALUE", autocompletion=_keys,
        help="Change one config key; repeatable (see `opsd presets keys`).",
    ),
]  # fmt: skip
Backend = Annotated[
    str | None,
    typer.Option(
        "--backend",
        metavar="|".join(_backends()),
        autocompletion=_backends,
        help="Where to run.",
    ),
]
Model = Annotated[
    str | None, typer.Option("--model", metavar="MODEL", help="`embedded`, a folder, or a hub id.")
]
Adapter = Annotated[
    str | None,
    typer.Option(
        "--adapter", metavar="DIR", help="A LoRA adapter's folder, or a run's (its best)."
    ),
]
Trust = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Run model code that comes with the weights."),
]
Log = Annotated[
    list[str] | None,
    typer.Option(
        "--log", metavar="trackio|wandb|tensorboard", help="Copy metrics there; repeatable."
    ),
]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="DIR", help="Where to write; a new directory.")
]
Seed = Annotated[int | None, typer.Option("--seed", help="Everything random derives from it.")]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON object on standard output, the rest on error.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show what would be done; write and run nothing.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only results and errors.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, help="Use only the first so many problems.")
]
