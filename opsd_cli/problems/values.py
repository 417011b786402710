"""What a cell of a row holds, as the text a person would write."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

#: Beyond this power of ten a number keeps its exponent instead of growing zeros.
LARGEST_EXPONENT = 40


class DamagedText(ValueError):
    """A text that is broken; says how."""


def value_at(row: Mapping[str, Any], column: str) -> Any:
    """The value under a column, or under a dotted path into objects; None where there is none."""
    if column in row:
        return row[column]
    head, _, rest = column.partition(".")
    inner = row.get(head)
    return value_at(inner, rest) if rest and isinstance(inner, Mapping) else None


def text_of(value: Any) -> str | None:
    """A value as the text a person would write, stripped; None where it holds no text.

    Nothing is repaired: a text with a NUL in it, bytes that are no UTF-8 and a lone half of a
    surrogate pair, which no tokenizer could take, are damaged. Whole floats lose their ".0" because
    an integer column with a gap often arrives as floats; powers of ten are written out, since a
    grader reads "1e-05" as a product with Euler's number.

    Raises:
        DamagedText: the value is text that is broken.
    """
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    try:
        if isinstance(value, bytes):
            value = value.decode("utf-8")
        if isinstance(value, str):
            value.encode("utf-8")
    except UnicodeError as error:
        raise DamagedText("no valid Unicode") from error
    if isinstance(value, str):
        if "\0" in value:
            raise DamagedText("a NUL")
        return value.strip() or None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return None if value != value else plain_number(repr(value).removesuffix(".0"))
    if isinstance(value, Decimal):
        return plain_number(str(value))
    return None


def plain_number(literal: str) -> str:
    """A number with its exponent written out ("1e-05" -> "0.00001"); otherwise as it stands."""
    try:
        number = Decimal(literal)
    except InvalidOperation:
        return literal
    if "e" not in literal.lower() or abs(number.adjusted()) > LARGEST_EXPONENT:
        return literal
    return format(number, "f")
