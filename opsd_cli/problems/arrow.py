"""Rows of Arrow tables as Python values, for Parquet files and hub data sets.

Arrow does not check the bytes of its text columns, and one cell of invalid UTF-8 makes the
conversion of its whole batch fail. The text of that batch is then returned as bytes, so that only
the rows with invalid cells are lost. pyarrow is imported when it is used: reading JSONL does not
load it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

#: Maximum depth of nested fields that get a dotted name.
MAX_NESTING = 16


def rows_of(batch: Any) -> Iterator[dict[str, Any]]:
    """The rows of a record batch or table; a column with invalid UTF-8 gives bytes, not text.

    Raises:
        UnicodeDecodeError: invalid UTF-8 in a type that cannot be cast to bytes.
    """
    try:
        yield from batch.to_pylist()
        return
    except UnicodeDecodeError:
        pass
    columns = {name: _values(batch.column(name)) for name in batch.schema.names}
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def _values(column: Any) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        values = column.cast(_as_bytes(column.type)).to_pylist()
    return values


def _as_bytes(kind: Any) -> Any:
    """The Arrow type with binary in place of text, at every level of nesting."""
    import pyarrow as pa

    types = pa.types
    if types.is_string(kind):
        return pa.binary()
    if types.is_large_string(kind):
        return pa.large_binary()
    if types.is_dictionary(kind):
        return _as_bytes(kind.value_type)
    if types.is_struct(kind):
        return pa.struct([field.with_type(_as_bytes(field.type)) for field in kind])
    if types.is_large_list(kind):
        return pa.large_list(_as_bytes(kind.value_type))
    if types.is_list(kind):
        return pa.list_(_as_bytes(kind.value_type))
    return kind


def schema_names(fields: Iterable[Any], depth: int = MAX_NESTING) -> Iterator[str]:
    """The names of a schema's columns, and the dotted names of the fields nested in them."""
    import pyarrow as pa

    for field in fields:
        yield field.name
        if pa.types.is_struct(field.type) and depth:
            inside = schema_names(field.type, depth - 1)
            yield from (f"{field.name}.{inner}" for inner in inside)
