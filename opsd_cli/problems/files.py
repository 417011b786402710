"""Problems from JSONL, JSON, CSV and Parquet files, with every value exactly as written.

Answers are compared as text, so a reader that infers types corrupts data silently. The file
builders of `datasets` 5.2 infer types: an answer column of 73, "073" and 0.50 was read as 73, 73
and 0.5; 0.50 alone as 0.5, a 23-digit integer as 1e+23, "2024-01-01" as a timestamp; a CSV line
with a missing field was padded, and lines with an extra field shifted every column by one. They
also treat a path with brackets as a pattern, leave lock files in the user's cache, and import torch
to stream. Text files are therefore read with the standard library, which keeps numbers as their
literals, and Parquet files, whose types are in the file, with pyarrow. Nothing is cached, written
or downloaded.

Text files are decoded as UTF-8, with or without a byte-order mark; errors name the line.
"""

from __future__ import annotations

import contextlib
import csv
import difflib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opsd_cli.domain_files import how_to_make
from opsd_cli.errors import DataError
from opsd_cli.hub import LFS_HINT, first_line, is_lfs_pointer
from opsd_cli.problems import ProblemSet
from opsd_cli.problems.arrow import MAX_NESTING, rows_of, schema_names
from opsd_cli.problems.cells import NumberText, plain_number
from opsd_cli.problems.chats import chat_rows, with_chat_columns
from opsd_cli.problems.columns import build, choose
from opsd_cli.problems.selection import Selection

PARQUET_BATCH_ROWS = 1024
#: Files that the hint for a missing one lists.
SIBLINGS = 5


@dataclass(frozen=True)
class Table:
    """A table whose rows are read on demand.

    Attributes:
        names: its columns, nested fields included as dotted names.
        rows: reads the rows, given the columns that are needed; other columns may be skipped.
    """

    names: Sequence[str]
    rows: Callable[[Iterable[str]], Iterable[Mapping[str, Any]]]


def load_file(
    path: str | Path,
    columns: Mapping[str, str | None] | None = None,
    *,
    need_solution: bool | None,
    need_answer: bool,
    limit: int | None = None,
    selection: Selection | None = None,
    fields: Sequence[str] = (),
    required: Sequence[str] = (),
) -> ProblemSet:
    """Read problems from a file; its suffix determines the format.

    Args:
        path: .jsonl, .json (a list of objects, or an object that holds just one such list), .csv
            (comma-separated, first line the header) or .parquet.
        columns: the column mapping, role (question, solution, answer, id) -> column name or dotted
            path to a nested field. For roles left out the recognised names are tried.
        need_solution, need_answer: leave out, and count, rows without one. `need_solution=None`
            requires solutions only if the file has a column for them.
        limit: maximum number of problems.
        selection: which rows are used; by default all.
        fields: more columns, whose values the problems keep.
        required: those of them without whose value a row is left out, and counted.

    Returns:
        The set, named after the file, with its load report.

    Raises:
        DataError: the file cannot be read in the format of its suffix, lacks a column, or has no
            usable row.
        UsageError: limit below 1.
    """
    path = Path(path).expanduser()
    return problems_of(
        open_file(path), path.name, columns, need_solution=need_solution, need_answer=need_answer,
        limit=limit, selection=selection, fields=fields, required=required,
    )  # fmt: skip


def problems_of(
    table: Table,
    name: str,
    columns: Mapping[str, str | None] | None,
    *,
    need_solution: bool | None,
    need_answer: bool,
    limit: int | None,
    selection: Selection | None,
    fields: Sequence[str] = (),
    required: Sequence[str] = (),
) -> ProblemSet:
    """The problems in a table; arguments and errors as for `load_file`."""
    chosen = choose(
        table.names, columns, name=name, need_solution=bool(need_solution),
        need_answer=need_answer, selection=selection, fields=fields,
    )  # fmt: skip
    wanted = {*chosen.values(), *fields, *(selection.columns if selection else ())}
    return build(
        table.rows(wanted),
        chosen,
        name=name,
        need_solution="solution" in chosen if need_solution is None else need_solution,
        need_answer=need_answer,
        limit=limit,
        selection=selection,
        fields=fields,
        required=required,
    )


def open_file(path: Path) -> Table:
    """Open a file as a table.

    Raises:
        DataError: there is no such file, or it cannot be read in the format of its suffix.
    """
    if not path.exists():
        raise DataError(f"there is no file {str(path)!r}", _instead_of(path))
    if not path.is_file():
        raise DataError(f"{str(path)!r} is not a file", "name one file of problems")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"cannot tell the format of {path.name} from its suffix {path.suffix!r}",
            f"problems are read from {', '.join(READERS)}",
        )
    return with_chats(reader(path))


def _instead_of(path: Path) -> str:
    """A hint for a file that does not exist: one of nearly its name, or those that are there."""
    if (made := how_to_make(path)) is not None:
        return made
    if path.parts[0] in ("http:", "https:"):
        return "download it, and name the file; data sets on the hub are named ORG/NAME"
    folder = path.parent
    if not folder.is_dir():
        here = Path(path.name)
        return f"did you mean {path.name!r}?" if here.is_file() else f"there is no folder {folder}"
    there = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in READERS)
    stems = {Path(name).stem.casefold(): name for name in there}
    close = difflib.get_close_matches(path.stem.casefold(), stems, n=1, cutoff=0.7)
    if close:
        return f"did you mean {str(folder / stems[close[0]])!r}?"
    if not there:
        return "check the path"
    more = f" and {len(there) - SIBLINGS} more" if len(there) > SIBLINGS else ""
    return f"the files of problems there: {', '.join(there[:SIBLINGS])}{more}"


