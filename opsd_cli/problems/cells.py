"""Cell values of a row as text, in the form a person would write them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

#: Numbers with a larger power of ten keep their exponent instead of getting that many zeros.
MAX_EXPONENT = 40


class DamagedText(ValueError):
    """A text with a NUL or invalid Unicode; the message says which."""


class NumberText(str):
    """A number of a JSON file as it is written: text, that is known to have been a number."""

    __slots__ = ()


def value_at(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column, or of a dotted path into nested objects; None if there is none."""
    if column in row:
        return row[column]
    head, _, rest = column.partition(".")
    inner = row.get(head)
    return value_at(inner, rest) if rest and isinstance(inner, Mapping) else None


def text_of(value: Any) -> str | None:
    """A value as stripped text; None if it is null, blank, an object or a list of several items.

    Damaged text is not repaired. Whole floats lose their ".0", because an integer column with a
    missing value often arrives as floats. Exponents are written out, because a grader reads "1e-05"
    as a product with Euler's number.

    Raises:
        DamagedText: the text has a NUL, invalid UTF-8, or half of a surrogate pair, which no
            tokenizer accepts.
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


def json_value(value: Any) -> Any:
    """A value as JSON holds it: text, a number, a truth value, null, or lists and objects of them.

    `NumberText` and decimals become numbers, and values of other types (dates, say) their text.

    Raises:
        DamagedText: as `text_of`, for any text in it.
    """
    if isinstance(value, Mapping):
        return {str(key): json_value(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(inner) for inner in value]
    if isinstance(value, (NumberText, Decimal)):
        number = Decimal(value)
        whole = number.is_finite() and number == number.to_integral_value()
        return int(number) if whole and abs(number.adjusted()) <= MAX_EXPONENT else float(number)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (str, bytes)):
        text_of(value)  # checks it
        return value.decode("utf-8") if isinstance(value, bytes) else value
    return str(value)


def field_text(value: Any) -> str | None:
    """A value of `Problem.fields` as text for a prompt; None if it is null, blank or empty.

    A list of plain values has one on each line, and an object is written as JSON.
    """
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False) if value else None
    if isinstance(value, list | tuple):
        lines = [text for each in value if (text := field_text(each)) is not None]
        return "\n".join(lines) or None
    return text_of(value)


def plain_number(literal: str) -> str:
    """A number with its exponent written out ("1e-05" -> "0.00001"); any other text unchanged."""
    try:
        number = Decimal(literal)
    except InvalidOperation:
        return literal
    if "e" not in literal.lower() or abs(number.adjusted()) > MAX_EXPONENT:
        return literal
    return format(number, "f")
