"""`opsd data`: the catalogued sets and benchmarks, and the description of one as YAML."""

from __future__ import annotations

import io
from typing import Any

from opsd_cli.cli.console import Output
from opsd_cli.errors import DataError
from opsd_cli.problems.catalog import BENCHMARKS, TRAINING
from opsd_cli.problems.set_description import SetDescription


def show_all(as_json: bool) -> None:
    """Show the sets to train on and the benchmarks."""
    out = Output(as_json)
    if not as_json:
        from rich.table import Table

        for heading, entries, use in (
            ("To train on", TRAINING, "opsd train --set data.train=NAME"),
            ("Benchmarks", BENCHMARKS, "opsd eval --benchmark NAME,NAME"),
        ):
            table = Table(
                title=f"{heading} ({use})", title_justify="left", box=None, padding=(0, 2, 0, 0)
            )
            for column in ("name", "what", "licence"):
                table.add_column(column, overflow="fold", no_wrap=column == "name")
            for name, entry in entries.items():
                table.add_row(name, entry.title, entry.licence)
            out.show(table, "")
        out.show(
            "Nothing is downloaded until it is used. `opsd data show NAME` prints where a set is, "
            "its columns and cautions, as a YAML file that you can copy and change: "
            "--benchmark mine.yaml, or --set data.train=mine.yaml."
        )
    out.object(
        {
            "training": {name: _object(entry) for name, entry in TRAINING.items()},
            "benchmarks": {name: _object(entry) for name, entry in BENCHMARKS.items()},
        }
    )


def show(name: str, train: bool, as_json: bool) -> None:
    """Show an entry as YAML: the benchmark of that name, or with `train` the set to train on.

    Raises:
        DataError: there is none.
    """
    key = name.casefold()
    if key not in BENCHMARKS and key not in TRAINING:
        import difflib

        close = difflib.get_close_matches(key, [*BENCHMARKS, *TRAINING], n=1)
        hint = f"did you mean {close[0]!r}?" if close else "see `opsd data`"
        raise DataError(f"there is no catalogued set {name!r}", hint)
    if train and key not in TRAINING:
        raise DataError(f"{name} is a benchmark, not a set to train on", "leave out --train")
    use = "to train on" if train or key not in BENCHMARKS else "benchmark"
    entry = (TRAINING if use == "to train on" else BENCHMARKS)[key]
    out = Output(as_json)
    if not as_json:
        out.exact(f"# {name}, {use}")
        if use == "benchmark" and key in TRAINING:
            out.exact(f"# to train on: opsd data show {name} --train")
        out.exact(_yaml(entry).removesuffix("\n"))
    out.object({"use": use, **_object(entry)})


def _object(entry: SetDescription) -> dict[str, Any]:
    return entry.model_dump(mode="json")


def _yaml(entry: SetDescription) -> str:
    from ruamel.yaml import YAML

    tree = entry.model_dump(mode="json", exclude_defaults=True)
    text = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 96
    yaml.dump(tree, text)
    return text.getvalue()