def with_chats(table: Table) -> Table:
    """The table with columns for the turns of its chats, if it holds any."""
    names = with_chat_columns(table.names)
    if len(names) == len(table.names):
        return table
    return Table(names, lambda wanted: chat_rows(table.rows(list(wanted)), list(wanted)))


def _read_jsonl(path: Path) -> Table:
    return _objects(path, _parsed_lines(path, _text(path)), "line")


def _read_json(path: Path) -> Table:
    text = _text(path)
    try:
        value = _parse(text)
    except RecursionError as error:
        raise DataError(f"{path.name} is nested too deeply", "give flat objects") from error
    except json.JSONDecodeError as error:
        # JSON Lines files are often named .json as well.
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            return _objects(path, _parsed_lines(path, text), "line")
        raise _broken(path, error.lineno, error) from error
    if isinstance(value, dict):
        lists = [v for v in value.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
        value = lists[0] if len(lists) == 1 else None
    if not isinstance(value, list):
        raise DataError(
            f"{path.name} is not a list of objects",
            "write [{...}, {...}], or an object that holds just one such list",
        )
    return _objects(path, enumerate(value, start=1), "item")


def _read_csv(path: Path) -> Table:
    text = _text(path)
    # Worked solutions exceed the default limit of 131,072 characters a field, a global of csv.
    limit = csv.field_size_limit(len(text) + 1)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[dict[str, str]] = []
    try:
        header = [cell.strip() for cell in next(reader)]
        # A column without a name is the index that pandas writes; no mapping can name it.
        names = [name for name in header if name]
        for name in names:
            if names.count(name) > 1:
                raise DataError(
                    f"{path.name} has two columns {name!r}",
                    "the first line must give each column a name of its own",
                )
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{path.name} line {reader.line_num} has {len(cells)} fields "
                    f"where the header has {len(header)}",
                    'put fields that hold commas or line breaks in double quotes: "a, b"',
                )
            rows.append(dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise DataError(
            f"{path.name} line {reader.line_num} is not valid CSV: {error}",
            'close every quoted field, and double the quotes inside: "say ""yes"""',
        ) from error
    finally:
        csv.field_size_limit(limit)
    return Table(names, lambda _: rows)


def _read_parquet(path: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def unreadable(error: Exception) -> DataError:
        with contextlib.suppress(OSError), path.open("rb") as file:
            if is_lfs_pointer(file.read(64)):
                return _pointer(path)
        return DataError(
            f"{path.name} cannot be read as Parquet: {first_line(error)}",
            "the file may be cut short or of another format; fetch or write it again",
        )

    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(error) from error

    def rows(columns: Iterable[str]) -> Iterator[dict[str, Any]]:
        wanted = {c if c in schema.names else c.partition(".")[0] for c in columns}
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(PARQUET_BATCH_ROWS, columns=sorted(wanted)):
                    yield from rows_of(batch)
        except (pa.ArrowException, OSError, UnicodeDecodeError, RecursionError) as error:
            raise unreadable(error) from error

    return Table(list(schema_names(schema)), rows)


#: Suffix -> reader; each raises DataError for a file that it cannot read.
READERS: dict[str, Callable[[Path], Table]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _pointer(path: Path) -> DataError:
    return DataError(f"{path.name} is a Git LFS pointer, not the file itself", LFS_HINT)


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot read {str(path)!r}: {error.strerror}", "check the file's permissions"
        ) from error
    if is_lfs_pointer(data):
        raise _pointer(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path.name} line {line} is not UTF-8 (byte 0x{data[error.start]:02x})",
            "save the file in UTF-8",
        ) from error
    if not text.strip():
        raise DataError(f"{path.name} is empty", "give a file with at least one problem")
    return text


def _parse(text: str) -> Any:
    """Parse JSON, keeping numbers as the text they are written in, and NaN as null."""
    return json.loads(
        text,
        parse_int=NumberText,
        parse_float=lambda literal: NumberText(plain_number(literal)),
        parse_constant=lambda name: None if name == "NaN" else name,
    )


def _parsed_lines(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    # splitlines() would also break at characters that JSON strings may contain.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, _parse(line)
            except RecursionError as error:
                raise DataError(
                    f"{path.name} line {number} is nested too deeply", "give flat objects"
                ) from error
            except json.JSONDecodeError as error:
                raise _broken(path, number, error) from error


def _broken(path: Path, line: int, error: json.JSONDecodeError) -> DataError:
    return DataError(
        f"{path.name} line {line} is not valid JSON: {error.msg} at column {error.colno}",
        "each line must hold one whole object" if path.suffix == ".jsonl" else "mend that line",
    )


def _objects(path: Path, items: Iterable[tuple[int, Any]], unit: str) -> Table:
    """Parsed objects as a table; its columns are all their keys, in order of appearance."""
    rows: list[dict[str, Any]] = []
    names: dict[str, None] = {}
    for number, item in items:
        if not isinstance(item, dict):
            raise DataError(
                f"{path.name} {unit} {number} is not an object", 'write {"question": ..., ...}'
            )
        names.update(dict.fromkeys(_field_names(item)))
        rows.append(item)
    return Table(list(names), lambda _: rows)


def _field_names(item: Mapping[str, Any], depth: int = MAX_NESTING) -> Iterator[str]:
    for name, value in item.items():
        yield name
        if isinstance(value, dict) and depth:
            yield from (f"{name}.{inner}" for inner in _field_names(value, depth - 1))
