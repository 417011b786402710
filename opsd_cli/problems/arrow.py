"""Rows of Arrow tables, which Parquet files and hub data sets both are, as Python values.

Arrow stores text as bytes that it does not check, and converting a batch fails as a whole where one
cell of it is no UTF-8. Then the batch's text is handed over as bytes, so that only rows whose own
cells are broken are lost. pyarrow is imported when it is used: a run on JSONL never pays for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

#: Fields within fields whose dotted names can be asked for.
DEEPEST_NAME = 16


def rows_of(batch: Any) -> Iterator[dict[str, Any]]:
    """The rows of a record batch or table; texts are bytes in a column that holds a broken one.

    Raises:
        UnicodeDecodeError: a broken text in a type that cannot be had as bytes.
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
    """The type with binary in place of text, down to the leaves."""
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


def schema_names(fields: Iterable[Any], deepest: int = DEEPEST_NAME) -> Iterator[str]:
    """The names of a schema's columns, and of the fields inside them with dots."""
    import pyarrow as pa

    for field in fields:
        yield field.name
        if pa.types.is_struct(field.type) and deepest:
            inside = schema_names(field.type, deepest - 1)
            yield from (f"{field.name}.{inner}" for inner in inside)
