"""Rows of a hub data set, read with `datasets`, from its cache where possible.

Nothing is substituted: a missing subset or split is an error that lists those that exist. Offline,
`datasets` takes any revision in its cache; a pinned revision other than the cached one is refused.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from opsd_cli import hub
from opsd_cli.errors import DataError
from opsd_cli.problems.arrow import rows_of, schema_names
from opsd_cli.problems.files import Table, with_chats
from opsd_cli.problems.set_description import SetDescription

BATCH_ROWS = 256


def open_hub_set(description: SetDescription, usual_split: str) -> tuple[Table, str]:
    """Open a hub data set as a table.

    Args:
        description: its id, subset, split and revision.
        usual_split: used if the description names no split and this one exists.

    Returns:
        The table, and the commit that was read.

    Raises:
        DataError: the set cannot be downloaded or read, or has no such subset or split.
    """
    hub.reach()
    name = description.data
    with _quiet():
        import datasets

        try:
            builder = datasets.load_dataset_builder(
                name, description.subset, revision=description.revision
            )
            commit = str(builder.hash or "")
            _require_revision(description, commit)
            builder.download_and_prepare()
            splits = list(builder.info.splits or {})
            split = _split(description, splits, usual_split)
            rows = builder.as_dataset(split)
        except DataError:
            raise
        except Exception as error:
            raise _as_data_error(error, description) from error
    return with_chats(Table(list(schema_names(rows.data.schema)), _reader(rows))), commit


def _reader(rows: Any) -> Any:
    def read(columns: Iterable[str]) -> Iterator[dict[str, Any]]:
        wanted = {c if c in rows.column_names else c.partition(".")[0] for c in columns}
        chosen = rows.select_columns(sorted(wanted))
        for start in range(0, len(chosen), BATCH_ROWS):
            try:
                batch = chosen[start : start + BATCH_ROWS]
            except UnicodeDecodeError:
                yield from rows_of(chosen.with_format("arrow")[start : start + BATCH_ROWS])
                continue
            for values in zip(*batch.values(), strict=True):
                yield dict(zip(batch, values, strict=True))

    return read


def _require_revision(description: SetDescription, commit: str) -> None:
    wanted = description.revision or ""
    pinned = len(wanted) == 40 and all(c in "0123456789abcdef" for c in wanted)
    if pinned and commit != wanted:
        raise DataError(
            f"{description.data} is cached at revision {commit[:12]}, not at {wanted[:12]}, "
            "and the hub cannot be asked",
            "fetch it once with the hub in reach, or name the other revision",
        )


def _split(description: SetDescription, splits: list[str], usual: str) -> str:
    name = description.data
    if description.split is not None:
        if description.split not in splits:
            raise DataError(
                f"{name} has no split {description.split!r}; it has {', '.join(splits)}",
                f"write {name}:{splits[0]}" if splits else "choose another set",
            )
        return description.split
    if usual in splits:
        return usual
    if len(splits) == 1:
        return splits[0]
    raise DataError(
        f"{name} has no split {usual!r}; it has {', '.join(splits)}",
        f"write {name}:{splits[0] if splits else 'SPLIT'}",
    )


def _as_data_error(error: Exception, description: SetDescription) -> DataError:
    name, text = description.data, str(error)
    if "Config name is missing" in text or ("BuilderConfig" in text and "not found" in text):
        found = text.partition("[")[2].partition("]")[0].replace("'", "")
        wrong = f" {description.subset!r}" if description.subset else ""
        return DataError(
            f"{name} has no subset{wrong}; it has {found}"
            if wrong
            else f"{name} has several subsets: {found}",
            f"write {name}:{found.split(',')[0]}:{description.split or 'train'}",
        )
    of_the_hub = hub.as_hub_error(error, name, "data set")
    if of_the_hub is not None:
        assert isinstance(of_the_hub, DataError)
        return of_the_hub
    if "scripts are no longer supported" in text:
        return DataError(
            f"{name} is built by a script of its own, which is not run",
            "fetch its files, and name one",
        )
    if any(word in type(error).__name__ for word in ("EmptyDataset", "DataFilesNotFound")):
        return DataError(f"{name} holds no data files that can be read", "name a file instead")
    reason = next((c for c in hub.causes(error) if c.__cause__ is None), error)
    return DataError(
        f"the data set {name} cannot be read: {hub.first_line(reason)}",
        "run with --debug for the whole story; a JSONL, CSV or Parquet file will do as well",
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """`datasets` without warnings, and without progress bars unless stderr is a terminal."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import datasets

    watched = sys.stderr.isatty()
    bars = datasets.are_progress_bars_disabled()
    level = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(logging.ERROR)
    if not watched:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if not watched and not bars:
            datasets.enable_progress_bars()
