"""The flags and help of `opsd data` and `opsd presets`, which list and print.

As in `opsd_cli.cli.commands`, a body is imported when its command runs.
"""

from __future__ import annotations

import typer

from opsd_cli.cli import options


def data(context: typer.Context, json: options.Json = False) -> None:
    """List the data sets and benchmarks that opsd knows by name."""
    from opsd_cli.cli import data

    if context.invoked_subcommand is None:
        data.show_all(json)


def data_show(
    name: options.SetName,
    train: options.TrainingSet = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Print a set's description as YAML, to read or to copy and change."""
    from opsd_cli.cli import data

    data.show(name, train, json)


def data_check(
    source: options.CheckedSet,
    config: options.Config = None,
    set_: options.Set = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Look for answers that contradict their solutions or cannot be graded.

    Answers and columns are read as `opsd train` reads them (--set data.columns.answer=COLUMN).
    What is found is listed with row numbers, and is no error.

    [dim]opsd data check problems.jsonl[/dim]
    """
    from opsd_cli.cli import data_check
    from opsd_cli.cli.console import Output

    data_check.run(source, tuple(config or ()), tuple(set_ or ()), Output(json, quiet))


def presets(context: typer.Context, json: options.Json = False) -> None:
    """List the presets."""
    from opsd_cli.cli import presets

    if context.invoked_subcommand is None:
        presets.show_all(json)


def presets_show(name: options.PresetName) -> None:
    """Print a preset's file."""
    from opsd_cli.cli import presets

    presets.show(name)


def presets_copy(name: options.PresetName, file: options.CopyTo = None) -> None:
    """Copy a preset to a file of your own, to edit and pass to --config."""
    from opsd_cli.cli import presets

    presets.copy(name, file)


def presets_keys(word: options.KeyWord = None, json: options.Json = False) -> None:
    """List every config key, or those that have a word, with default, allowed values, meaning."""
    from opsd_cli.cli import presets

    presets.keys(word, json)


def presets_schema() -> None:
    """Print a JSON schema of config files, for editors (see docs/config.md)."""
    from opsd_cli.cli import presets

    presets.schema()


def data_list(json: options.Json = False) -> None:
    """The same as `opsd data` alone."""
    from opsd_cli.cli import data

    data.show_all(json)


def presets_list(json: options.Json = False) -> None:
    """The same as `opsd presets` alone."""
    from opsd_cli.cli import presets

    presets.show_all(json)
